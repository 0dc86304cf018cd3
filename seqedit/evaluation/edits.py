"""Edit metrics of CounterFact and ZsRE: efficacy, paraphrase, neighbourhood and locality, each named as measured."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..lm.model import LanguageModel
from ..requests.request import EditRequest
from .continuations import rate
from .locality import score_probes

KINDS = ("efficacy", "paraphrase", "neighborhood")
MEASURES = {"success": "", "accuracy": "_accuracy", "tokens": "_tokens"}
ASIDE = ("case_id", "neighborhood_top", "locality_best", "round")
"""Columns of `score_edits` that are no metric."""


def score_edits(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    unedited: pd.DataFrame | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """One row per request; every metric is the mean over its prompts of that kind, NaN where it has none.

    * success: efficacy and paraphrase count prompts where the new object is more probable than the true one
      (mean token log-probability), neighborhood those where the true one is. NaN without `target_true`.
    * `…_accuracy`: every token of the right continuation is the most probable one: the new object for efficacy and
      paraphrase, the true one for neighborhood. Success and accuracy can differ by tens of points.
    * `…_tokens`: the share of its tokens that are the most probable ones, teacher forced; what MEND and MEMIT report
      for ZsRE. The tokens are those of prompt and continuation as one text, so that a tokenizer's BOS is read once and
      never scored; the released scoring adds it to every answer, which bounds n tokens' accuracy by n/(n + 1).
    * `locality_…` and `portability_…` where requests have such prompts: see `score_probes`.
    * `neighborhood_kept`: the most probable next token is the unedited model's; needs `unedited`.

    Args:
        unedited: the frame this function returned for the same requests before any edit.

    Source:
        CounterFact in ROME (2202.05262) §3.4 and ZsRE in MEND (2110.11309), with MEMIT's released definitions.
    """
    rows = [
        (i, kind, prompt, target)
        for i, request in enumerate(requests)
        for kind, prompts in _prompts(request).items()
        for prompt in prompts
        for target in ("new", "true")
        if target == "new" or request.target_true is not None
    ]
    words = {"new": [r.target_new for r in requests], "true": [r.target_true for r in requests]}
    ratings = rate(
        lm,
        [prompt for _, _, prompt, _ in rows],
        [words[target][i] for i, _, _, target in rows],
        progress=progress,
    )
    frame = pd.DataFrame(rows, columns=["request", "kind", "prompt", "target"]).assign(
        nll=ratings.nll, correct=ratings.correct, top=ratings.top, share=ratings.share
    )
    frame["n"] = frame.groupby(["request", "kind", "target"]).cumcount()
    wide = frame.pivot(
        index=["request", "kind", "n"], columns="target", values=["nll", "correct", "top", "share"]
    )
    for target in ("new", "true"):
        if ("nll", target) not in wide:
            wide["nll", target] = wide["correct", target] = wide["share", target] = np.nan
    away = wide.index.get_level_values("kind") == "neighborhood"
    margin = (wide["nll", "true"] - wide["nll", "new"]).astype(float)  # > 0: the new object wins
    result = pd.DataFrame(
        {
            "success": np.where(away, margin < 0, margin > 0).astype(float),
            "accuracy": np.where(away, wide["correct", "true"], wide["correct", "new"]).astype(
                float
            ),
            "tokens": np.where(away, wide["share", "true"], wide["share", "new"]).astype(float),
        },
        index=wide.index,
    )
    result.loc[margin.isna(), "success"] = np.nan
    means = result.groupby(["request", "kind"]).mean().unstack("kind")
    scores = pd.DataFrame({"case_id": [r.case_id for r in requests]})
    for kind in KINDS:
        for measure, suffix in MEASURES.items():
            scores[kind + suffix] = means.get((measure, kind), pd.Series(dtype=float)).reindex(
                scores.index
            )
    first = wide.xs(0, level="n").xs("efficacy", level="kind")["nll", "new"].astype(float)
    scores["probability"] = np.exp(-first.reindex(scores.index))
    tops = (
        frame[(frame["kind"] == "neighborhood") & (frame["target"] == "new")]
        .groupby("request")["top"]
        .agg(list)
    )
    scores["neighborhood_top"] = tops.reindex(scores.index)
    if unedited is not None:
        scores["neighborhood_kept"] = [
            np.mean(np.equal(now, before)) if isinstance(now, list) else np.nan
            for now, before in zip(
                scores["neighborhood_top"],
                _aligned(unedited, scores, "neighborhood_top"),
                strict=True,
            )
        ]
    known = unedited is not None and "locality_best" in unedited
    before = _aligned(unedited, scores, "locality_best") if known else None
    return pd.concat([scores, score_probes(lm, requests, before, progress=progress)], axis=1)


def summarise(scores: pd.DataFrame) -> dict[str, float]:
    """Means over requests of every metric, `score` = harmonic mean of the three successes, and `n`."""
    summary = {name: float(scores[name].mean()) for name in scores.columns if name not in ASIDE}
    values = np.array([summary[kind] for kind in KINDS])
    summary["score"] = (
        float(len(values) / np.sum(1 / values))
        if (values > 0).all()
        else float(min(values.min(), 0.0))
    )
    return summary | {"n": len(scores)}


def retention(scores: pd.DataFrame, last_round: int) -> pd.DataFrame:
    """How edits of each round have kept: rows (round, age, accuracy, n); age 0 is the last round.

    Args:
        scores: with a column `round`, the round in which each request was edited.
        last_round: the round after which `scores` was measured.
    """
    grouped = (
        scores.groupby("round")["efficacy_accuracy"].agg(accuracy="mean", n="size").reset_index()
    )
    grouped.insert(1, "age", last_round - grouped["round"])
    return grouped


def _prompts(request: EditRequest) -> dict[str, tuple[str, ...]]:
    return {
        "efficacy": (request.text,),
        "paraphrase": request.paraphrase_prompts,
        "neighborhood": request.neighborhood_prompts,
    }


def _aligned(unedited: pd.DataFrame, scores: pd.DataFrame, column: str) -> list:
    """A column of the unedited model's scores in the order of `scores`.

    Raises:
        ValueError: a request was not measured before the edits.
    """
    before = unedited.set_index("case_id")[column]
    missing = [case for case in scores["case_id"] if case not in before.index]
    if missing:
        raise ValueError(f"unedited: case_id {missing[0]!r} was not measured on the unedited model")
    return [before[case] for case in scores["case_id"]]
