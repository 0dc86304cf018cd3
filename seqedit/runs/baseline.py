"""Measures the unedited model, once for all runs of a process that start from the same model and
requests.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from ..evaluation.abilities import answer_facts, read_facts
from ..evaluation.edits import summarise
from ..evaluation.probes import EditedFacts
from ..evaluation.report import finite_perplexity, ordinary_states
from ..lm.fingerprint import fingerprint
from ..lm.model import LanguageModel
from ..requests.request import EditRequest
from .config import Say, ignore
from .unedited import unedited_scores


@dataclass(frozen=True)
class Baseline:
    """What was measured of a model before its first edit.

    Attributes:
        scores: `score_edits` of all requests of the run.
        states: `ordinary_states`, (texts, d_model); None for a model other than the embedded one.
        known: whether it says each fact of a file that is never edited, and no request is about the
            fact's subject; None without such a file.
        measured: `text_perplexity` of the texts that a run was given, and `kept_left_out`, how many
            of the facts a request is about; each only where there are such.
    """

    scores: pd.DataFrame
    states: Float[Tensor, "n d_model"] | None
    known: Bool[np.ndarray, "facts"] | None
    measured: dict[str, float | None]

    def summary(self) -> dict[str, float | None]:
        """The metrics of the unedited model, as `summarise` gives them, and the perplexity of
        texts; None for NaN.
        """
        edits = summarise(self.scores)
        return {n: None if np.isnan(value) else value for n, value in edits.items()} | self.measured


_MEASURED: dict[Hashable, Baseline] = {}


def measure_baseline(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    world: Path | None,
    kept: Path | None,
    texts: Sequence[str] = (),
    say: Say = ignore,
) -> Baseline:
    """Measure a model that no run has edited yet.

    The runs of a study differ in method more often than in requests. The same requests in the same
    order on the same model give the same bits, so a process measures them once. Models are the same
    if fingerprint, device and number format are. Scores are also kept on disk, see
    `unedited_scores`.

    Args:
        world: folder of the fictional world, for the embedded model.
        kept: file of facts that are never edited, see `RunConfig.kept`. Those about a subject of
            one of the requests are left out: they may be what an edit changes.
        texts: documents whose perplexity is measured.
        say: told what a user may want to know.
    """
    dtype = next(lm.model.parameters()).dtype
    key = (fingerprint(lm), lm.device, dtype, tuple(requests), world, kept, tuple(texts))
    if key not in _MEASURED:
        states = None if world is None else ordinary_states(lm, world)
        measured: dict[str, Any] = {}
        if texts:
            measured["text_perplexity"] = finite_perplexity(lm, texts)
        known = None
        if kept is not None:
            edited = EditedFacts(requests)
            about = np.array([edited.are_about(prompt) for prompt in read_facts(kept)[0]])
            known, measured["kept_left_out"] = answer_facts(lm, kept) & ~about, int(about.sum())
        _MEASURED[key] = Baseline(unedited_scores(lm, requests, say=say), states, known, measured)
    return _MEASURED[key]
