"""Locality and portability: prompts with gold answers beside an edit, as in ZsRE and KnowEdit."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..lm.model import LanguageModel
from ..requests.request import EditRequest
from .continuations import Ratings, rate


def score_probes(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    before: Sequence[Sequence[Sequence[int]]] | None = None,
    *,
    progress: bool = False,
) -> pd.DataFrame:
    """Score the locality and portability prompts of each request; one row per request.

    Columns are means over a request's prompts, NaN if it has none. If no request has prompts of a
    kind its columns are missing.

    * `locality_gold`: share of the gold answer's tokens that are the most probable ones, teacher
      forced. It also measures what the unedited model knew, and an edit can raise it. ROME, MEMIT
      and their successors call it specificity.
    * `locality_gold_accuracy`: share of the prompts for which all of them are.
    * `locality_unedited`: share of these tokens' places where the most probable token is the one of
      the unedited model, right or wrong; MEND's locality. It is 1 on the unedited model.
    * `locality_best`: the most probable tokens themselves, for the `before` of a later call.
    * `portability`, `portability_accuracy`: like the first two, for answers that follow from the
      edit.

    Args:
        lm: the model.
        requests: the requests to measure.
        before: `locality_best` of the same requests on the unedited model; `locality_unedited`
            needs it.
        progress: show a progress bar.

    Source:
        MEND (2110.11309) §5, KnowEdit (2401.01286) §4, and the evaluation of ZsRE released with
        MEMIT.
    """
    columns: dict[str, list] = {}
    locality = [request.locality for request in requests]
    portability = [request.portability for request in requests]
    if any(locality):
        ratings = _rate_probes(lm, locality, progress)
        columns["locality_gold"] = [_mean(own.share) for own in ratings]
        columns["locality_gold_accuracy"] = [_mean(own.correct) for own in ratings]
        best = [own.best for own in ratings]
        if before is not None:
            columns["locality_unedited"] = list(map(_mean_agreement, best, before))
        columns["locality_best"] = best
    if any(portability):
        ratings = _rate_probes(lm, portability, progress)
        columns["portability"] = [_mean(own.share) for own in ratings]
        columns["portability_accuracy"] = [_mean(own.correct) for own in ratings]
    return pd.DataFrame(columns, index=range(len(requests)))


def _rate_probes(
    lm: LanguageModel, probes: Sequence[Sequence[tuple[str, str]]], progress: bool
) -> list[Ratings]:
    """Ratings of each request's gold answers, all rated in one call.

    Args:
        lm: the model.
        probes: (prompt, gold answer) pairs of each request.
        progress: show a progress bar.
    """
    flat = [probe for own in probes for probe in own]
    ratings = rate(
        lm, [prompt for prompt, _ in flat], [gold for _, gold in flat], progress=progress
    )
    ends = np.cumsum([len(own) for own in probes]).tolist()
    return [ratings.rows(end - len(own), end) for end, own in zip(ends, probes, strict=True)]


def _mean_agreement(now: Sequence[Sequence[int]], then: Sequence[Sequence[int]]) -> float:
    """Mean over prompts of the share of places at which the same token is the most probable one."""
    return _mean([float(np.mean(np.equal(a, b))) for a, b in zip(now, then, strict=True)])


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan
