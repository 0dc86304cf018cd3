"""Makes and reads the runs of a study: each run a folder of data/results."""

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from ..paths import RESULTS
from .records import Record, code_digest, load_run, read_run
from .run import run
from .studies import STUDIES, Planned


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
