"""Makes runs a second time and compares the new records with those that are kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..base.paths import RESULTS, RUNS
from ..runs.records import RunRows, read_rows
from .collection import find_collection
from .run_study import find_rows, make_runs, missing_runs
from .selection import select_runs

_ALWAYS_DIFFERENT = {"seconds", "elapsed", "provenance", "tables_sha256"}


@dataclass(frozen=True)
class RecordDifference:
    """What differs between two records of the same run.

    Attributes:
        fields: names of fields that differ or that one record lacks, such as "rounds.jsonl
            layers.drift". Wall times and provenance are not compared.
        points: the largest difference of a share (efficacy, unrelated facts, a task …) at the last
            evaluation, in percentage points.
        share: name of that share; "" where no share differs.
    """

    fields: tuple[str, ...]
    points: float
    share: str

    def __str__(self) -> str:
        if not self.fields:
            return "identical"
        shares = (
            f"the last shares at most {self.points:.1f} points ({self.share})"
            if self.share
            else "but no share"
        )
        return f"{len(self.fields)} fields differ, {shares}"


def remake(
    names: Iterable[str], *, jobs: int = 1, results: Path = RESULTS, work: Path = RUNS
) -> dict[str, RecordDifference]:
    """Make runs once more in a temporary folder and compare them with the records that are kept.

    On the same machine, with the same versions and code, nothing differs. On another machine sums
    are taken in another order; `RecordDifference.points` says how far the shares move.

    Args:
        names: studies, or single runs as `select_runs` takes them.

    Returns:
        id of the run → what differs.

    Raises:
        ValueError: there is no such study or run, or its record is missing; nothing has been made
            then.
    """
    names = [*names]
    runs = {run: one for name in names for run, one in select_runs(name).items()}
    for run, one in missing_runs(names, results, work).items():
        raise ValueError(
            f"{run} ({one.label}, seed {one.seed}) is not there to be compared with; make it with "
            f"`seqedit study {run}`"
        )
    with TemporaryDirectory() as aside:
        make_runs(runs, Path(aside), jobs, "again")
        return {
            run: compare_rows(find_rows(run, results, work), read_rows(Path(aside) / run))
            for run in runs
        }


def compare_sides(
    left: str, right: str, results: Path = RESULTS, work: Path = RUNS
) -> dict[str, RecordDifference | str]:
    """Compare two records, or the records of two studies run by run.

    Args:
        left, right: each the id of a run, the folder of a run, a study, or the folder of a study's
            tables.

    Returns:
        id of the run → what differs, or on which side alone it is. Two single records are compared
        whatever their ids are, under the name "LEFT and RIGHT".

    Raises:
        ValueError: there are no records by one of these names, or one side is a run and the other a
            study.
    """
    a, b = (_records_of(side, results, work) for side in (left, right))
    if isinstance(a, RunRows) and isinstance(b, RunRows):
        return {f"{left} and {right}": compare_rows(a, b)}
    if isinstance(a, RunRows) or isinstance(b, RunRows):
        raise ValueError(f"{left} and {right}: compare two runs or two studies, not one with other")
    found: dict[str, RecordDifference | str] = {}
    for run in a | b:
        if run in a and run in b:
            found[run] = compare_rows(a[run], b[run])
        else:
            found[run] = f"only in {left if run in a else right}"
    return found


def compare_rows(before: RunRows, after: RunRows) -> RecordDifference:
    """What differs between two records."""
    kept = ("parameters", "contexts", "rounds_done")
    old_run, new_run = ({name: side.run[name] for name in kept} for side in (before, after))
    pairs: list[tuple[str, Any, Any]] = [
        ("run.json", old_run, new_run),
        ("rounds.jsonl", before.rounds, after.rounds),
        ("outcomes.jsonl", before.outcomes, after.outcomes),
        ("scores.jsonl", before.scores, after.scores),
        ("probes.jsonl", before.probes, after.probes),
    ]
    fields = dict.fromkeys(
        f"{file} {field}" for file, old, new in pairs for field in _differing(old, new)
    )
    shares = _moved_shares(before.scores[-1], after.scores[-1])
    worst = max(shares, key=lambda name: shares[name], default="")
    points = shares.get(worst, 0.0)
    return RecordDifference(tuple(fields), points, worst if points else "")


def _records_of(side: str, results: Path, work: Path) -> RunRows | dict[str, RunRows]:
    """The record of a run, or id → record of a study."""
    if (Path(side) / "run.json").exists():
        return read_rows(Path(side))
    collection = find_collection(Path(side)) or find_collection(results / side)
    if collection:
        return {run: collection.rows(run) for run in sorted(collection.ids)}
    return find_rows(side, results, work)


def _moved_shares(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """Name of each share that both evaluations have → how far it moved, in percentage points."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return {
        name: 100 * abs(new[name] - old[name])
        for name in old.keys() & new.keys()
        if _is_share(name) and old[name] is not None and new[name] is not None
    }


def _differing(old: Any, new: Any) -> Iterator[str]:
    """Names of the leaves that differ or that one side lacks, without the places in lists."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    for name in before | after:
        both = name in before and name in after
        if not both or repr(before[name]) != repr(after[name]):  # by repr, NaN equals NaN
            yield ".".join(part for part in name.split(".") if not part.isdigit())


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested objects and lists."""
    if not isinstance(value, dict | list):
        yield name, value
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        if key not in _ALWAYS_DIFFERENT:
            yield from _leaves(part, f"{name}.{key}" if name else str(key))


def _is_share(name: str) -> bool:
    """Whether a field of an evaluation is a share: all of these groups but the number of edits."""
    return name == "unrelated_facts" or (
        name.startswith(("abilities.", "edits.")) and name != "edits.n"
    )
