"""What the tests of the command line and of runs share: a folder with everything `seqedit edit` takes."""

import json
from dataclasses import dataclass
from pathlib import Path

from click.testing import Result
from conftest import CONTEXTS, build_lm, build_plan
from typer.testing import CliRunner

from seqedit.cli import app
from seqedit.files import save_tensors, write_json
from seqedit.lm.load import LanguageModel
from seqedit.lm.statistics import fingerprint

NAMES = ("Danielle Darrieux", "Thomas Joannes Stieltjes", "Zoë O'Brien", "Huciol Davindrar", "Gamith Yudrashanr", "André")
WORDS = ("Dutch", "polo", "basketball", "Spain", "French", "chemist", "the cello")


def records(count: int = 6) -> list[dict]:
    """Requests in CounterFact's schema about distinct subjects; targets of one to several tokens."""
    return [{"case_id": i, "requested_rewrite": {
                "prompt": "The mother tongue of {} is", "relation_id": "P103", "subject": f"{NAMES[i % 6]} {i}",
                "target_new": {"str": WORDS[i % 7]}, "target_true": {"str": WORDS[(i + 1) % 7]}},
             "paraphrase_prompts": [f"I heard a song. {NAMES[i % 6]} {i} speaks", f"{NAMES[i % 6]} {i} talks in"],
             "neighborhood_prompts": [f"The mother tongue of {NAMES[(i + n) % 6]} is" for n in (1, 2, 3)],
             "attribute_prompts": [], "generation_prompts": [f"{NAMES[i % 6]} {i} is"]} for i in range(count)]


def save_folder(lm: LanguageModel, folder: Path) -> Path:
    """`lm` as `load_model` takes it."""
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def invoke(*words) -> Result:
    """`seqedit` with these words."""
    return CliRunner().invoke(app, [str(word) for word in words])


def words_of(options: dict) -> list[str]:
    """Keyword arguments as the words of a command line; None leaves an option out, a list repeats it."""
    words = []
    for name, value in options.items():
        option = "--" + name.rstrip("_").replace("_", "-")
        for item in value if isinstance(value, list) else [value]:
            words += [] if item is None else [option] if item is True else [option, str(item)]
    return words


@dataclass(frozen=True)
class Desk:
    """A folder with requests, context templates and second moments for one tiny model, saved there too."""

    folder: Path
    lm: LanguageModel

    @classmethod
    def lay(cls, folder: Path, count: int = 6, model_type: str = "gpt2") -> "Desk":
        lm = build_lm(model_type)
        save_folder(lm, folder / "model")
        write_json(folder / "requests.json", records(count))
        write_json(folder / "contexts.json", CONTEXTS)
        moments = {f"C.{layer}": C.float() for layer, C in build_plan(lm).moments.items()}
        save_tensors(folder / "moments.safetensors", moments, {"fingerprint": fingerprint(lm)})
        return cls(folder, lm)

    def words(self, **options) -> list[str]:
        """An `edit` that works, with options changed; `set_` adds to the settings that keep it short."""
        settings = [*(["lam=0.5"] if options.get("method", "memit").startswith("memit") else []), "steps=4", "lr=0.3",
                    *options.pop("set_", [])]
        options = {"model": self.folder / "model", "requests": self.folder / "requests.json", "method": "memit",
                   "out": self.folder / "out", "contexts": self.folder / "contexts.json", "layers": "0,1",
                   "moments": self.folder / "moments.safetensors", "device": "cpu", "set_": settings} | options
        return ["edit", *words_of(options)]

    def edit(self, **options) -> Result:
        return invoke(*self.words(**options))

    def rewrite(self, change, name: str = "requests.json") -> Path:
        """A copy of the requests with `change(list of records)` made to it."""
        content = json.loads((self.folder / "requests.json").read_text(encoding="utf-8"))
        changed = change(content)
        path = self.folder / f"changed-{name}"
        path.write_text(json.dumps(content if changed is None else changed), encoding="utf-8")
        return path
