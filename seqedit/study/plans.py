"""The runs behind the chapters: each study is a list of runs, each run a folder of data/results."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..methods import METHODS
from ..paths import MODEL, RESULTS, WORLD
from .records import Record, code_digest, load_run, read_run
from .run import RunConfig, run


@dataclass(frozen=True)
class Planned:
    """A run of a study.

    Attributes:
        label: what it is called there; settings: overrides of the tuned ones.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    n_edits: int = 100
    batch_size: int = 25
    seed: int = 1
    requests: str = "records.json"
    evaluate_every: int = 0

    def config(self) -> RunConfig:
        return RunConfig(model=str(MODEL), requests=WORLD / self.requests, method=self.method, settings=self.settings,
                         n_edits=self.n_edits, batch_size=self.batch_size, shuffle=True, seed=self.seed,
                         evaluate_every=self.evaluate_every, device="cpu")


COMPOSED = ("alphaedit+sphere", "memit_seq+revive", "memit_rect+with_history+compensated", "memit_seq+robust_keys")
"""Systems of the literature that are a method with something after it: SPHERE, REVIVE, OTE-SE, REP."""


def methods() -> Iterator[Planned]:
    """Every method once, with its tuned settings, on the same hundred facts."""
    for name in (*METHODS, *COMPOSED):
        yield Planned(name, name)


def choices() -> Iterator[Planned]:
    """One choice switched at a time: what papers and released codes leave open, or do differently."""
    switches = [
        ("base", "memit", {}), ("prune", "memit+prune", {"alpha": math.e}),
        ("prune-twice", "memit+prune_added_twice", {"alpha": math.e}),
        ("prune-history", "memit+with_history+prune", {"alpha": math.e}), ("history", "memit+with_history", {}),
        ("rect", "memit_rect", {"share": 0.4}), ("rect-history", "memit_rect+with_history", {"share": 0.4}),
        ("rect-compensated", "memit_rect+with_history+compensated", {"share": 0.4}),
        ("nse", "nse_paper", {"mass": 1.0}), ("nse-no-space", "nse_paper", {"mass": 1.0, "separator": ""}),
        ("nse-most-neurons", "nse_paper", {"mass": 0.8}), ("nse-one-fewer", "nse", {"mass": 0.8}),
        ("memit-no-space", "memit+with_history", {"separator": ""}),
        ("mixed-key", "rome", {}), ("average-key", "r_rome", {}),
        ("tau-1", "alphaedit", {"threshold": 0.01, "l2": 1.0}),
        ("tau-2", "alphaedit", {"threshold": 0.02, "l2": 1.0}),
        ("l2-10", "alphaedit", {"threshold": 0.02, "l2": 10.0}),
        ("no-history", "memit+null_space", {"threshold": 0.02}),
    ]
    for seed in (1, 2, 3):
        for label, method, settings in switches:
            yield Planned(label, method, settings, seed=seed)
        for label, method in (("one-position", "ft"), ("every-token", "ft_m")):       # names: targets of several tokens
            yield Planned(label, method, seed=seed, n_edits=25, batch_size=5, requests="reversal.json")


def growth() -> Iterator[Planned]:
    """Four hundred edits by methods of every kind, evaluated along the way: what grows, and what breaks."""
    for name in ("rome", "r_rome", "memit", "memit_seq", "alphaedit", "encore", "nse_paper", "memit_rect", "ft_m",
                 "ultraedit"):
        yield Planned(name, name, n_edits=400, evaluate_every=4)


def lifelong() -> Iterator[Planned]:
    """A thousand edits, three orders: forgetting and failure of methods of every kind."""
    names = ("memit", "memit_seq", "alphaedit", "nse", "memit_rect", "memit_prune", "rome", "encore", "evoedit",
             "ultraedit", "rledit", "mend", "ft_m", "grace", "nas", "betaedit", "emmet", "lyaplock", "ft_l", "r_rome",
             "memit+with_history+prune", *COMPOSED)
    for seed in (1, 2, 3):
        for name in names:
            yield Planned(name, name, n_edits=1000, batch_size=50, seed=seed, evaluate_every=4)


STUDIES = {"methods": methods, "choices": choices, "growth": growth, "lifelong": lifelong}


def planned(study: str, quick: bool = False) -> dict[str, Planned]:
    """run_id → run; a quick study has 4 edits in rounds of 2, one seed, and its own names.

    Raises:
        ValueError: there is no such study.
    """
    if study not in STUDIES:
        raise ValueError(f"study: {study!r}; there are {', '.join(STUDIES)}")
    runs = STUDIES[study]()
    if quick:
        return {f"{study}-quick-{one.label}-s{one.seed}": replace(one, n_edits=4, batch_size=2)
                for one in runs if one.seed == 1}
    return {f"{study}-{one.label}-s{one.seed}": one for one in runs}


def run_study(study: str, *, quick: bool = False, jobs: int = 1, out: Path = RESULTS) -> int:
    """Make the runs of a study that are not there yet; returns how many were made.

    Every run resumes by itself; the edited matrices are not kept. Each process has one thread, so that records do not
    depend on the number of cores.
    """
    open_runs = {name: one for name, one in planned(study, quick).items() if not _finished(out / name)}
    bar = tqdm(total=len(open_runs), desc=study, unit="run", disable=None)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_make, one, out / name) for name, one in open_runs.items()]):
            done.result()
            bar.update()
    bar.close()
    return len(open_runs)


def standing(study: str, quick: bool = False, out: Path = RESULTS) -> str:
    """How many runs of a study are there, and how many of them were made by other code than today's."""
    names, today = planned(study, quick), code_digest()
    made = [read_run(out / name) for name in names if _finished(out / name)]
    old = sum(record["provenance"]["code"] != today for record in made)
    seconds = sum(record["seconds"] for record in made)
    return f"{len(made)} of {len(names)} runs, {old} by other code, {seconds:.0f} s of editing"


def load_study(study: str, out: Path = RESULTS) -> dict[str, list[Record]]:
    """label → its finished runs by ascending seed; `study` may be a quick one, "methods-quick".

    Raises:
        ValueError: a run is missing; the message says how to make it.
    """
    name, _, quick = study.partition("-")
    found: dict[str, list[Record]] = {}
    for run_id, one in planned(name, bool(quick)).items():
        if not _finished(out / run_id):
            raise ValueError(f"{run_id} is not there; make it with `seqedit study {name}{' --quick' if quick else ''}`")
        found.setdefault(one.label, []).append(load_run(out / run_id))
    return found


def _finished(folder: Path) -> bool:
    return (folder / "run.json").exists() and read_run(folder)["finished"]


def _make(one: Planned, folder: Path) -> None:
    os.environ["TQDM_DISABLE"] = "1"                                      # one bar for the study
    run(one.config(), folder)
    (folder / "weights.safetensors").unlink()
