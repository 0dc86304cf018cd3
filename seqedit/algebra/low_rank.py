"""An update as a product of two thin matrices."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class LowRank(NamedTuple):
    """Δ ≈ left @ right, the singular values shared evenly between the two."""

    left: Float[Tensor, "d_model r"]
    right: Float[Tensor, "r d_ff"]
    error: float  # ‖Δ − left @ right‖ / ‖Δ‖, after rounding to float32

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def product(self) -> Float[Tensor, "d_model d_ff"]:
        """left @ right in float64."""
        return self.left.double() @ self.right.double()


def round_off(W: Float[Tensor, "d_model d_ff"], writes: int) -> float:
    """A bound on the largest singular value of what rounding leaves in W after `writes` additions in float32.

    A random matrix with entries of size s has σ₁ ≈ s(√d_model + √d_ff); here s is 2⁻²⁴ of W's root mean square, and
    errors of additions are independent. Single additions stay below half of it.
    """
    m, d = W.shape
    return 2**-24 * W.double().norm().item() * (m**-0.5 + d**-0.5) * writes**0.5


def low_rank(update: Float[Tensor, "d_model d_ff"], tolerance: float) -> LowRank:
    """The best approximation of Δ (Eckart and Young) by the singular values above `tolerance`, in float32."""
    update = update.double()
    U, values, Vh = torch.linalg.svd(update, full_matrices=False)
    rank = int((values > tolerance).sum())
    share = values[:rank].sqrt()
    found = LowRank((U[:, :rank] * share).float(), (share[:, None] * Vh[:rank]).float(), 0.0)
    size = update.norm()
    return found._replace(
        error=((update - found.product()).norm() / size).item() if size > 0 else 0.0
    )
