"""How far hidden states of ordinary text and keys of edited facts have moved."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..lm.keys import Average, Contexts, KeyReader
from ..lm.model import LanguageModel
from ..requests.request import EditRequest


def hidden_shift(before: Float[Tensor, "n d_model"], after: Float[Tensor, "n d_model"]) -> float:
    """Root mean square of ‖h' − h‖, relative to that of h about its mean.

    At 1 the states have moved as far as they differ from text to text.

    Args:
        before: hidden states h, one per row.
        after: hidden states h' of the same texts.
    """
    return ((after - before).norm() / (before - before.mean(dim=0)).norm()).item()


def plane(
    before: Float[Tensor, "n d_model"], states: Float[Tensor, "n d_model"]
) -> list[list[float]]:
    """Coordinates of hidden states on the first two principal axes of other ones.

    Args:
        before: states that give centre and axes. The largest entry of each axis is positive, so
            that signs do not depend on the machine.
        states: the states to project.

    Returns:
        n pairs, rounded to three digits for a record.
    """
    centre = before.mean(dim=0)
    axes = torch.linalg.svd((before - centre).double(), full_matrices=False).Vh[:2]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))  # (2, 1)
    axes = axes * largest.sign()
    return [[round(x, 3) for x in row] for row in ((states - centre).double() @ axes.T).tolist()]


def key_drift(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    average: Average,
    keys: Mapping[int, Float[Tensor, "d_ff n"]],
) -> dict[str, float]:
    """How far the keys of requests have moved since they were edited: ‖K_now − K‖ / ‖K‖.

    Args:
        lm: the edited model.
        requests: the requests in the order of the keys' columns.
        contexts: the templates over which keys are averaged.
        average: how they are averaged.
        keys: layer → K as it was when the edits were made; layers in ascending order.

    Returns:
        Layer, as a string, → relative movement.
    """
    moved = dict.fromkeys(keys, 0.0)
    for start in range(0, len(requests), 100):  # bounds memory
        reader = KeyReader(lm, requests[start : start + 100], contexts, average)
        for layer, K in keys.items():
            change = reader.keys(layer).cpu() - K[:, start : start + 100]
            moved[layer] += change.square().sum().item()
    return {str(i): (moved[i] / K.square().sum().item()) ** 0.5 for i, K in keys.items()}
