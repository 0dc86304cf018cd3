"""Locality and portability: prompts with gold answers beside an edit, as in ZsRE and KnowEdit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..lm.model import LanguageModel
from ..requests.record import Probe
from ..requests.request import EditRequest
from .continuations import Ratings, rate
from .probes import EditedFacts, outcome_digits

Before = Sequence[Sequence[Sequence[int]]]


def score_probes(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    edited: EditedFacts,
    before: Before | None = None,
    *,
    progress: bool = False,
) -> pd.DataFrame:
    """Score the locality and portability prompts of each request; one row per request.

    Columns are means over a request's prompts, NaN if it has none. If no request has prompts of a
    kind its columns are missing. Locality prompts whose fact has been edited are left out.

    * `locality_gold`: share of the gold answer's tokens that are the most probable ones, teacher
      forced. It also measures what the unedited model knew, and an edit can raise it. ROME, MEMIT
      and their successors call it specificity.
    * `locality_gold_accuracy`: share of the prompts for which all of them are.
    * `locality_unedited`: share of these tokens' places where the most probable token is the one of
      the unedited model, right or wrong; MEND's locality. It is 1 on the unedited model.
    * `locality_left_out`: share of the prompts that are left out.
    * `locality_best`: the most probable tokens themselves, for the `before` of a later call.
    * `portability`, `portability_accuracy`: like the first two, for answers that follow from the
      edit.
    * `locality_KIND_accuracy`, `portability_KIND_accuracy`: of the probes of one kind.
    * `portability_KIND_success`, `portability_KIND_previous`: the share of the probes with a
      previous answer for which the gold answer is the more probable one, and for which the previous
      one is what the model says (all tokens). The latter, measured on the unedited model, tells how
      many of these questions it could answer at all; for the inverse of an edit the former is
      BAKE's reverse question score (2310.10322).
    * `locality_outcomes`, `portability_outcomes`: see `outcome_digits`.

    Args:
        lm: the model.
        requests: the requests to measure.
        edited: the facts edited so far.
        before: `locality_best` of the same requests on the unedited model; `locality_unedited`
            needs it.
        progress: show a progress bar.

    Source:
        MEND (2110.11309) §5, KnowEdit (2401.01286) §4, and the evaluation of ZsRE released with
        MEMIT.
    """
    columns: dict[str, list[Any]] = {}
    if any(request.locality for request in requests):
        columns |= _score_locality(lm, requests, edited, before, progress)
    if any(request.portability for request in requests):
        columns |= _score_portability(lm, requests, progress)
    return pd.DataFrame(columns, index=range(len(requests)))


def _score_locality(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    edited: EditedFacts,
    before: Before | None,
    progress: bool,
) -> dict[str, list[Any]]:
    probes = [request.locality for request in requests]
    separators = [request.joined_by for request in requests]
    ratings, first = _rate_answers(lm, probes, separators, progress)
    asked = [[edited.asked_by(probe.prompt, probe.relation_id) for probe in own] for own in probes]
    counted = [~np.array(out, dtype=bool) for out in asked]  # a mask for each request
    pairs = [*zip(ratings, counted, strict=True)]
    columns: dict[str, list[Any]] = {
        "locality_gold": [_mean(own.share[mask]) for own, mask in pairs],
        "locality_gold_accuracy": [_mean(own.correct[mask]) for own, mask in pairs],
        "locality_left_out": [_mean(out) for out in asked],
        "locality_best": [own.best for own in first],
        "locality_outcomes": [
            outcome_digits([0] * len(out), own.correct, out)
            for own, out in zip(ratings, asked, strict=True)
        ],
    }
    if before is not None:
        columns["locality_unedited"] = [
            _mean(_agreement(own.best, then)[mask])
            for own, mask, then in zip(first, counted, before, strict=True)
        ]
    for kind in _kinds(probes):
        columns[f"locality_{kind}_accuracy"] = [
            _mean(own.correct[mask & _is(kind, of_request)])
            for (own, mask), of_request in zip(pairs, probes, strict=True)
        ]
    return columns


def _score_portability(
    lm: LanguageModel, requests: Sequence[EditRequest], progress: bool
) -> dict[str, list[Any]]:
    probes = [request.portability for request in requests]
    separators = [request.joined_by for request in requests]
    ratings, _ = _rate_answers(lm, probes, separators, progress)
    previous = [[p._replace(answer=p.previous) for p in own if p.previous] for own in probes]
    earlier, _ = _rate_answers(lm, previous, separators, progress)
    wins, said = [], []  # of each probe: does its answer win, is the previous one said
    for own, now, then in zip(probes, ratings, earlier, strict=True):
        has = np.array([p.previous is not None for p in own], dtype=bool)
        win, say = np.full(len(own), np.nan), np.full(len(own), np.nan)
        win[has], say[has] = now.nll[has] < then.nll, then.correct
        wins.append(win)
        said.append(say)
    columns: dict[str, list[Any]] = {
        "portability": [_mean(own.share) for own in ratings],
        "portability_accuracy": [_mean(own.correct) for own in ratings],
        "portability_outcomes": [
            outcome_digits(win, own.correct, [False] * len(win))
            for win, own in zip(wins, ratings, strict=True)
        ],
    }
    for kind in _kinds(probes):
        masks = [_is(kind, own) for own in probes]
        right = [own.correct for own in ratings]
        for name, values in (("accuracy", right), ("success", wins), ("previous", said)):
            columns[f"portability_{kind}_{name}"] = [
                _mean(value[mask]) for value, mask in zip(values, masks, strict=True)
            ]
    return columns


def _kinds(probes: Sequence[Sequence[Probe]]) -> list[str]:
    """The kinds of all probes that say theirs, in the order of their first appearance."""
    return list(dict.fromkeys(probe.kind for own in probes for probe in own if probe.kind))


def _is(kind: str, probes: Sequence[Probe]) -> np.ndarray:
    return np.array([probe.kind == kind for probe in probes], dtype=bool)


def _rate_answers(
    lm: LanguageModel,
    probes: Sequence[Sequence[Probe]],
    separators: Sequence[str],
    progress: bool,
) -> tuple[list[Ratings], list[Ratings]]:
    """Ratings of each request's gold answers, all rated in one call; each has its separator.

    Returns:
        Of an answer with aliases the one that the model says, else the most probable one; and of
        the answers themselves, which are the same whatever the model says.
    """
    flat = [probe for own in probes for probe in own]
    if not flat:
        none = np.zeros(0)
        nothing = Ratings(none, none.astype(bool), none.astype(int), none, [])
        return [nothing] * len(probes), [nothing] * len(probes)
    named = [
        (probe.prompt, name, separator)
        for own, separator in zip(probes, separators, strict=True)
        for probe in own
        for name in (probe.answer, *probe.aliases)
    ]
    prompts, names, joined_by = zip(*named, strict=True)
    ratings = rate(lm, prompts, names, separators=joined_by, progress=progress)
    best, first, start = [], [], 0
    for probe in flat:
        first.append(start)
        own_names = range(start, start + 1 + len(probe.aliases))
        best.append(min(own_names, key=lambda i: (not ratings.correct[i], ratings.nll[i])))
        start = own_names.stop
    ends = np.cumsum([len(own) for own in probes]).tolist()
    places = [(end - len(own), end) for end, own in zip(ends, probes, strict=True)]
    chosen, given = ratings.take(best), ratings.take(first)
    return [chosen.rows(*at) for at in places], [given.rows(*at) for at in places]


def _agreement(now: Sequence[Sequence[int]], then: Sequence[Sequence[int]]) -> np.ndarray:
    """For each prompt the share of places at which the same token is the most probable one."""
    return np.array([float(np.mean(np.equal(a, b))) for a, b in zip(now, then, strict=True)])


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of the values that are defined; NaN if there is none."""
    defined = np.asarray(values, dtype=float)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if defined.size else np.nan
