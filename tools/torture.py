"""Torments every command that writes, on tiny models, and says what was survived.

    python tools/torture.py [--quick] [--only COMMAND] [--jobs N]

A trial is survived if the same command, called again, ends in the same bits as one that nothing
happened to, if an error is one line, if nothing is left behind and nothing of others is touched.
The record goes to data/torture.json, and as a table for the book to data/torture.md; with --only,
nowhere. Exit code 1 if a trial was not survived.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
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

COMMANDS: list[Command] = []
"""Those that suffer. Processes forked from this one have them, since they cannot be sent there."""


def main() -> int:
    """Torment, print, write the record; the exit code."""
    options = arguments()
    tally, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        work = Path(folder)
        COMMANDS[:] = [c for c in prepare(work) if options.only in (None, c.kind, c.name)]
        times = QUICK if options.quick else TIMES
        fork = get_context("fork")  # everything is imported and made already
        with ProcessPoolExecutor(options.jobs, mp_context=fork) as pool:
            running = {pool.submit(torment, i, work, times): c for i, c in enumerate(COMMANDS)}
            for done in as_completed(running):
                part, seconds = done.result()
                tally.add(part)
                print(f"{running[done].kind} {running[done].name}: {seconds:.0f} s", flush=True)
                if options.only is None:
                    record(tally, started)
        if options.only in (None, "random input"):
            strategies(tally, 20 if options.quick else 200, work)
    print(table(tally) + f"\n{minutes(started)}")
    if options.only is None:
        record(tally, started, complete=not options.quick)
    return int(bool(tally.wounds))


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few trials of each kind")
    parser.add_argument("--only", help="one kind of command, one command, or 'random input'")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    return parser.parse_args()


def torment(number: int, work: Path, times: dict) -> tuple[Tally, float]:
    """Let one of `COMMANDS` suffer everything; what came of it, and the seconds."""
    command, started, tally = COMMANDS[number], time.monotonic(), Tally()
    victim, rng = Victim(command, work), random.Random(f"{command.kind} {command.name}")
    for act, count in times.items():
        if act is not damage or command.name in DAMAGED:
            act(victim, tally, count, rng)
    return tally, time.monotonic() - started


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
    content = {"complete": complete} | minutes(started) | {"rows": rows}
    write_json(ROOT / "data" / "torture.json", content)
    remark = "" if complete else "\nThis run was a short one, or did not come to its end.\n"
    write_text(ROOT / "data" / "torture.md", table(tally) + "\n" + remark)


def minutes(started: float) -> dict[str, int]:
    """How long it has taken, and how long processors were busy with what has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    busy = sum(one.ru_utime + one.ru_stime for one in used)
    return {"minutes": round((time.monotonic() - started) / 60), "cpu_minutes": round(busy / 60)}


if __name__ == "__main__":
    sys.exit(main())
