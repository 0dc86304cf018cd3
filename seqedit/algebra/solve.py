"""The closed form behind every locate-then-edit method."""

import torch
from jaxtyping import Float
from torch import Tensor


def solve_update(
    K: Float[Tensor, "d_ff n"],
    R: Float[Tensor, "d_model n"],
    M: Float[Tensor, "d_ff d_ff"],
    *,
    basis: Float[Tensor, "d_ff r"] | None = None,
    mu: float = 1.0,
) -> Float[Tensor, "d_model d_ff"]:
    r"""The update that writes residuals `R` at keys `K` while paying for movement measured by `M`.

    Over updates whose rows lie in the span of `basis` (B, orthonormal columns) it solves

    .. math::  \min_\Delta \; \lVert \Delta K - R \rVert_F^2
        + \mu \operatorname{tr}(\Delta M \Delta^\top)

    whose solution is :math:`R K^\top B (\mu B^\top M B + B^\top K K^\top B)^{-1} B^\top`.
    With ``mu=0`` the first term becomes the constraint :math:`\Delta K = R` (ROME, EMMET).

    Args:
        K: keys, one edit per column, in MLP hidden activations of the edited layer.
        R: residuals z* − h, one per column, in residual-stream activations.
        M: metric on key space, symmetric positive semi-definite, activations squared.
        basis: directions the update may read from; ``None`` allows all of them.
        mu: price of movement against misfit, dimensionless; 0 makes the fit exact.

    Returns:
        Δ with the shape, device and dtype of the edited weight. The solve itself runs in float64.

    Raises:
        ValueError: K, R, M or basis disagree in shape, or mu is negative. The message names both
            shapes.
        torch.linalg.LinAlgError: the system is singular; add γI to M, or use mu > 0 if mu = 0.

    Source:
        MEMIT (2210.07229) eq. 14; ROME (2202.05262) eq. 2 and EMMET (2403.14236) for mu = 0;
        AlphaEdit (2410.02355) eq. 14 in null-space coordinates. Checked by ``tests/test_solve.py``.
    """
    _check_shapes(K, R, M, basis, mu)
    k, m = K.double(), _symmetric(M.double())
    if basis is not None:
        b = basis.double()
        k, m = b.T @ k, _symmetric(b.T @ m @ b)  # (r, n), (r, r)
    if mu == 0.0:
        read = spd_solve(m, k)  # m⁻¹k, (r, n)
        gain = spd_solve(_symmetric(k.T @ read), read.T)  # (kᵀm⁻¹k)⁻¹ kᵀm⁻¹, (n, r)
    else:
        gain = spd_solve(mu * m + k @ k.T, k).T  # kᵀ (μm + kkᵀ)⁻¹, (n, r)
    update = R.double() @ gain  # (d_model, r)
    return (update if basis is None else update @ b.T).to(R.dtype)


def _symmetric(A: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """The symmetric part of A, which removes the asymmetry of rounding."""
    return (A + A.T) / 2


def spd_solve(A: Float[Tensor, "m m"], B: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """A⁻¹B by Cholesky, or by LU if rounding made A slightly indefinite.

    Args:
        A: symmetric, positive definite up to rounding.
        B: right-hand sides, one per column.

    Raises:
        torch.linalg.LinAlgError: A is singular.
    """
    factor, failed = torch.linalg.cholesky_ex(A)
    return torch.linalg.solve(A, B) if failed.item() else torch.cholesky_solve(B, factor)


def _check_shapes(K: Tensor, R: Tensor, M: Tensor, basis: Tensor | None, mu: float) -> None:
    """Raise the errors of `solve_update`."""
    if K.shape[1] != R.shape[1]:
        raise ValueError(
            f"K has {K.shape[1]} columns but R has {R.shape[1]}; give one key and one residual "
            "per edit"
        )
    if M.shape != (K.shape[0], K.shape[0]):
        raise ValueError(
            f"K has {K.shape[0]} rows but M is {'×'.join(map(str, M.shape))}; K must hold inputs "
            "of the edited matrix (d_ff), and M be a metric on that space"
        )
    if basis is not None and basis.shape[0] != K.shape[0]:
        raise ValueError(
            f"K has {K.shape[0]} rows but the basis has {basis.shape[0]}; both must live in key "
            "space (d_ff)"
        )
    if mu < 0:
        raise ValueError(
            f"mu is {mu}; a price of movement cannot be negative (0 makes the fit exact)"
        )
