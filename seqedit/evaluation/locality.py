"""What must stay and what must follow: prompts with gold answers beside an edit, as ZsRE and KnowEdit have them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..lm.model import LanguageModel
from ..requests.request import EditRequest
from .continuations import rate


def score_probes(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    before: Sequence | None = None,
    *,
    progress: bool = False,
) -> pd.DataFrame:
    """One row per request, means over its locality and portability prompts; no columns where no request has any.

    * `locality_gold`: share of the gold answer's tokens that are the most probable ones, teacher forced. It measures
      what the unedited model knew, too, and can rise by an edit; ROME, MEMIT and their successors call it specificity.
    * `locality_gold_accuracy`: all of them are.
    * `locality_unedited`: share of these places where the most probable token is the unedited model's, right or wrong;
      MEND's locality. 1 on an unedited model.
    * `portability`, `portability_accuracy`: as the first two, for answers that follow from the edit.
    * `locality_best`: the most probable tokens themselves, for the `before` of a later call.

    Args:
        before: `locality_best` of the same requests on the unedited model; without it `locality_unedited` is left out.

    Source: MEND (2110.11309) §5, KnowEdit (2401.01286) §4, and the evaluation of ZsRE released with MEMIT.
    """
    columns: dict[str, list] = {}
    for kind, name in (("locality", "locality_gold"), ("portability", "portability")):
        at = [(i, *probe) for i, request in enumerate(requests) for probe in getattr(request, kind)]
        if not at:
            continue
        owner, prompts, answers = zip(*at, strict=True)
        ratings = rate(lm, prompts, answers, progress=progress)
        rows = [np.flatnonzero(np.equal(owner, i)) for i in range(len(requests))]
        columns[name] = [_mean(ratings.share[own]) for own in rows]
        columns[name + "_accuracy"] = [_mean(ratings.correct[own]) for own in rows]
        if kind == "locality":
            best = [[ratings.best[row] for row in own] for own in rows]
            if before is not None:
                columns["locality_unedited"] = [
                    _mean(
                        [
                            np.mean(np.equal(now, then))
                            for now, then in zip(own, earlier, strict=True)
                        ]
                    )
                    for own, earlier in zip(best, before, strict=True)
                ]
            columns["locality_best"] = best
    return pd.DataFrame(columns, index=range(len(requests)))


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan
