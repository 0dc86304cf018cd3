"""How far a model's inside moved: hidden states of ordinary text, keys of facts that were edited."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..lm.keys import Average, Contexts, KeyReader
from ..lm.model import LanguageModel
from ..requests.request import EditRequest


def hidden_shift(before: Float[Tensor, "n d_model"], after: Float[Tensor, "n d_model"]) -> float:
    """Root mean square of ‖h' − h‖ relative to that of h about its mean: 1 is a move as far as texts lie apart."""
    return ((after - before).norm() / (before - before.mean(dim=0)).norm()).item()


def plane(
    before: Float[Tensor, "n d_model"], states: Float[Tensor, "n d_model"]
) -> list[list[float]]:
    """Coordinates of `states` on the first two principal axes of `before`, (n, 2), rounded for a record."""
    centre = before.mean(dim=0)
    axes = torch.linalg.svd((before - centre).double(), full_matrices=False).Vh[:2]
    axes = (
        axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    )  # one sign on every machine
    return [[round(x, 3) for x in row] for row in ((states - centre).double() @ axes.T).tolist()]


def key_drift(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    average: Average,
    keys: Mapping[int, Float[Tensor, "d_ff n"]],
) -> dict[str, float]:
    """layer → how far the keys of these requests moved since they were written: ‖K_now − K‖ / ‖K‖.

    Layers in ascending order.
    """
    moved = dict.fromkeys(keys, 0.0)
    for start in range(0, len(requests), 100):  # bounds memory
        reader = KeyReader(lm, requests[start : start + 100], contexts, average)
        for layer, K in keys.items():
            moved[layer] += (
                (reader.keys(layer).cpu() - K[:, start : start + 100]).square().sum().item()
            )
    return {
        str(layer): (moved[layer] / K.square().sum().item()) ** 0.5 for layer, K in keys.items()
    }
