"""Measurements on weights and updates: spectrum, condition number and drift."""

import torch
from jaxtyping import Float
from torch import Tensor

from .compact import CompactMoment

ACCURATE = 1e-10
"""Eigenvalues of WWᵀ are exact to about 1e-16 of the largest. Singular values are taken from them
if the smallest is at least this share of it: relative errors then stay below 1e-6.
"""


def spectrum(W: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "k"]:
    """Singular values of W in descending order, float64.

    They come from the eigenvalues of WWᵀ or WᵀW, whichever is smaller, which takes a tenth of the
    time; of a matrix whose condition number is above 10⁵ from a singular value decomposition.
    """
    values = _squares(W)
    if values[0] < ACCURATE * values[-1]:
        return torch.linalg.svdvals(W.double())
    return values.sqrt().flip(0)


SKETCH = 128
"""Dimensions in which `largest_singular_value` first looks: more than a round usually has edits."""


def largest_singular_value(W: Float[Tensor, "d_model d_ff"]) -> float:
    """σ_max(W), exact to about 1e-13; fast if the rank is at most `SKETCH`, as of most updates.

    The range is found from products with random vectors. It is the whole range if nothing of W is
    left outside, which its Frobenius norm tells; if something is, all of W is looked at.
    """
    W, generator = W.double(), torch.Generator().manual_seed(0)
    size = W.square().sum()
    if SKETCH < min(W.shape):
        start = torch.randn(W.shape[1], SKETCH, dtype=torch.float64, generator=generator)
        inside = torch.linalg.qr(W @ start.to(W.device))[0].T @ W  # (SKETCH, d_ff)
        if (size - inside.square().sum()).abs() <= 1e-13 * size:
            W = inside
    return _squares(W)[-1].clamp(min=0).sqrt().item()


def _squares(W: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "k"]:
    """The squares of the singular values in ascending order, with an absolute error."""
    W = W.double()
    return torch.linalg.eigvalsh(W @ W.T if len(W) <= W.shape[1] else W.T @ W)


def condition_number(W: Float[Tensor, "d_model d_ff"], without_mean: bool = False) -> float:
    """κ(W) = σ_max / σ_min; infinite if σ_min is 0.

    σ_min is the smallest of the min(d_model, d_ff) singular values.

    Args:
        W: the matrix, out × in.
        without_mean: measure (I − 11ᵀ/d_model)W instead, over its min(d_model − 1, d_ff) singular
            values. This is the part of the output that a LayerNorm reads.
    """
    if without_mean:
        W = _without_mean(W)
    values = spectrum(W)
    return (values[0] / values[-1]).item() if values[-1] > 0 else float("inf")


def _without_mean(W: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "d_rest d_ff"]:
    """d_model − 1 rows with the singular values of (I − 11ᵀ/d_model)W that do not vanish by it."""
    n = len(W)
    u = torch.ones(n, dtype=torch.float64, device=W.device) / n**0.5
    u[0] += 1  # Householder's reflection of (1, …, 1)/√n to −e₁
    W = W.double()
    return (W - torch.outer(u, u @ W) * (2 / (u @ u)))[1:]


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
