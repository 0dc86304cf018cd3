"""Second moments of the gradients of a text: Σ g gᵀ over the outputs of the edited matrix.

The loss is −log p of every token of a text given those before it, summed over the text: the text is
its own label, which makes E[g gᵀ] the output factor of the empirical Fisher matrix.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..algebra.second_moment import SecondMoment
from .likelihood import Features, read_features
from .model import LanguageModel
from .second_moments import collect_second_moments
from .tokens import ContinuationRow

BATCH_TOKENS = 2048
"""Tokens whose logits are held at once, several times."""


def read_text_features(
    lm: LanguageModel, rows: Sequence[Sequence[int]], layers: Sequence[int]
) -> dict[int, Features]:
    """Inputs and output gradients of the edited matrices at every token but the last of each text.

    Args:
        lm: the model.
        rows: token ids of the texts, of at least two tokens each.
        layers: whose matrices are read.
    """
    texts = [ContinuationRow([*row[:-1]], [*row[1:]]) for row in rows]
    features, _, _ = read_features(lm, texts, layers)  # of the mean over a text's tokens
    lengths = torch.tensor([len(text.ids) for text in texts], device=lm.device)
    return {
        layer: found._replace(g=found.g * lengths[found.row][:, None])
        for layer, found in features.items()
    }


def collect_gradient_moments(
    lm: LanguageModel, texts: Sequence[str], layers: Sequence[int], *, progress: bool = True
) -> dict[int, SecondMoment]:
    """Return Σ g gᵀ and the number of tokens with a next one in `texts`, for each layer.

    Source:
        K-FAC (1503.05671); CrispEdit (2602.15823) for the text as its own label.
    """
    return collect_second_moments(
        lm, texts, layers, batch_tokens=BATCH_TOKENS, progress=progress, add=_add_gradients
    )


def _add_gradients(
    lm: LanguageModel,
    rows: list[list[int]],
    modules: Mapping[int, nn.Module],
    moments: dict[int, SecondMoment],
    chunk: int,
) -> None:
    """Add the gradients of one batch; the arguments are those of `_add_keys`."""
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        return
    for layer, found in read_text_features(lm, rows, [*modules]).items():
        own = moments.setdefault(layer, SecondMoment(found.g.shape[1], found.g.device))
        own.update(found.g, chunk)
