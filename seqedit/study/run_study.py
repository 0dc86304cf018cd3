"""Makes the runs of a study, collects their records into tables, and reads them back.

A run is made in a folder of its own, `data/runs/ID`, where it can be interrupted and resumed. Once
all runs of a study are finished, they are collected into the tables of `data/results/STUDY`. A run
that several studies share is made once.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..base.files import alone
from ..base.paths import RESULTS, RUNS
from ..base.workers import worker_pool
from ..runs.engine import run
from ..runs.records import Record, RunRows, is_stale, read_rows, read_run
from .collection import (
    Collection,
    LabelledRun,
    all_collections,
    find_collection,
    write_collection,
)
from .selection import QUICK, identify, run_config, select_runs, study_runs
from .studies import STUDIES
from .study_run import EMBEDDED, StudyRun


def run_study(
    name: str,
    *,
    jobs: int = 1,
    device: str = "cpu",
    results: Path = RESULTS,
    work: Path = RUNS,
) -> int:
    """Make the missing runs of a study and collect all of them into its tables; or make a single
    run.

    Runs that were interrupted resume. The edited matrices are not kept. Each process has one
    thread, so that records do not depend on the number of cores.

    Args:
        name: as `select_runs` takes it; a single run is made but not collected.
        device: where the runs are made; their records say which.

    Returns:
        How many runs were made or resumed.

    Raises:
        ValueError: there is no such study or run.
    """
    missing = missing_runs([name], results, work)
    make_runs(missing, work, jobs, name, device)
    if name.removesuffix(QUICK) in STUDIES:
        collect(name, results, work)
    return len(missing)


def missing_runs(
    names: Iterable[str], results: Path = RESULTS, work: Path = RUNS
) -> dict[str, StudyRun]:
    """id → run, of the named studies' runs that are neither in any table nor finished in the
    working place.

    Raises:
        ValueError: there is no such study or run.
    """
    wanted = {name: one for given in names for name, one in select_runs(given).items()}
    collected = {name for collection in all_collections(results) for name in collection.ids}
    return {
        name: one
        for name, one in wanted.items()
        if name not in collected and not is_finished(work / name)
    }


def make_runs(
    runs: Mapping[str, StudyRun], work: Path, jobs: int, title: str, device: str = "cpu"
) -> None:
    """Make runs, each in the folder of `work` that its id names, `jobs` at a time."""
    bar = tqdm(total=len(runs), desc=title, unit="run", disable=None)
    with worker_pool(jobs) as pool:
        futures = [pool.submit(make_run, one, work / name, device) for name, one in runs.items()]
        for done in as_completed(futures):
            done.result()
            bar.update()
    bar.close()


def make_run(one: StudyRun, folder: Path, device: str = "cpu") -> None:
    """Make one run in a folder. The edited matrices are kept of pretrained models alone, for what
    their record does not measure (`seqedit abilities`): minutes make those of the embedded one.
    """
    os.environ["TQDM_DISABLE"] = "1"  # one bar for the study
    run(replace(run_config(one), device=device), folder, weights_matter=False)
    if one.model == EMBEDDED:
        # missing where another process made the same run meanwhile
        (folder / "weights.safetensors").unlink(missing_ok=True)


def collect(study: str, results: Path = RESULTS, work: Path = RUNS) -> None:
    """Write the tables of a study whose runs are all finished; tables that are complete stay as
    they are.

    Records come from the study's own tables, where a run is in them, else from those of another
    study, else from the working place.

    Raises:
        ValueError: a run is not finished; the message names it.
    """
    folder = results / study
    with alone(folder):
        if is_collected(study, results):
            return
        own = find_collection(folder)
        runs = [
            LabelledRun(one.label, find_rows(identify(one), results, work, own))
            for one in study_runs(study)
        ]
        write_collection(folder, runs)


def is_collected(study: str, results: Path = RESULTS) -> bool:
    """Whether the tables of a study hold exactly its runs, in its order."""
    own = find_collection(results / study)
    return own is not None and [(row["run"], row["label"]) for row in own.runs] == [
        (identify(one), one.label) for one in study_runs(study)
    ]


def find_rows(
    name: str, results: Path = RESULTS, work: Path = RUNS, first: Collection | None = None
) -> RunRows:
    """What a finished run wrote, wherever it lies.

    Args:
        name: the run's id.
        first: tables to look into first.

    Raises:
        ValueError: no finished run has this id.
    """
    if first and name in first.ids:
        return first.rows(name)
    for collection in all_collections(results):
        if name in collection.ids:
            return collection.rows(name)
    if is_finished(work / name):
        return read_rows(work / name)
    raise ValueError(f"{name}: there is no finished run with this id; make it with `seqedit study`")


def load_study(study: str, results: Path = RESULTS) -> dict[str, list[Record]]:
    """label → its runs in the order of the study, read from the study's tables.

    Raises:
        ValueError: a run is missing, or is another one than the study describes now; the message
            says how to make it.
    """
    runs = study_runs(study)
    collection = find_collection(results / study)
    ids = collection.labelled() if collection else {}
    found: dict[str, list[Record]] = {}
    for one in runs:
        name = ids.get((one.label, one.seed))
        if collection is None or name is None:
            raise ValueError(
                f"{study}: {one.label}, seed {one.seed}, is not in the tables; "
                f"{_how_to_make(study)}"
            )
        rows = collection.rows(name)
        _check_fits(study, one, rows)
        found.setdefault(one.label, []).append(Record.from_rows(rows))
    return found


def study_status(study: str, results: Path = RESULTS, work: Path = RUNS) -> str:
    """How many runs of a study are there, and how many of them were made by other code than
    today's.
    """
    wanted = {identify(one) for one in study_runs(study)}
    own = find_collection(results / study)
    found = {
        name: collection.run(name)
        for collection in [*all_collections(results), *([own] if own else [])]
        for name in wanted & collection.ids
    }
    for name in wanted - found.keys():
        if is_finished(work / name):
            found[name] = read_run(work / name)
    stale = sum(is_stale(one) for one in found.values())
    seconds = sum(one["elapsed"] for one in found.values())
    status = (
        f"{len(found)} of {len(wanted)} runs, {stale} by other code, "
        f"{seconds / 60:.0f} minutes of one core"
    )
    if own and (others := own.ids - wanted):
        status += f"; {len(others)} in the tables that the study no longer asks for"
    return status


def is_finished(folder: Path) -> bool:
    """Whether a finished run lies in a folder."""
    return (folder / "run.json").exists() and read_run(folder)["finished"]


def _check_fits(study: str, one: StudyRun, rows: RunRows) -> None:
    """Refuse a record that was made of another run than the label now means."""
    found = {"dtype": "float32"} | rows.run["parameters"]
    for name in ("method", "n_edits", "batch_size", "evaluate_every", "dtype"):
        if found[name] != getattr(one, name):
            raise ValueError(
                f"{study}: {one.label}, seed {one.seed}, is there with {name} = {found[name]}, now "
                f"the study has {getattr(one, name)}; {_how_to_make(study)}"
            )


def _how_to_make(study: str) -> str:
    name = study.removesuffix(QUICK)
    return f"make it with `seqedit study {name}{' --quick' if name != study else ''}`"
