"""Edit metrics of CounterFact and ZsRE: efficacy, paraphrase, neighbourhood and locality."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..lm.model import LanguageModel
from ..requests.request import EditRequest
from .locality import score_probes
from .probes import (
    KINDS,
    EditedFacts,
    Kind,
    find_extra_kinds,
    measure_prompts,
    outcome_digits,
)

SCORE = ("efficacy", "paraphrase", "neighborhood")
"""The three successes whose harmonic mean is CounterFact's published score."""

SUFFIXES = {"success": "", "accuracy": "_accuracy", "tokens": "_tokens"}
"""Measure → the ending of its columns in `score_edits`."""

OUTCOMES = "_outcomes"
"""The ending of the columns of `score_edits` that hold the outcome of every single probe."""

NO_METRICS = ("case_id", "neighborhood_top", "locality_best", "round")
"""Columns of `score_edits`, beside those that end in `OUTCOMES`, that are no metrics."""

HEADLINES = (
    *SCORE,
    "score",
    "efficacy_accuracy",
    "efficacy_tokens",
    "locality_gold",
    "locality_unedited",
    "portability",
    "wild_bare_contains",
)
"""The metrics that the command line prints after a run, in this order."""


def score_edits(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    unedited: pd.DataFrame | None = None,
    edited: Iterable[EditRequest] | None = None,
    extra_kinds: Sequence[str] = (),
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how well each request is edited; one row per request.

    Each metric of a kind of prompts (`KINDS`) is the mean over the request's prompts of that kind,
    NaN if it has none:

    * `efficacy`, `paraphrase`, `neighborhood`: success, the share of prompts after which the right
      target is more probable than the other one (mean log-probability of its tokens). The right
      target is the new object for efficacy and paraphrase and the true one for neighborhood. NaN
      without `target_true`.
    * `…_accuracy`: the share of prompts after which every token of the right target is the most
      probable one. Success and accuracy can differ by tens of points.
    * `…_tokens`: the share of the right target's tokens that are the most probable ones, teacher
      forced. MEND and MEMIT report it for ZsRE. Prompt and target are tokenised as one text, so
      that a tokenizer's BOS is read once and never scored. The released scoring adds the BOS to
      every answer, which bounds the accuracy of n tokens by n/(n + 1).

    Prompts of the neighbourhood whose own fact has been edited are left out of these means:
    `neighborhood_left_out` is their share, and `neighborhood_all` and `neighborhood_all_accuracy`
    are the means with them, as published evaluations count.

    Other columns:

    * `probability` of the new object after the edited prompt, a geometric mean over its tokens.
    * `neighborhood_top`: the most probable token after each neighborhood prompt, for `unedited`.
    * `neighborhood_kept`: the share of them that are the unedited model's; needs `unedited`.
    * `…_outcomes`: the outcome of every single probe of a kind, see `outcome_digits`.
    * `locality_…` and `portability_…` if requests have such prompts: see `score_probes`.

    Args:
        lm: the model, edited or not.
        requests: what to measure.
        unedited: the frame this function returned for the same requests on the unedited model.
        edited: all requests edited so far; by default those that are measured.
        extra_kinds: names in `EXTRA_KINDS` that are measured, too.
        progress: show a progress bar.

    Raises:
        ValueError: `unedited` lacks a request, or there is no such kind.

    Source:
        CounterFact in ROME (2202.05262) §3.4 and ZsRE in MEND (2110.11309), with the definitions
        of MEMIT's released code, but for the prompts that are left out.
    """
    kinds = KINDS | find_extra_kinds(extra_kinds)
    facts = EditedFacts(requests if edited is None else edited)
    frame = measure_prompts(lm, requests, kinds, facts, progress)
    scores = pd.DataFrame({"case_id": [r.case_id for r in requests]})
    for name, kind in kinds.items():
        _add_metrics(scores, name, kind, frame[frame["kind"] == name])
    own = frame[frame["kind"] == "efficacy"].set_index("request")
    scores["probability"] = np.exp(-own["nll"].reindex(scores.index))
    neighbours = frame[frame["kind"] == "neighborhood"].groupby("request")
    scores["neighborhood_top"] = neighbours["top"].agg(list).reindex(scores.index)
    if unedited is not None:
        left_out = neighbours["left_out"].agg(list).reindex(scores.index)
        before = _aligned(unedited, scores, "neighborhood_top")
        scores["neighborhood_kept"] = [
            _share_kept(now, then, out) if isinstance(now, list) else np.nan
            for now, then, out in zip(scores["neighborhood_top"], before, left_out, strict=True)
        ]
    best = None
    if unedited is not None and "locality_best" in unedited:
        best = _aligned(unedited, scores, "locality_best")
    return pd.concat([scores, score_probes(lm, requests, facts, best, progress=progress)], axis=1)


def _add_metrics(scores: pd.DataFrame, name: str, kind: Kind, frame: pd.DataFrame) -> None:
    """Add the metrics and outcomes of a kind of prompts to `scores`, from one row per prompt."""
    every = frame.groupby("request")
    counted = frame[~frame["left_out"]].groupby("request")[list(SUFFIXES)].mean()
    for measure, suffix in SUFFIXES.items():
        scores[name + suffix] = counted[measure].reindex(scores.index)
    if kind.protects:
        scores[f"{name}_left_out"] = every["left_out"].mean().reindex(scores.index)
        scores[f"{name}_all"] = every["success"].mean().reindex(scores.index)
        scores[f"{name}_all_accuracy"] = every["accuracy"].mean().reindex(scores.index)
    digits = {
        i: outcome_digits(*own[["success", "accuracy", "left_out"]].to_numpy().T)
        for i, own in every
    }
    scores[name + OUTCOMES] = [digits.get(i, "") for i in scores.index]


def _share_kept(now: list[int], then: list[int], left_out: list[bool]) -> float:
    """Share of the prompts that count after which the most probable token has stayed the same."""
    same = np.equal(now, then)[~np.array(left_out, dtype=bool)]
    return float(same.mean()) if same.size else np.nan


def summarise(scores: pd.DataFrame) -> dict[str, float]:
    """Average every metric of `score_edits` over the requests.

    Returns:
        metric → mean over the requests that have it; `score`, the harmonic mean of the successes in
        `SCORE`, 0 if one of them is 0; and `n`, the number of requests.
    """
    metrics = [
        name for name in scores if name not in NO_METRICS and not str(name).endswith(OUTCOMES)
    ]
    summary = {str(name): float(scores[name].mean()) for name in metrics}
    values = np.array([summary[kind] for kind in SCORE])
    if (values > 0).all():
        summary["score"] = float(len(values) / np.sum(1 / values))
    else:
        summary["score"] = float(min(values.min(), 0.0))  # NaN if one of them is
    return summary | {"n": len(scores)}


def outcome_rows(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """The outcomes of every single probe: one row per request, one field per kind of probes.

    Args:
        scores: from `score_edits`.

    Returns:
        Rows with `case_id` and, for every kind of which a request has probes, what
        `outcome_digits` writes.
    """
    columns = [str(name) for name in scores if str(name).endswith(OUTCOMES)]
    return [
        {"case_id": row["case_id"]}
        | {name.removesuffix(OUTCOMES): row[name] for name in columns if row[name]}
        for row in scores[["case_id", *columns]].to_dict("records")
    ]


def retention(scores: pd.DataFrame, last_round: int) -> pd.DataFrame:
    """Average the accuracy of the edits of each round, to see how they lasted.

    Args:
        scores: from `score_edits`, with a column `round`, the round in which each was edited.
        last_round: the round after which `scores` was measured.

    Returns:
        Rows (round, age, accuracy, n); the age of an edit of the last round is 0.
    """
    grouped = (
        scores.groupby("round")["efficacy_accuracy"].agg(accuracy="mean", n="size").reset_index()
    )
    grouped.insert(1, "age", last_round - grouped["round"])
    return grouped


def _aligned(unedited: pd.DataFrame, scores: pd.DataFrame, column: str) -> list[Any]:
    """A column of the unedited model's scores in the order of `scores`.

    Raises:
        ValueError: a request was not measured on the unedited model.
    """
    before = unedited.set_index("case_id")[column]
    missing = [case for case in scores["case_id"] if case not in before.index]
    if missing:
        raise ValueError(f"unedited: case_id {missing[0]!r} was not measured on the unedited model")
    return [before[case] for case in scores["case_id"]]
