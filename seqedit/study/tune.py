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

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import GPSampler
from tqdm import tqdm

from ..base.files import alone, write_json
from ..base.paths import RUNS
from ..base.workers import worker_pool
from ..methods.catalogue import CATALOGUE
from ..methods.ranges import TARGET, Choice, Range
from ..runs.config import Say, Table, ignore
from ..runs.resolve import HYPER, TARGET_FILE
from .calibration import Calibration, judge, shortest_target
from .search_space import BASE, edges, ranges_of, read_file, search_digest, search_space

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
        given: settings that are not searched, name → value; or other ends of a range, name →
            "low..high".
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
    ranges, fixed = search_space(method, table, given or {}, out, calibration.n_layers)
    if not ranges:
        trials = 1
    digest = search_digest(ranges, fixed, calibration)
    with alone(files(method, table, out)[1]):
        made = _made(method, table, out)
        if made.get("digest") == digest and len(made["trials"]) >= trials:
            _check_chosen(made, method, table, ranges, calibration, out)
            return made
        kept = work / f"{table}-{method}-{digest}.trials.json"
        tried = _search(method, ranges, fixed, calibration, trials, kept, say)
        return _write(tried, method, table, ranges, calibration, digest, out)


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


def _check_chosen(
    made: Mapping[str, Any],
    method: str,
    table: Table,
    ranges: Mapping[str, Range | Choice],
    calibration: Calibration,
    out: Path,
) -> None:
    """Raises ValueError if the settings of a search are not those that it chose."""
    chosen = files(method, table, out)[0]
    try:
        best = _chosen(made["trials"], method, ranges, calibration)
    except (KeyError, TypeError, AttributeError) as error:
        whole = files(method, table, out)[1]
        raise ValueError(f"{whole}: is damaged; remove it to search again") from error
    if read_file(chosen, method) != best:
        raise ValueError(
            f"{chosen}: is not what its search chose; move it elsewhere to have that written again"
        )


def _search(
    method: str,
    ranges: Mapping[str, Range | Choice],
    fixed: Mapping[str, Any],
    calibration: Calibration,
    trials: int,
    kept: Path,
    say: Say,
) -> list[dict[str, Any]]:
    """Make the trials that are missing, and return what `judge` said of all.

    Args:
        kept: file of the trials, which is written after each.

    Raises:
        ValueError: every trial failed, or the file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _distribution(one) for name, one in ranges.items()}
    study, made = optuna.create_study(direction="maximize"), _read_trials(kept)
    for one in made:
        study.add_trial(
            optuna.trial.create_trial(
                params=one["params"], distributions=space, value=one["found"]["quality"]
            )
        )
    while (number := len(made)) < trials:
        study.sampler = GPSampler(seed=1000 * calibration.seed + number, n_startup_trials=5)
        trial = study.ask(space)
        settings = {**fixed} | {name: _value(ranges[name], v) for name, v in trial.params.items()}
        try:
            found = judge(BASE if method == "target" else method, settings, calibration)
        except ValueError as error:  # settings that the method cannot work with
            found = {"settings": settings, "quality": 0.0, "refused": str(error)}
        study.tell(trial, found["quality"])
        made.append({"params": trial.params, "found": json.loads(json.dumps(found))})
        write_json(kept, {"trials": made, "content": _content(made)})
        say(json.dumps({"method": method, "trial": number} | found))
    if all(one["found"]["quality"] == 0 for one in made):
        raise ValueError(f"{method}: every trial failed; the last: {made[-1]['found']}")
    return [one["found"] for one in made]


def _read_trials(kept: Path) -> list[dict[str, Any]]:
    """The trials of an interrupted search; none without a file.

    Raises:
        ValueError: the file is not what a search wrote.
    """
    found = read_file(kept, "", {})
    trials = found.get("trials", [])
    if found and found.get("content") != _content(trials):
        raise ValueError(f"{kept}: is damaged, or no search wrote it; move it elsewhere")
    return trials


def _content(trials: Any) -> str:
    """The digest of trials, which tells whether their file is what a search wrote."""
    return hashlib.sha256(json.dumps(trials, sort_keys=True).encode()).hexdigest()


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
        methods: names as `tune` takes them, or "all", see `searchable`.

    Raises:
        ValueError: see `tune`.
    """
    names = searchable(methods)
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


def searchable(methods: Sequence[str]) -> list[str]:
    """The names of methods to search; "all" stands for every method that has ranges.

    Raises:
        ValueError: the catalogue has no ranges for one of them.
    """
    every = [name for name, entry in CATALOGUE.items() if entry.search]
    names = [name for one in methods for name in (every if one == "all" else [one])]
    for name in names:
        ranges_of(name)
    return names


def _stages(names: Sequence[str]) -> list[list[str]]:
    """The names in the order in which their searches build on each other."""
    composed = [name for name in names if "+" in name]
    rest = [name for name in names if name not in composed]
    return [[n for n in rest if n == "target"], [n for n in rest if n != "target"], composed]


def _distribution(one: Range | Choice) -> optuna.distributions.BaseDistribution:
    if isinstance(one, Choice):  # numbers, since Optuna stores no lists
        return optuna.distributions.CategoricalDistribution(range(len(one.values)))
    low, high = sorted(map(one.searched, (one.low, one.high)))
    return optuna.distributions.FloatDistribution(low, high, log=one.log)


def _value(one: Range | Choice, found: Any) -> Any:
    """A setting from what the sampler chose, with four digits."""
    return one.values[found] if isinstance(one, Choice) else float(f"{one.value(found):.4g}")


def _chosen(
    tried: Sequence[dict[str, Any]],
    method: str,
    ranges: Mapping[str, Range | Choice],
    calibration: Calibration,
) -> dict[str, Any]:
    """The settings of the best trial; of "target" those that are shared, of the shortest one."""
    if method == "target":
        best = shortest_target(tried, calibration.edits)["settings"]
        return {name: best[name] for name in (*TARGET, *({"layers"} & ranges.keys()))}
    # of equals one whose values lie inside their ranges
    best = max(tried, key=lambda t: (t["quality"], -len(edges(ranges, t["settings"]))))
    return best["settings"]


def _write(
    tried: list[dict[str, Any]],
    method: str,
    table: Table,
    ranges: Mapping[str, Range | Choice],
    calibration: Calibration,
    digest: str,
    out: Path,
) -> dict[str, Any]:
    """Write the best settings and the whole search."""
    best = _chosen(tried, method, ranges, calibration)
    search = {
        "method": BASE if method == "target" else method,
        "digest": digest,
        "sampler": f"Optuna {optuna.__version__}, GPSampler, seed {calibration.seed}",
        "edits": calibration.edits,
        "batch_size": calibration.batch_size,
        "ranges": {name: asdict(one) for name, one in ranges.items()},
        "edges": edges(ranges, best),
        "trials": tried,
    }
    chosen, whole = files(method, table, out)
    chosen.unlink(missing_ok=True)  # settings come last, and say that all is there
    write_json(whole, search)
    write_json(chosen, best)
    return search
