"""A folder with everything a run needs, on a tiny model, and the command line called on it."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import CONTEXTS, SENTENCES
from typer.testing import CliRunner

from seqedit.cli.main import app
from seqedit.evaluation import report
from seqedit.runs.config import RunConfig

TEXTS = (  # case_id, prompt, subject, new target, true target
    (0, "The mother tongue of {} is", "Danielle Darrieux", "Dutch", "French"),
    (1, "{} plays", "Zoë O'Brien", "polo", "the cello"),
    (2, "The birthplace of {} is", "Huciol", "Spain", "Elvinn"),
    ("3b", "A teacher in", "teacher", "the town", "Łódź"),
    (4, "Here comes {}", "André", "again", "Zoë"),
)
FIELDS = ("case_id", "prompt", "subject", "target_new", "target_true")
RECORDS: list[dict[str, Any]] = [dict(zip(FIELDS, texts, strict=True)) for texts in TEXTS]
TABLES = ("rounds", "outcomes", "scores", "probes")
FILES = {"run.json", "weights.safetensors", *(f"{table}.jsonl" for table in TABLES)}
SETTINGS = {"layers": [0, 1], "lam": 0.5, "steps": 4, "lr": 0.3}


def few_texts(patch: pytest.MonkeyPatch) -> None:
    """Measure twenty held-out texts after a run, which is enough to tell runs apart."""
    every = report._heldout_texts
    patch.setattr(report, "_heldout_texts", lambda world: every(world)[:20])


class Workspace:
    """A folder with requests.json, contexts.json, corpus.txt and hyper.json, beside a saved model.

    Attributes:
        folder: where these files are.
        model: folder of a saved tiny model.
        out: folder for the record of a run, which does not exist at first.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self.out = folder, model, folder / "out"
        self.write("requests.json", RECORDS)
        self.write("contexts.json", CONTEXTS)
        self.write("hyper.json", SETTINGS)
        self.write("corpus.txt", "\n".join(SENTENCES))

    def write(self, name: str, content: Any) -> Path:
        """Write text, or anything else as JSON, into a file of the folder."""
        path = self.folder / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    def config(self, **changes: Any) -> RunConfig:
        """The run that `words` describes, for the engine, with some fields changed."""
        given: dict[str, Any] = {
            "model": str(self.model),
            "requests": self.folder / "requests.json",
            "method": "memit_seq",
            "settings": SETTINGS,
            "batch_size": 2,
            "contexts": self.folder / "contexts.json",
            "corpus": self.folder / "corpus.txt",
            "device": "cpu",
        }
        return RunConfig(**given | changes)

    def words(self, command: str = "edit", **changes: Any) -> list[str]:
        """The words of a command line, with some options changed.

        An option whose value is None is left out, True makes a flag, and a list repeats it.
        """
        options: dict[str, Any] = {"model": self.model, "device": "cpu"}
        if command == "edit":
            for name in ("requests", "contexts", "hyper"):
                options[name] = self.folder / f"{name}.json"
            options |= {"corpus": self.folder / "corpus.txt", "method": "memit_seq"}
            options |= {"batch_size": 2, "out": self.out}
        words = [command]
        for name, value in (options | changes).items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                words.append(flag)
            elif value is not None:
                for item in value if isinstance(value, list) else [value]:
                    words += [flag, str(item)]
        return words

    def call(self, command: str = "edit", **changes: Any):
        """The result of a command line: exit_code, stdout, stderr."""
        return CliRunner().invoke(app, self.words(command, **changes))


def content(out: Path) -> dict[str, bytes]:
    """The files of a record that interruptions must not change: matrices, outcomes and scores."""
    names = ("weights.safetensors", "outcomes.jsonl", "scores.jsonl")
    return {name: (out / name).read_bytes() for name in names}
