"""Torments every command that writes, on tiny models, and says what was survived.

    python tools/torture.py [--quick] [--only COMMAND]

A trial is survived if the same command, called again, ends in the same bits as one that nothing
happened to, if an error is one line, if nothing is left behind and nothing of others is touched.
The record goes to data/torture.json, and as a table for the book to data/torture.md; with --only,
nowhere. Exit code 1 if a trial was not survived.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
os.environ["TQDM_MONITOR_INTERVAL"] = "0"

from torments.commands import ROOT, Command, prepare  # noqa: E402
from torments.faults import (  # noqa: E402
    Tally,
    Victim,
    damage,
    each,
    full_disk,
    kill,
    no_place,
    twins,
    vanishing,
)
from torments.strategies import strategies  # noqa: E402

from seqedit.base.files import write_json, write_text  # noqa: E402

TIMES = {kill: 10, twins: 1, full_disk: 1, no_place: 1, vanishing: 1, damage: 1}
"""Torment → how often each command suffers it. `damage` is done to every file in five ways, of a
command that was interrupted so often and of one that has ended.
"""
QUICK = {kill: 2, twins: 1, full_disk: 1, no_place: 1, vanishing: 1}
DAMAGED = {"memit_seq", "collect", "train", "memit"}
"""Commands whose files are damaged: those that resume."""


def main() -> int:
    """Torment, print, write the record; the exit code."""
    options = arguments()
    tally, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        work = Path(folder)
        commands = [c for c in prepare(work) if options.only in (None, c.kind, c.name)]
        for command in commands:
            torment(command, work, tally, QUICK if options.quick else TIMES)
            if options.only is None:
                record(tally, started)
        if options.only in (None, "random input"):
            strategies(tally, 20 if options.quick else 200, work)
    print(table(tally) + f"\n{(time.monotonic() - started) / 60:.0f} minutes")
    if options.only is None:
        record(tally, started, complete=not options.quick)
    return int(bool(tally.wounds))


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few trials of each kind")
    parser.add_argument("--only", help="one kind of command, one command, or 'random input'")
    return parser.parse_args()


def torment(command: Command, work: Path, tally: Tally, times: dict) -> None:
    """Let one command suffer everything."""
    print(f"{command.kind} {command.name}", flush=True)
    victim, rng = Victim(command, work), random.Random(f"{command.kind} {command.name}")
    for act, count in times.items():
        if act is not damage or command.name in DAMAGED:
            act(victim, tally, count, rng)


def table(tally: Tally) -> str:
    """Survived and tried, by torment and command, as a Markdown table."""
    rows = ["| torment | command or input | survived | tried |", "|---|---|---|---|"]
    rows += [
        f"| {torment} | {kind} | {survived} | {tried} |"
        for torment, kind, survived, tried in sorted(each(tally))
    ]
    total = sum(tally.survived.values()), sum(tally.tried.values())
    return "\n".join([*rows, f"| all | | {total[0]} | {total[1]} |"])


def record(tally: Tally, started: float, complete: bool = False) -> None:
    """Write the figures so far, which name no place and no machine.

    Args:
        tally: what was counted.
        started: when the first command began.
        complete: all torments were done, in full number.
    """
    rows = [
        dict(zip(("torment", "kind", "survived", "tried"), row, strict=True))
        for row in sorted(each(tally))
    ]
    minutes = round((time.monotonic() - started) / 60)
    content = {"complete": complete, "minutes": minutes, "rows": rows}
    write_json(ROOT / "data" / "torture.json", content)
    remark = "" if complete else "\nThis run was a short one, or did not come to its end.\n"
    write_text(ROOT / "data" / "torture.md", table(tally) + "\n" + remark)


if __name__ == "__main__":
    sys.exit(main())
