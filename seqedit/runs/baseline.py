"""What a run measures of the model before the first edit; runs of one process that begin alike share it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from ..evaluation.edits import score_edits
from ..evaluation.report import ordinary_states
from ..lm.fingerprint import fingerprint
from ..lm.model import LanguageModel
from ..requests.request import EditRequest


@dataclass(frozen=True)
class Unedited:
    """Attributes:
    scores: `score_edits` of all requests of the run; states: `ordinary_states`, None without the embedded world.
    """

    scores: pd.DataFrame
    states: Tensor | None


_FOUND: dict[Hashable, Unedited] = {}


def measure_unedited(
    lm: LanguageModel, requests: Sequence[EditRequest], world: Path | None
) -> Unedited:
    """Scores and states of a model that no run has edited yet.

    The runs of a study differ in method more often than in requests. Equal requests, in equal order, on the same
    model give the same bits, so a process scores them once. Models are the same when fingerprint, device and number
    format are.
    """
    key = (fingerprint(lm), lm.device, next(lm.model.parameters()).dtype, tuple(requests), world)
    if key not in _FOUND:
        _FOUND[key] = Unedited(
            score_edits(lm, requests), ordinary_states(lm, world) if world else None
        )
    return _FOUND[key]
