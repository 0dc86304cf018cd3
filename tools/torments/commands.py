"""The commands that write, on tiny models: how each is called, and what it must leave behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tiny_models import CONTEXTS, SENTENCES, build_lm  # noqa: E402

from seqedit.cli.main import app  # noqa: E402
from seqedit.lm.weights import read_weight  # noqa: E402
from seqedit.methods.kinds.hypernetwork import Hypernetwork, save_hypernetwork  # noqa: E402

METHODS = {
    "memit_seq": "0,1",
    "alphaedit": "0,1",
    "memit_rect+with_history+compensated": "0,1",
    "memit_seq+robust_keys": "0,1",
    "lyaplock": "0,1",
    "nse": "0,1",
    "rome": "1",
    "ultraedit": "0,1",
    "mend": "0,1",
    "ft": "1",
    "grace": "1",
}
"""Method → layers: one or more of each kind."""


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        kind: under which it is counted.
        name: of the command, for messages.
        act: does it, writing to the place that it is given; as a command line would end.
        once: its result is never replaced, so that a second call ends with exit code 1.
    """

    kind: str
    name: str
    act: Callable[[Path], object]
    once: bool = False


def command_line(*words: object) -> Callable[[Path], object]:
    """A command line with `--out PLACE` at its end."""
    return lambda out: app([str(word) for word in (*words, "--out", out)])


def prepare(work: Path) -> list[Command]:
    """Make models, requests and texts in a folder; return the commands that work on them."""
    os.environ["SEQEDIT_CACHE"] = str(work / "cache")
    lm = build_lm("gpt2")
    for part in (lm.model, lm.tokenizer):
        part.save_pretrained(work / "model")
    (work / "requests.json").write_text(json.dumps(records()))
    (work / "contexts.json").write_text(json.dumps(CONTEXTS))
    (work / "corpus.txt").write_text("\n".join(SENTENCES * 3))
    (work / "other.txt").write_text("\n".join(SENTENCES[:4]))
    W = read_weight(lm, 0)
    network = Hypernetwork((0, 1), (W.shape[1], W.shape[0]), rank=4, blocks=1, step=1e-2)
    save_hypernetwork(work / "mend.safetensors", network, lm)
    with suppress(SystemExit):  # what a process does once, its forks need not
        edit(work, "memit_seq", "0,1")(work / "first")
    from .after_runs import moments, readers
    from .studies import studies

    return [
        *(Command("edit", name, edit(work, name, layers)) for name, layers in METHODS.items()),
        *moments(work),
        *readers(work),
        *studies(work),
    ]


def records() -> list[dict[str, object]]:
    """Six requests, each a fact of its own."""
    return [
        {
            "case_id": i,
            "prompt": f"The home of {{}}, number {i}, is",
            "subject": f"Danielle {name}",
            "target_new": "Spain",
            "target_true": "Elvinn",
        }
        for i, name in enumerate(("Huciol", "Gamith", "Zoë", "André", "Davin", "Teacher"))
    ]


def edit(work: Path, method: str, layers: str, *more: str) -> Callable[[Path], object]:
    """`seqedit edit` by a method, in three rounds, with more options."""
    words = ["edit", "--model", work / "model", "--requests", work / "requests.json"]
    words += ["--method", method, "--layers", layers, "--batch-size", 2, "--device", "cpu"]
    words += ["--contexts", work / "contexts.json", "--corpus", work / "corpus.txt"]
    words += ["--evaluate-every", 1, *more]
    if method == "mend":
        words += ["--set", f"network={work / 'mend.safetensors'}"]
    if method == "nse":  # its own bounds are those of large models
        words += ["--set", "done_below=1e-6"]
    if not method.startswith(("ultra", "mend")):
        words += ["--set", "steps=4"]
    return command_line(*words)


def in_child(act: Callable[[], object]) -> None:
    """Do something in a process of its own; it must succeed."""
    from .processes import start

    process = start(act)
    if code := process.wait():
        raise RuntimeError(f"exit code {code}: {process.said()}")
