"""Edit metrics of CounterFact and ZsRE: efficacy, paraphrase, neighbourhood and locality."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..lm.model import LanguageModel
from ..requests.request import EditRequest
from .continuations import rate
from .locality import score_probes


@dataclass(frozen=True)
class Kind:
    """A kind of prompt on which edits are measured.

    Attributes:
        prompts: request → its prompts of this kind.
        right: the target that is right after these prompts once the edit is made.
    """

    prompts: Callable[[EditRequest], tuple[str, ...]]
    right: Literal["new", "true"]


KINDS = {
    "efficacy": Kind(lambda request: (request.text,), right="new"),
    "paraphrase": Kind(lambda request: request.paraphrase_prompts, right="new"),
    "neighborhood": Kind(lambda request: request.neighborhood_prompts, right="true"),
}
"""The kinds of prompts that are always measured."""

EXTRA_KINDS = {"attribute": Kind(lambda request: request.attribute_prompts, right="new")}
"""The kinds that are measured on request only.

Attribute prompts ask for the relation of other subjects that have the new object anyway.
"""

SCORE = ("efficacy", "paraphrase", "neighborhood")
"""The three successes whose harmonic mean is CounterFact's published score."""

SUFFIXES = {"success": "", "accuracy": "_accuracy", "tokens": "_tokens"}
"""Measure → the ending of its columns in `score_edits`."""

NO_METRICS = ("case_id", "neighborhood_top", "locality_best", "round")
"""Columns of `score_edits` that are no metrics."""

HEADLINES = (
    *SCORE,
    "score",
    "efficacy_accuracy",
    "efficacy_tokens",
    "locality_gold",
    "locality_unedited",
    "wild_bare_contains",
)
"""The metrics that the command line prints after a run, in this order."""


def score_edits(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    unedited: pd.DataFrame | None = None,
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

    Other columns:

    * `probability` of the new object after the edited prompt, a geometric mean over its tokens.
    * `neighborhood_top`: the most probable token after each neighborhood prompt, for `unedited`.
    * `neighborhood_kept`: the share of them that are the unedited model's; needs `unedited`.
    * `locality_…` and `portability_…` if requests have such prompts: see `score_probes`.

    Args:
        lm: the model, edited or not.
        requests: what to measure.
        unedited: the frame this function returned for the same requests on the unedited model.
        extra_kinds: names in `EXTRA_KINDS` that are measured, too. The new object is right for
            "attribute".
        progress: show a progress bar.

    Raises:
        ValueError: `unedited` lacks a request.

    Source:
        CounterFact in ROME (2202.05262) §3.4 and ZsRE in MEND (2110.11309), with the definitions
        of MEMIT's released code.
    """
    kinds = KINDS | {name: EXTRA_KINDS[name] for name in extra_kinds}
    frame = _measure_prompts(lm, requests, kinds, progress)
    scores = pd.DataFrame({"case_id": [r.case_id for r in requests]})
    for kind in kinds:
        own = frame[frame["kind"] == kind].groupby("request")[list(SUFFIXES)]
        means = own.mean().reindex(scores.index)
        for measure, suffix in SUFFIXES.items():
            scores[kind + suffix] = means[measure]
    edited = frame[frame["kind"] == "efficacy"].set_index("request")
    scores["probability"] = np.exp(-edited["nll"].reindex(scores.index))
    neighbours = frame[frame["kind"] == "neighborhood"].groupby("request")
    scores["neighborhood_top"] = neighbours["top"].agg(list).reindex(scores.index)
    if unedited is not None:
        before = _aligned(unedited, scores, "neighborhood_top")
        scores["neighborhood_kept"] = [
            np.mean(np.equal(now, then)) if isinstance(now, list) else np.nan
            for now, then in zip(scores["neighborhood_top"], before, strict=True)
        ]
    best = None
    if unedited is not None and "locality_best" in unedited:
        best = _aligned(unedited, scores, "locality_best")
    return pd.concat([scores, score_probes(lm, requests, best, progress=progress)], axis=1)


def _measure_prompts(
    lm: LanguageModel, requests: Sequence[EditRequest], kinds: dict[str, Kind], progress: bool
) -> pd.DataFrame:
    """One row per prompt: request (its index), kind, the measures of `SUFFIXES`, nll and top.

    `nll` is that of the new target, and `top` the most probable token after the prompt.
    """
    owners: list[int] = []
    names: list[str] = []
    new: list[int] = []  # row of the new target in `texts` and `targets`
    true: list[int] = []  # row of the true target; 0, and `has_true` False, if there is none
    texts: list[str] = []
    targets: list[str] = []
    for i, request in enumerate(requests):
        for name, kind in kinds.items():
            for prompt in kind.prompts(request):
                owners.append(i)
                names.append(name)
                new.append(len(texts))
                texts.append(prompt)
                targets.append(request.target_new)
                true.append(len(texts) if request.target_true is not None else 0)
                if request.target_true is not None:
                    texts.append(prompt)
                    targets.append(request.target_true)
    ratings = rate(lm, texts, targets, progress=progress)
    has_true = np.array([requests[i].target_true is not None for i in owners], dtype=bool)
    true_is_right = np.array([kinds[name].right == "true" for name in names], dtype=bool)

    def of_true(values: np.ndarray) -> np.ndarray:
        return np.where(has_true, values[true].astype(float), np.nan)

    def of_right(values: np.ndarray) -> np.ndarray:
        return np.where(true_is_right, of_true(values), values[new].astype(float))

    margin = of_true(ratings.nll) - ratings.nll[new]  # > 0: the new target is more probable
    success = np.where(true_is_right, margin < 0, margin > 0).astype(float)
    return pd.DataFrame(
        {
            "request": owners,
            "kind": names,
            "success": np.where(np.isnan(margin), np.nan, success),
            "accuracy": of_right(ratings.correct),
            "tokens": of_right(ratings.share),
            "nll": ratings.nll[new],
            "top": ratings.top[new],
        }
    )


def summarise(scores: pd.DataFrame) -> dict[str, float]:
    """Average every metric of `score_edits` over the requests.

    Returns:
        metric → mean over the requests that have it; `score`, the harmonic mean of the successes in
        `SCORE`, 0 if one of them is 0; and `n`, the number of requests.
    """
    metrics = [name for name in scores.columns if name not in NO_METRICS]
    summary = {name: float(scores[name].mean()) for name in metrics}
    values = np.array([summary[kind] for kind in SCORE])
    if (values > 0).all():
        summary["score"] = float(len(values) / np.sum(1 / values))
    else:
        summary["score"] = float(min(values.min(), 0.0))  # NaN if one of them is
    return summary | {"n": len(scores)}


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
