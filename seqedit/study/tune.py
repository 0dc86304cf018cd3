"""Chooses the settings of methods for a model, on calibration facts only.

Every method gets the same number of trials by one procedure, Optuna's Gaussian-process sampler with
a fixed seed. A trial edits calibration facts in a row, and is judged by the calibration's own
probes. There are two tables of settings:

* `shared`: how targets are optimised (`seqedit.methods.ranges.TARGET`) is chosen once, for
  MEMIT-seq, and then serves all methods that locate and edit; each searches what is its own. Of
  the targets whose quality is within one standard error of the best the one with the smallest
  clamp is taken: runs are longer than trials, and short targets last longer.
* `own`: each method also searches how its targets are optimised.

A search that was interrupted resumes. All its trials are written beside the choice, and a search
that is there already, with the same ranges on the same facts, is not made again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import GPSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tqdm import tqdm

from ..base.files import alone, write_json
from ..base.paths import RUNS
from ..base.workers import worker_pool
from ..methods.catalogue import CATALOGUE
from ..methods.ranges import TARGET, Choice, Range
from ..runs.config import Say, Table, ignore
from ..runs.resolve import HYPER, TARGET_FILE
from .calibration import Calibration, judge, shortest_target
from .search_space import BASE, read_file, search_digest, search_space

TRIALS = 10


def tune(
    method: str,
    *,
    table: Table = "shared",
    calibration: Calibration | None = None,
    trials: int = TRIALS,
    given: Mapping[str, Any] | None = None,
    out: Path = HYPER,
    work: Path = RUNS / "tune",
    say: Say = print,
) -> dict[str, Any]:
    """Search the settings of a method and write the best.

    Writes `out`/TABLE/METHOD.json, the best settings, and METHOD.search.json beside it: ranges,
    all trials, and which of the chosen values lie on the edge of their range.

    Args:
        method: a method of the catalogue that has ranges; or "target", the shared target settings.
        table: "shared" or "own", see above.
        calibration: by default that of the fictional world.
        trials: their number, those of an earlier call with the same search included.
        given: settings that are not searched, name → value; for a model other than the embedded
            one, its `layers` at least.
        out: folder of the settings.
        work: folder of the trials of unfinished searches.
        say: told each trial as a line of JSON.

    Returns:
        The content of METHOD.search.json. A trial whose settings were refused has quality 0 and
        says why.

    Raises:
        ValueError: the catalogue has no ranges for the method, the settings on which its search
            builds are not there yet, every trial failed, or files of others are in the place.
    """
    calibration = calibration or Calibration()
    ranges, fixed = search_space(method, table, given or {}, out)
    if not ranges:
        trials = 1
    digest = search_digest(ranges, fixed, calibration)
    with alone(files(method, table, out)[1]):
        made = _made(method, table, out)
        if made.get("digest") == digest and len(made["trials"]) >= trials:
            return made
        try:
            study = _search(method, table, ranges, fixed, calibration, trials, digest, work, say)
        except RuntimeError as error:  # Optuna's, where its journal is gone
            if work.is_dir():
                raise
            raise ValueError(f"{work}: the trials were removed meanwhile; start again") from error
        return _write(study, method, table, ranges, calibration, digest, out)


def _made(method: str, table: Table, out: Path) -> dict[str, Any]:
    """An earlier search whose settings are there; nothing if there is none.

    First guesses, which come along in `HYPER`, give way to a search.

    Raises:
        ValueError: a file of settings or of a search is there that no search wrote.
    """
    chosen, whole = files(method, table, out)
    search = read_file(whole, method, {})
    foreign = whole.exists() or (chosen.exists() and HYPER not in (out, *out.parents))
    if foreign and not {"trials", "ranges"} <= set(search):
        there = whole if whole.exists() else chosen
        raise ValueError(
            f"out: {there} exists already, and no search wrote it; choose another folder, or move "
            "it elsewhere"
        )
    return search if chosen.exists() else {}


def _search(
    method: str,
    table: Table,
    ranges: Mapping[str, Range | Choice],
    fixed: Mapping[str, Any],
    calibration: Calibration,
    trials: int,
    digest: str,
    work: Path,
    say: Say,
) -> optuna.Study:
    """Make the trials that are missing.

    Raises:
        ValueError: every trial failed.
    """
    study = _study(method, table, digest, work)
    while (number := len(_finished(study))) < trials:
        study.sampler = GPSampler(seed=1000 * calibration.seed + number, n_startup_trials=5)
        trial = study.ask({name: _distribution(one) for name, one in ranges.items()})
        settings = {**fixed} | {name: _value(ranges[name], v) for name, v in trial.params.items()}
        try:
            found = judge(BASE if method == "target" else method, settings, calibration)
        except ValueError as error:  # settings that the method cannot work with
            found = {"settings": settings, "quality": 0.0, "refused": str(error)}
        for name, value in found.items():
            trial.set_user_attr(name, value)
        study.tell(trial, found["quality"])
        say(json.dumps({"method": method, "trial": number} | found))
    done = _finished(study)
    if all(trial.value == 0 for trial in done):
        raise ValueError(f"{method}: every trial failed; the last: {done[-1].user_attrs}")
    return study


def files(method: str, table: Table, out: Path) -> tuple[Path, Path]:
    """Where the settings of a method are written, and its search."""
    if method == "target":
        return out / TARGET_FILE, out / "target.search.json"
    return out / table / f"{method}.json", out / table / f"{method}.search.json"


def tune_all(
    methods: Sequence[str],
    *,
    table: Table = "shared",
    calibration: Calibration | None = None,
    trials: int = TRIALS,
    given: Mapping[str, Any] | None = None,
    out: Path = HYPER,
    jobs: int = 1,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Search the settings of several methods, `jobs` at a time; yield each with its search.

    Systems that are a method with something after it come after the methods they build on.

    Args:
        methods: names as `tune` takes them; "all" stands for every method that has ranges.

    Raises:
        ValueError: see `tune`.
    """
    names = [name for one in methods for name in (_searched() if one == "all" else [one])]
    bar = tqdm(total=len(names), desc="tune", unit="method", disable=None)
    search = partial(
        tune, table=table, calibration=calibration, trials=trials, given=given, out=out, say=ignore
    )
    with worker_pool(jobs) as pool:
        for stage in _stages(names):
            futures = {pool.submit(search, name): name for name in stage}
            for done in as_completed(futures):
                yield futures[done], done.result()
                bar.update()
    bar.close()


