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


def whitened_shift(
    before: Float[Tensor, "n d_model"], after: Float[Tensor, "n d_model"]
) -> Float[Tensor, "k"]:
    r"""Movement along each principal direction of hidden states, in units of their spread there.

    R_k = √n · mean over texts of the absolute value of c_k, over σ_k, where c = Uᵀ(h' − h), and U
    and σ are principal directions and singular values of the n states h about their mean. At 1 the
    states have moved along u_k as far as they lie apart there. A rotation of the space or another
    unit changes nothing; what `hidden_shift` adds up, mostly along the few directions of large
    variance, is seen here for each alone.

    Where n is hardly larger than d_model, the last σ_k are too small by far, and their R_k too
    large, by factors that are the same for every editor.

    Args:
        before: hidden states h, one per row.
        after: hidden states h' of the same texts.

    Returns:
        R_k by falling variance, float64, for the k ≤ min(n − 1, d_model) directions along which the
        states h differ beyond round-off.

    Source: arXiv:2606.00570, there of a down-projection's output over C4 texts, one state a token;
    here of the last block's output, averaged over a text's tokens.
    """
    centred = (before - before.mean(dim=0)).double()
    _, sigma, directions = torch.linalg.svd(centred, full_matrices=False)
    spread = sigma > sigma[0] * max(before.shape) * torch.finfo(before.dtype).eps
    moved = (after - before).double() @ directions[spread].T  # (n, k)
    return len(before) ** 0.5 * moved.abs().mean(dim=0) / sigma[spread]


def shift_summary(
    before: Float[Tensor, "n d_model"], after: Float[Tensor, "n d_model"]
) -> dict[str, float | None]:
    """`whitened_shift` in four numbers for a record.

    Medians over quarters of the directions, because R_k differs by orders of magnitude between
    directions and a mean would be that of the last few, whose σ_k is least certain. The share above
    1 is the source's own count of directions whose signal is lost.

    Args:
        before, after: as in `whitened_shift`.

    Returns:
        "median" over all directions, "high" and "low" over the quarters of highest and lowest
        variance, "above_one" the share of directions with R_k > 1. None where states are not finite
        or do not differ.
    """
    names = ("median", "high", "low", "above_one")
    if not after.isfinite().all() or len(R := whitened_shift(before, after)) == 0:
        return dict.fromkeys(names)
    quarter = -(-len(R) // 4)
    medians = (part.quantile(0.5) for part in (R, R[:quarter], R[-quarter:]))
    values = (*medians, (R > 1).double().mean())
    return {name: value.item() for name, value in zip(names, values, strict=True)}


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
