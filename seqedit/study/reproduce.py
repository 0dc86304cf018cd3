"""Whether the records of a study come out again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..base.jsonl import read_jsonl
from ..base.paths import RESULTS
from ..runs.records import read_run
from .run_study import finished, make_runs, planned

_NEVER_THE_SAME = {"seconds", "elapsed", "provenance"}


@dataclass(frozen=True)
class Repetition:
    """A record beside the one that was made of the same run once more.

    Attributes:
        fields: what differs or is in one only, times apart, as "rounds.jsonl layers.drift".
        points: the largest difference that a share (efficacy, unrelated facts, a task …) has at the last evaluation,
            in points of percent, and `share`, its name; 0 and "" where no share differs.
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


def repeat(
    names: Iterable[str], *, quick: bool = False, jobs: int = 1, out: Path = RESULTS
) -> dict[str, Repetition]:
    """Make the runs of studies, or single ones by their names, once more, aside, and compare with the records in `out`.

    On the same machine, with the same versions and code, nothing differs. Elsewhere products are summed in another
    order; what the round-off grows to is what `points` says.

    Raises:
        ValueError: there is no such study or run, or its record is not there; nothing has been made then.
    """
    runs = {run_id: one for name in names for run_id, one in planned(name, quick).items()}
    if missing := [name for name in runs if not finished(out / name)]:
        raise ValueError(
            f"{missing[0]} is not there to be compared with; make it with `seqedit study {missing[0]}`"
        )
    with TemporaryDirectory() as aside:
        make_runs(runs, Path(aside), jobs, "again")
        return {name: compare_records(out / name, Path(aside) / name) for name in runs}


def compare_records(before: Path, after: Path) -> Repetition:
    """What differs between two folders of one run."""
    kept = ("parameters", "contexts", "rounds_done")
    pairs = [
        ("run.json", *({key: read_run(folder)[key] for key in kept} for folder in (before, after)))
    ]
    pairs += [
        (file, *(read_jsonl(folder / file) for folder in (before, after)))
        for file in ("rounds.jsonl", "outcomes.jsonl", "scores.jsonl")
    ]
    fields = dict.fromkeys(
        f"{file} {field}" for file, old, new in pairs for field in _differing(old, new)
    )
    *_, (_, old, new) = pairs
    old, new = dict(_leaves(old[-1])), dict(_leaves(new[-1]))
    shares = {
        name: 100 * abs(new[name] - old[name])
        for name in old.keys() & new.keys()
        if _is_share(name)
    }
    worst = max(shares, key=lambda name: shares[name], default="")
    return Repetition(tuple(fields), shares.get(worst, 0.0), worst if shares.get(worst) else "")


def _differing(old: Any, new: Any) -> Iterator[str]:
    """Names of the leaves that differ, without the places in lists; one that a side lacks differs."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    for name in before | after:
        if (
            name not in before or name not in after or repr(before[name]) != repr(after[name])
        ):  # repr: NaN is NaN
            yield ".".join(part for part in name.split(".") if not part.isdigit())


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in _NEVER_THE_SAME:
                yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _is_share(name: str) -> bool:
    """edits.n is a number of edits; the other entries of these groups are parts of one."""
    return (
        name == "unrelated_facts"
        or name.startswith("abilities.")
        or name.startswith("edits.")
        and name != "edits.n"
    )
