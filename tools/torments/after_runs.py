"""Commands about second moments, and those that read what other commands wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seqedit.lm.load import load_model
from seqedit.lm.weights import read_weight

from .commands import Command, command_line, edit, in_child


def moments(work: Path) -> list[Command]:
    """`seqedit moments` and what it makes of its files, which are made here first."""
    collect = ["moments", "--model", work / "model", "--layers", "0,1", "--device", "cpu"]
    collect += ["--save-every", 20]
    made = [work / f"moments-{i}.safetensors" for i in range(2)]
    for file, text in zip(made, ("corpus.txt", "other.txt"), strict=True):
        in_child(lambda f=file, t=text: command_line(*collect, "--corpus", work / t)(f))
    compact = ["moments", "compact", made[0], "--floor", "1e-6"]
    released = ["moments", "import", _released(work)]
    return [
        Command("moments", "collect", command_line(*collect, "--corpus", work / "corpus.txt")),
        Command("moments", "merge", command_line("moments", "merge", *made), once=True),
        Command("moments", "compact", command_line(*compact), once=True),
        Command("moments", "import", command_line(*released), once=True),
    ]


def _released(work: Path) -> Path:
    """A file of second moments as ROME's authors release them."""
    width = max(read_weight(load_model(work / "model", device="cpu"), 0).shape)
    path = work / "transformer.h.0.mlp.c_proj_float32_mom2_100.npz"
    np.savez(path, **{"mom2.mom2": np.eye(width), "mom2.count": np.array(100)})
    return path


def readers(work: Path) -> list[Command]:
    """Commands that read a finished run, which is made here first, or what was exported of it."""
    model, run = ["--model", work / "model"], work / "run"
    given = [*model, "--edited", run]
    asked, text = ["--requests", work / "requests.json"], work / "corpus.txt"
    in_child(lambda: edit(work, "memit_seq", "0,1", "--undoable")(run))
    in_child(lambda: command_line("export", *given, "--as", "folder")(work / "edited"))
    in_child(lambda: command_line("export", *given, "--as", "factors")(work / "edits.safetensors"))
    revert = ["revert", "--model", work / "edited", "--edits", work / "edits.safetensors"]
    tuned = ["--text", text, "--steps", "0,2", "--batch-size", 2, "--device", "cpu"]
    return [
        *(
            Command("export", form, command_line("export", *given, "--as", form), once=True)
            for form in ("folder", "factors", "adapter")
        ),
        Command("revert", "folder", command_line(*revert), once=True),
        Command(
            "undo",
            "one edit",
            command_line("undo", *given, "--case-id", 3, "--corpus", text),
            once=True,
        ),
        Command("score", "report", command_line("score", *given, *asked)),
        Command("diff", "table", command_line("diff", work / "model", run, *model), once=True),
        Command("survive", "table", command_line("survive", *given, *asked, *tuned)),
    ]
