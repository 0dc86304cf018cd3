"""Low-rank factors of an update."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class LowRank(NamedTuple):
    """Δ ≈ left @ right, each singular value split evenly between the two factors.

    Attributes:
        left: (d_model, r), float32.
        right: (r, d_ff), float32.
        error: ‖Δ − left @ right‖ / ‖Δ‖ after rounding to float32; 0 for Δ = 0.
    """

    left: Float[Tensor, "d_model r"]
    right: Float[Tensor, "r d_ff"]
    error: float

    @property
    def rank(self) -> int:
        """The number r of columns of `left`."""
        return self.left.shape[1]

    def product(self) -> Float[Tensor, "d_model d_ff"]:
        """Compute left @ right in float64."""
        return self.left.double() @ self.right.double()


def round_off(W: Float[Tensor, "d_model d_ff"], writes: int) -> float:
    """Bound the largest singular value of the round-off that additions in float32 leave in W.

    A random matrix with entries of size s has σ₁ ≈ s(√d_model + √d_ff). Here s is 2⁻²⁴ times the
    root mean square of W, and the errors of the additions are taken as independent. The error of a
    single addition is at most half of the bound for it.

    Args:
        W: the matrix after the additions.
        writes: the number of additions.
    """
    m, d = W.shape
    return 2**-24 * W.double().norm().item() * (m**-0.5 + d**-0.5) * writes**0.5


def low_rank(update: Float[Tensor, "d_model d_ff"], tolerance: float) -> LowRank:
    """The best approximation of Δ by its singular values above `tolerance` (Eckart and Young)."""
    update = update.double()
    U, values, Vh = torch.linalg.svd(update, full_matrices=False)
    rank = int((values > tolerance).sum())
    root = values[:rank].sqrt()
    left, right = (U[:, :rank] * root).float(), (root[:, None] * Vh[:rank]).float()
    size = update.norm()
    if size > 0:
        error = ((update - left.double() @ right.double()).norm() / size).item()
    else:
        error = 0.0
    return LowRank(left, right, error)
