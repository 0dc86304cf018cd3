"""Makes and reads the runs of a study: each run a folder of data/results."""

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..base.files import cache_folder, file_digest, write_text
from ..base.paths import MODEL, RESULTS, WORLD
from ..lm.fingerprint import fingerprint
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..runs.engine import run
from ..runs.job import settings_of
from ..runs.records import (
    Record,
    code_digest,
    flat,
    load_run,
    read_run,
)
from .studies import STUDIES, Planned


def planned(study: str, quick: bool = False) -> dict[str, Planned]:
    """run_id → run of a study, or of the one run that is named; a quick study has 4 edits in rounds of 2, one seed,
    and its own names.

    Raises:
        ValueError: there is no such study or run.
    """
    if study not in STUDIES:
        for runs in (planned(name, fast) for name in STUDIES for fast in (False, True)):
            if study in runs:
                return {study: runs[study]}
        raise ValueError(
            f"study: {study!r}; there are {', '.join(STUDIES)}, and their runs, e.g. methods-memit-s1"
        )
    return dict(_named(study, quick))


def _named(study: str, quick: bool) -> list[tuple[str, Planned]]:
    """run_id and run, of all runs of a study; what two studies have in common has the name that the first gave it."""
    names: dict[str, str] = {}
    for name, runs in STUDIES.items():
        found = []
        for one in runs():
            if quick and one.seed > 1:
                continue
            one = replace(one, n_edits=4, batch_size=2, evaluate_every=0) if quick else one
            does = json.dumps(asdict(replace(one, label="")), sort_keys=True)
            found.append(
                (
                    names.setdefault(
                        does, f"{name}-{'quick-' if quick else ''}{one.label}-s{one.seed}"
                    ),
                    one,
                )
            )
        if name == study:
            break
    return found


def run_study(study: str, *, quick: bool = False, jobs: int = 1, out: Path = RESULTS) -> int:
    """Make the runs of a study, or one run by its name, that are not there yet; returns how many were made.

    Every run resumes by itself; the edited matrices are not kept. Each process has one thread, so that records do not
    depend on the number of cores.

    Raises:
        ValueError: a run is there with other parameters than the study has now.
    """
    left = open_runs([study], quick, out)
    make_runs(left, out, jobs, study)
    return len(left)


def make_runs(runs: Mapping[str, Planned], out: Path, jobs: int, title: str) -> None:
    """Make runs, each in the folder of `out` that has its name, so many at a time."""
    bar = tqdm(total=len(runs), desc=title, unit="run", disable=None)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed(
            [pool.submit(_make, one, out / name) for name, one in runs.items()]
        ):
            done.result()
            bar.update()
    bar.close()


def open_runs(
    studies: Iterable[str], quick: bool = False, out: Path = RESULTS
) -> dict[str, Planned]:
    """run_id → run of the studies' runs that are not there yet.

    Raises:
        ValueError: a run is there with other parameters than its study has now; the message names one.
    """
    runs = {name: one for study in studies for name, one in planned(study, quick).items()}
    made = {name: one for name, one in runs.items() if finished(out / name)}
    models = {
        dtype: load_model(MODEL, device="cpu", dtype=getattr(torch, dtype))
        for dtype in {one.dtype for one in made.values()}
    }
    for name, one in made.items():
        found = {"dtype": "float32"} | flat(read_run(out / name)["parameters"])
        now = flat(_told(one, models[one.dtype]))
        if other := [key for key in found if key in now and found[key] != now[key]]:
            raise ValueError(
                f"{name}: is there with {other[0]} = {found[other[0]]}, now its study has "
                f"{now[other[0]]}; remove {out / name} to make it anew"
            )
    return {name: one for name, one in runs.items() if name not in made}


def _told(one: Planned, lm: LanguageModel) -> dict[str, Any]:
    """What the record of a planned run says of it, as far as that is known before the run."""
    config = one.config()
    return {
        "method": config.method,
        "seed": one.seed,
        "n_edits": one.n_edits,
        "evaluate_every": one.evaluate_every,
        "dtype": config.dtype,
        "fingerprint": fingerprint(lm),
        "files": {"requests": file_digest(config.requests)},
        **json.loads(json.dumps(asdict(settings_of(config, lm)))),
    }


def edited_layers(runs: Iterable[Planned]) -> list[int]:
    """The layers whose second moments these runs need, by the tuned settings of their methods."""
    lm = load_model(MODEL, device="cpu")
    return sorted({layer for one in runs for layer in settings_of(one.config(), lm).layers})


def standing(study: str, quick: bool = False, out: Path = RESULTS) -> str:
    """How many runs of a study are there, and how many of them were made by other code than today's."""
    names, today = planned(study, quick), code_digest()
    made = [read_run(out / name) for name in names if finished(out / name)]
    old = sum(record["provenance"]["code"] != today for record in made)
    seconds = sum(record["elapsed"] for record in made)
    return f"{len(made)} of {len(names)} runs, {old} by other code, {seconds / 60:.0f} minutes of one core"


def load_study(study: str, out: Path = RESULTS) -> dict[str, list[Record]]:
    """label → its finished runs by ascending seed; `study` may be a quick one, "methods-quick".

    Raises:
        ValueError: a run is missing; the message says how to make it.
    """
    name, _, quick = study.partition("-")
    found: dict[str, list[Record]] = {}
    for run_id, one in _named(name, bool(quick)):
        if not finished(out / run_id):
            raise ValueError(
                f"{run_id} is not there; make it with `seqedit study {name}{' --quick' if quick else ''}`"
            )
        found.setdefault(one.label, []).append(load_run(out / run_id))
    return found


def finished(folder: Path) -> bool:
    """Whether a finished run lies in a folder."""
    return (folder / "run.json").exists() and read_run(folder)["finished"]


def _make(one: Planned, folder: Path) -> None:
    os.environ["TQDM_DISABLE"] = "1"  # one bar for the study
    config = one.config()
    if one.corpus_lines:
        config = replace(config, corpus=_first_lines(WORLD / "corpus.txt", one.corpus_lines))
    run(config, folder)
    (folder / "weights.safetensors").unlink(
        missing_ok=True
    )  # a twin, started elsewhere, was faster


def _first_lines(path: Path, count: int) -> Path:
    """A file of the first lines of a text, in the cache."""
    part = cache_folder() / f"{path.stem}-{count}{path.suffix}"
    write_text(part, "\n".join(path.read_text(encoding="utf-8").splitlines()[:count]) + "\n")
    return part
