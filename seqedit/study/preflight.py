"""What is checked before a long study: that no probe asks for an edited fact, that settings were
chosen on other facts and not on the edge of their range, and how small a difference would be seen.

Subjects are looked for here as text between word boundaries, not word by word as runs do
(`seqedit.evaluation.probes`), so that the two can be compared; what case and
accents are they have in common.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..base.paths import FACTS, WORLD
from ..evaluation.abilities import read_facts
from ..evaluation.probes import EXTRA_KINDS, KINDS, EditedFacts, folded
from ..requests.benchmarks import is_at_hand
from ..requests.published import load_requests
from ..requests.request import EditRequest
from ..runs.resolve import HYPER
from .calibration import Calibration
from .power import Spread, detectable_difference
from .study_run import EMBEDDED

TESTED = {
    name: kind
    for name, kind in (KINDS | EXTRA_KINDS).items()
    if kind.protects and name != "neighborhood_plus"  # names an edited fact on purpose
}
"""Kinds of prompts that ask for what must stay as it was."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The facts of a study: those that it edits, those that it must not touch, and those by which
    settings were chosen.

    Attributes:
        models: the models on which the study edits them.
        requests: as `RunConfig` takes them.
        kept: file of facts that are never edited.
        calibration: what settings were chosen by.
    """

    models: str
    requests: str
    kept: Path
    calibration: Calibration

    @property
    def is_here(self) -> bool:
        """Whether the requests are on this machine."""
        return is_at_hand(self.requests)


GROUNDS = (
    Ground(
        models=EMBEDDED,
        requests="world",
        kept=WORLD / "unrelated.jsonl",
        calibration=Calibration(),
    ),
    *(
        Ground(
            models="pretrained",
            requests=requests,
            kept=FACTS / "kept.jsonl",
            calibration=Calibration.of_facts("smollm2-135m"),
        )
        for requests in ("facts", "mcf-1000", "mcf-3000")
    ),
)
"""What the studies of the book edit."""


def preflight(grounds: Iterable[Ground] = GROUNDS) -> list[dict[str, Any]]:
    """Count, for each set of requests, probes of edited facts and what calibration shares with it.

    Returns:
        For each set a JSON object with `models`, `requests`, `n` (how many), `probes` (see
        `count_probes`) and `calibration` (see `count_shared`).
    """
    rows = []
    for ground in grounds:
        requests = load_requests(ground.requests)
        rows.append(
            {
                "models": ground.models,
                "requests": ground.requests,
                "n": len(requests),
                "probes": count_probes(requests, read_facts(ground.kept)[0]),
                "calibration": count_shared(requests, ground.kept, ground.calibration),
            }
        )
    return rows


def is_sound(row: Mapping[str, Any]) -> bool:
    """Whether of a row of `preflight` no probe of an edited fact counts, and calibration and
    results have no fact in common.
    """
    return not any(probe["edited"] for probe in row["probes"]) and not row["calibration"]["facts"]


def count_probes(requests: Sequence[EditRequest], kept: Sequence[str]) -> list[dict[str, Any]]:
    """Of the probes of damage, how many ask for a fact that the requests edit.

    Args:
        requests: all edits of a run.
        kept: prompts of facts that are never edited.

    Returns:
        For each kind of probe its name as `kind`, how many there are (`probes`), how many a run
        leaves out (`left_out`), and of the others how many name an edited subject under the
        relation of their request (`edited`; under any for kept facts) or under another (`near`).
    """
    edited, subjects = EditedFacts(requests), Subjects(requests)
    rows: dict[str, dict[str, Any]] = {}
    for kind, prompt, relation in _probes(requests, kept):
        row = rows.setdefault(kind, dict.fromkeys(("probes", "left_out", "edited", "near"), 0))
        row["probes"] += 1
        of_kept = kind == "kept"
        if edited.are_about(prompt) if of_kept else edited.asked_by(prompt, relation):
            row["left_out"] += 1
        elif found := subjects.relations_in(prompt):
            row["edited" if of_kept or relation in found else "near"] += 1
    return [{"kind": kind} | row for kind, row in rows.items()]


def _probes(
    requests: Sequence[EditRequest], kept: Sequence[str]
) -> Iterator[tuple[str, str, str | None]]:
    """(kind, prompt, relation) of every probe of damage."""
    for request in requests:
        for name, kind in TESTED.items():
            yield from ((name, prompt, request.relation_id) for prompt in kind.prompts(request))
        yield from (("locality", probe.prompt, None) for probe in request.locality)
    yield from (("kept", prompt, None) for prompt in kept)


class Subjects:
    """The subjects of requests, found in other texts whatever their case and accents.

    Args:
        requests: the edits.
    """

    def __init__(self, requests: Iterable[EditRequest]):
        self._relations: dict[str, set[str | None]] = {}
        for request in requests:
            self._relations.setdefault(folded(request.subject), set()).add(request.relation_id)
        longest_first = sorted(self._relations, key=len, reverse=True)
        any_of = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(rf"(?<!\w)(?=({any_of})(?!\w))")

    def relations_in(self, text: str) -> set[str | None]:
        """The relations under which the subjects are edited that a text names."""
        return {
            relation
            for subject in self._pattern.findall(folded(text))
            for relation in self._relations[subject]
        }


def count_shared(
    requests: Sequence[EditRequest], kept: Path, calibration: Calibration
) -> dict[str, int]:
    """What the choice of settings has in common with the results.

    Returns:
        `edits`, how many requests the calibration has; and how many `subjects` of the results it
        edits, how many `facts` (subject and relation), how many of the results' probes are among
        its own (`probes`), and how many of its kept facts (`kept`) results ask for or edit.
    """
    chosen = load_requests(calibration.requests)
    facts = {(request.subject, request.relation_id) for request in chosen}
    subjects = {subject for subject, _ in facts}
    own = {prompt for _, prompt, _ in _probes(chosen, ())}
    kept_there = read_facts(calibration.kept)[0] if calibration.kept else []
    asked = {prompt for _, prompt, _ in _probes(requests, read_facts(kept)[0])}
    edited = EditedFacts(requests)
    return {
        "edits": len(chosen),
        "subjects": sum(request.subject in subjects for request in requests),
        "facts": sum((request.subject, request.relation_id) in facts for request in requests),
        "probes": len(asked & own),
        "kept": sum(prompt in asked or edited.asked_by(prompt, None) for prompt in kept_there),
    }


def searches(folder: Path = HYPER) -> pd.DataFrame:
    """Every search of settings: `method`, `model`, `edits` and `trials` of it, and `edges`, the
    chosen values on the edge of their range with the reason why they may stay.
    """
    rows = []
    for path in sorted(folder.rglob("*.search.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        inside = path.relative_to(folder).parts[:-1]
        model = inside[0] if inside and inside[0] not in ("shared", "own") else EMBEDDED
        rows.append(
            {
                "method": path.name.removesuffix(".search.json"),
                "model": model,
                "edits": found["edits"],
                "trials": len(found["trials"]),
                "edges": "; ".join(f"{name} {text}" for name, text in found["edges"].items()),
            }
        )
    return pd.DataFrame(rows)


def power_table(
    found: Mapping[str, Spread], requests: int, orders: Sequence[int], comparisons: int
) -> pd.DataFrame:
    """Smallest differences, in points, that studies of several sizes show in four of five cases.

    Args:
        found: measure → standard deviations of a difference, see `spread`.
        requests: how many a run edits.
        orders: numbers of orders to compare.
        comparisons: size of the family of differences.
    """
    return pd.DataFrame(
        {
            "measure": name,
            **{
                str(m): detectable_difference(one, m, requests, comparisons=comparisons)
                for m in orders
            },
        }
        for name, one in found.items()
    )
