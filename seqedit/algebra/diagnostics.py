"""Measurements on weights and updates: spectrum, condition number and drift."""

import torch
from jaxtyping import Float
from torch import Tensor

from .compact import CompactMoment


def spectrum(W: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "k"]:
    """Singular values of W in descending order, float64.

    On a GPU they come from the eigenvalues of WWᵀ, which is much faster there. Their relative error
    is then about κ(W)² · 1e-16.
    """
    if W.is_cuda:
        W = W.double()
        gram = W @ W.T if len(W) <= W.shape[1] else W.T @ W
        return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    return torch.linalg.svdvals(W.double())


def condition_number(W: Float[Tensor, "d_model d_ff"], without_mean: bool = False) -> float:
    """κ(W) = σ_max / σ_min; infinite if σ_min is 0.

    σ_min is the smallest of the min(d_model, d_ff) singular values.

    Args:
        W: the matrix, out × in.
        without_mean: measure (I − 11ᵀ/d_model)W instead, over its min(d_model − 1, d_ff) singular
            values. This is the part of the output that a LayerNorm reads.
    """
    if without_mean:
        values = spectrum(W - W.mean(dim=0))[: min(W.shape[0] - 1, W.shape[1])]
    else:
        values = spectrum(W)
    return (values[0] / values[-1]).item() if values[-1] > 0 else float("inf")


def drift(
    update: Float[Tensor, "d_model d_ff"], C: Float[Tensor, "d_ff d_ff"] | CompactMoment
) -> float:
    """tr(ΔCΔᵀ), the mean squared change of the layer's output over the tokens C was computed from.

    For a compact moment it is an estimate, see `CompactMoment.drift`.
    """
    if isinstance(C, CompactMoment):
        return C.drift(update)
    delta = update.double()
    return torch.einsum("ij,jk,ik->", delta, C.double(), delta).item()
