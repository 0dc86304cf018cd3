"""A folder with everything a run needs, on a tiny model, and the command line called on it."""

import json
from pathlib import Path

from conftest import CONTEXTS, SENTENCES
from typer.testing import CliRunner

from seqedit.cli.main import app
from seqedit.runs.config import RunConfig

RECORDS = [
    {
        "case_id": 0,
        "prompt": "The mother tongue of {} is",
        "subject": "Danielle Darrieux",
        "target_new": "Dutch",
        "target_true": "French",
    },
    {
        "case_id": 1,
        "prompt": "{} plays",
        "subject": "Zoë O'Brien",
        "target_new": "polo",
        "target_true": "the cello",
    },
    {
        "case_id": 2,
        "prompt": "The birthplace of {} is",
        "subject": "Huciol",
        "target_new": "Spain",
        "target_true": "Elvinn",
    },
    {
        "case_id": "3b",
        "prompt": "A teacher in",
        "subject": "teacher",
        "target_new": "the town",
        "target_true": "Łódź",
    },
    {
        "case_id": 4,
        "prompt": "Here comes {}",
        "subject": "André",
        "target_new": "again",
        "target_true": "Zoë",
    },
]
FILES = {"run.json", "rounds.jsonl", "outcomes.jsonl", "scores.jsonl", "weights.safetensors"}
SETTINGS = {"layers": [0, 1], "lam": 0.5, "steps": 4, "lr": 0.3}


class Workspace:
    """Files `requests.json`, `contexts.json`, `corpus.txt` and `hyper.json` in `folder`, and a saved tiny `model`."""

    def __init__(self, folder: Path, model: Path):
        self.folder, self.model, self.out = folder, model, folder / "out"
        self.write("requests.json", RECORDS)
        self.write("contexts.json", CONTEXTS)
        self.write("hyper.json", SETTINGS)
        self.write("corpus.txt", "\n".join(SENTENCES))

    def write(self, name: str, content) -> Path:
        """A file of text, or of JSON where the content is not text."""
        path = self.folder / name
        path.write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
        return path

    def config(self, **changes) -> RunConfig:
        """The same run as `words`, for the engine."""
        given = {
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

    def words(self, command: str = "edit", **changes) -> list[str]:
        """The words of a command line; a change of None leaves an option out, True makes it a flag."""
        options = {"model": self.model, "device": "cpu"}
        if command == "edit":
            options |= {
                name: self.folder / f"{name}.json" for name in ("requests", "contexts", "hyper")
            }
            options |= {
                "corpus": self.folder / "corpus.txt",
                "method": "memit_seq",
                "batch_size": 2,
                "out": self.out,
            }
        words = [command]
        for name, value in (options | changes).items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                words.append(flag)
            elif value is not None:
                for item in value if isinstance(value, list) else [value]:
                    words += [flag, str(item)]
        return words

    def call(self, command: str = "edit", **changes):
        """The command line's result: exit_code, stdout, stderr."""
        return CliRunner().invoke(app, self.words(command, **changes))


def content(out: Path) -> dict[str, bytes]:
    """Everything that must not depend on interruptions: matrices, outcomes and scores."""
    return {
        name: (out / name).read_bytes()
        for name in ("weights.safetensors", "outcomes.jsonl", "scores.jsonl")
    }