def _searched() -> list[str]:
    return [name for name, entry in CATALOGUE.items() if entry.search]


def _stages(names: Sequence[str]) -> list[list[str]]:
    """The names in the order in which their searches build on each other."""
    composed = [name for name in names if "+" in name]
    rest = [name for name in names if name not in composed]
    return [[n for n in rest if n == "target"], [n for n in rest if n != "target"], composed]


def _study(method: str, table: Table, digest: str, work: Path) -> optuna.Study:
    """The search with its trials so far."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    work.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(work / f"{table}-{method}.journal")))
    return optuna.create_study(
        storage=storage, study_name=digest, direction="maximize", load_if_exists=True
    )


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that were judged; one that was interrupted is made again."""
    return [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]


def _distribution(one: Range | Choice) -> optuna.distributions.BaseDistribution:
    if isinstance(one, Choice):  # numbers, since Optuna stores no lists
        return optuna.distributions.CategoricalDistribution(range(len(one.values)))
    return optuna.distributions.FloatDistribution(
        one.low - one.above, one.high - one.above, log=one.log
    )


def _value(one: Range | Choice, found: Any) -> Any:
    """A setting from what the sampler chose, with four digits."""
    return one.values[found] if isinstance(one, Choice) else float(f"{one.above + found:.4g}")


def _write(
    study: optuna.Study,
    method: str,
    table: Table,
    ranges: Mapping[str, Range | Choice],
    calibration: Calibration,
    digest: str,
    out: Path,
) -> dict[str, Any]:
    """Write the best settings and the whole search."""
    tried = [trial.user_attrs for trial in _finished(study)]
    # of equals one whose values lie inside their ranges
    best = max(tried, key=lambda t: (t["quality"], -len(_edges(ranges, t["settings"]))))["settings"]
    if method == "target":
        best = shortest_target(tried, calibration.edits)["settings"]
    search = {
        "method": BASE if method == "target" else method,
        "digest": digest,
        "sampler": f"Optuna {optuna.__version__}, GPSampler, seed {calibration.seed}",
        "edits": calibration.edits,
        "batch_size": calibration.batch_size,
        "ranges": {name: asdict(one) for name, one in ranges.items()},
        "edges": _edges(ranges, best),
        "trials": tried,
    }
    chosen, whole = files(method, table, out)
    chosen.unlink(missing_ok=True)  # settings come last, and say that all is there
    write_json(whole, search)
    write_json(chosen, {name: best[name] for name in TARGET} if method == "target" else best)
    return search


def _edges(ranges: Mapping[str, Range | Choice], settings: Mapping[str, Any]) -> dict[str, str]:
    """Setting → what to say of it, of the settings that lie on the edge of their range."""
    return {
        name: found
        for name, one in ranges.items()
        if isinstance(one, Range) and (found := one.edge(settings[name]))
    }
