"""The price of ROME's mixed key.

The theorem is tested, and that ROME in the package is the released formula.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqedit.algebra.diagnostics import drift
from seqedit.algebra.solve import solve_update
from seqedit.methods.catalogue import METHODS
from seqedit.methods.kinds.residuals import rome_residual


def draw(seed: int, d: int, apart: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """C (d, d), keys k and k̄ (d, 1) that differ by `apart`, residual r (5, 1); float64."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(d, 3 * d, generator=generator, dtype=torch.float64)
    k, other = torch.randn(2, d, 1, generator=generator, dtype=torch.float64)
    return (
        A @ A.T / (3 * d),
        k,
        k + apart * other,
        torch.randn(5, 1, generator=generator, dtype=torch.float64),
    )


def inner(a: Tensor, b: Tensor, C: Tensor) -> float:
    """⟨a, b⟩ = aᵀC⁻¹b."""
    return (a.T @ torch.linalg.inv(C) @ b).item()


problems = given(seed=st.integers(0, 2**20), d=st.integers(2, 12), apart=st.floats(0.01, 2.0))


@problems
def test_thm_mixed_key(seed, d, apart):
    """Δ = r uᵀ / (uᵀk) with u = C⁻¹k̄ writes r at k.

    Its drift is 1/cos²θ times the smallest drift that does so.
    """
    C, k, mean, r = draw(seed, d, apart)
    u = torch.linalg.solve(C, mean)
    mixed = r @ u.T / (u.T @ k)
    cos2 = inner(k, mean, C) ** 2 / (inner(k, k, C) * inner(mean, mean, C))
    if cos2 < 1e-6:  # uᵀk = 0 is excluded
        return
    scale = max(1.0, mixed.norm().item() * k.norm().item())
    assert (mixed @ k - r).norm() < 1e-9 * scale
    cheapest = solve_update(k, r, C, mu=0.0)
    assert (cheapest @ k - r).norm() < 1e-9 * max(1.0, r.norm().item())
    assert drift(mixed, C) / drift(cheapest, C) == pytest.approx(1 / cos2, rel=1e-6)
    assert 1 / cos2 >= 1 - 1e-12
    for direction in torch.randn(
        3, d, 1, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    ):
        other = (
            cheapest + r @ (direction - k * (k.T @ direction) / (k.T @ k)).T
        )  # writes r at k too
        assert drift(other, C) >= drift(cheapest, C) * (1 - 1e-9)


@problems
def test_released_rome(seed, d, apart):
    """`rome` writes r uᵀ / (uᵀk).

    `r_rome` has the same right side at k̄ alone, with the residual measured there.
    """
    C, k, mean, r = draw(seed, d, apart)
    u = torch.linalg.solve(C, mean)
    if abs(inner(k, mean, C)) < 1e-3 * inner(mean, mean, C):
        return
    rome, r_rome = METHODS["rome"](), METHODS["r_rome"]()
    W = torch.randn(5, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    solver = rome.solver(C)
    update = solver.update(mean, rome_residual(rome.key, r, mean, k, W, solver))
    released = r @ u.T / (u.T @ k)
    assert (update - released).norm() < 1e-8 * released.norm()
    update = solver.update(mean, rome_residual(r_rome.key, r, mean, k, W, solver))
    target = W @ k + r  # v*, what the layer shall say
    assert ((W + update) @ mean - target).norm() < 1e-8 * max(1.0, target.norm().item())


def test_equal_keys_cost_nothing():
    C, k, _, r = draw(0, 6, 1.0)
    u = torch.linalg.solve(C, k)
    assert drift(r @ u.T / (u.T @ k), C) == pytest.approx(drift(solve_update(k, r, C, mu=0.0), C))
