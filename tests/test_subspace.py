"""Null spaces of second moments: AlphaEdit's projection and what it guarantees.

Orthonormality and the projection identities hold to 1e-12: float64 eigenvectors of matrices up to
20 × 20.
"""

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqedit.algebra.diagnostics import (
    condition_number,
    drift,
    largest_singular_value,
    spectrum,
)
from seqedit.algebra.solve import solve_update
from seqedit.algebra.solver import Solver
from seqedit.algebra.subspace import eigenpairs, null_space, top_neurons

TAU = 2e-2


def moment(seed: int, size: int, small: int) -> torch.Tensor:
    """A second moment with `small` eigenvalues below τ and the others above."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    low, high = (
        torch.rand(n, generator=generator, dtype=torch.float64) for n in (small, size - small)
    )
    return (Q * torch.cat([TAU * 0.99 * low, TAU * 1.01 + 10 * high])) @ Q.T


sizes = st.integers(2, 20).flatmap(
    lambda size: st.tuples(st.integers(0, 2**32), st.just(size), st.integers(1, size))
)


@given(sizes)
def test_thm_projection(case):
    """P = BBᵀ is an orthogonal projection (P² = P = Pᵀ) whose rank is the number of eigenvalues
    below τ; ΔP is the nearest matrix with rows in the span."""
    C = moment(*case)
    space = null_space(C, TAU)
    B, P = space.basis, space.project(torch.eye(case[1], dtype=torch.float64))
    assert space.vectors.shape[1] == min(case[2], case[1] - case[2]) or 2 * case[2] == case[1]
    assert torch.allclose(B @ B.T, P, atol=1e-12)
    assert B.shape == (case[1], case[2])
    assert torch.allclose(B.T @ B, torch.eye(case[2], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(P @ P, P, atol=1e-12)
    assert torch.allclose(P, P.T, atol=1e-14)
    generator = torch.Generator().manual_seed(case[0])
    update, other = torch.randn(2, 3, case[1], generator=generator, dtype=torch.float64)
    assert (update - update @ P).norm() <= (update - other @ P).norm()
    assert torch.allclose(
        P, oracles.projection(C, TAU), atol=1e-8
    )  # the gap at τ is 2 %: 1e-16 · 10 / 4e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_remembered_eigenpairs_are_those_of_the_matrix_as_it_is(dtype, monkeypatch):
    """To the bit those of the plain call: made first, asked again, of a copy, after a change."""
    calls, plain = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda M: calls.append(1) or plain(M))
    C = moment(5, 12, 4).to(dtype)
    for asked in (C, C.clone(), C.T.contiguous().T):
        for found, expected in zip(eigenpairs(asked), plain(C.double()), strict=True):
            assert torch.equal(found, expected)
    assert len(calls) == 1
    C[0, 0] += 1  # in place: the same tensor, another matrix
    for found, expected in zip(eigenpairs(C), plain(C.double()), strict=True):
        assert torch.equal(found, expected)
    assert len(calls) == 2
    before = [part.clone() for part in eigenpairs(C)]
    null_space(C, TAU).vectors.zero_()  # what a caller is given is its own
    assert all(map(torch.equal, eigenpairs(C), before))


@given(sizes)
def test_thm_invariance(case):
    """Rows in the null space of C leave every key alone that C was read from.

    A row outside it moves one of them.
    """
    generator = torch.Generator().manual_seed(case[0])
    keys = torch.randn(case[1], max(1, case[1] - case[2]), generator=generator, dtype=torch.float64)
    C = keys @ keys.T / keys.shape[1]
    B = null_space(C, 1e-9 * torch.linalg.eigvalsh(C)[-1].item()).basis
    update = torch.randn(3, B.shape[1], generator=generator, dtype=torch.float64) @ B.T
    assert (update @ keys).norm() <= 1e-7 * update.norm() * keys.norm()
    assert drift(update, C) <= 1e-14 * update.norm() ** 2 * keys.norm() ** 2
    row = torch.linalg.eigh(C).eigenvectors[:, -1:].T  # the converse: however little lies outside
    for share in (1.0, 1e-3):
        mixed = update.clone()
        mixed[:1] += share * row
        assert (mixed @ keys).norm() > 1e-3 * share * keys.norm() and drift(mixed, C) > 0


@given(sizes)
def test_thm_drift_is_bounded(case):
    """tr(ΔCΔᵀ) ≤ τ‖Δ‖² for every Δ whose rows lie in the span."""
    C = moment(*case)
    B = null_space(C, TAU).basis
    generator = torch.Generator().manual_seed(case[0] + 1)
    update = torch.randn(3, B.shape[1], generator=generator, dtype=torch.float64) @ B.T
    assert -1e-12 <= drift(update, C) <= TAU * update.norm() ** 2
    root = torch.linalg.cholesky(C + 1e-12 * torch.eye(len(C)))  # keys whose second moment is C
    turn = torch.linalg.qr(torch.randn(len(C), len(C), generator=generator, dtype=torch.float64))[0]
    keys = root @ turn * len(C) ** 0.5
    moved, limit = (update @ keys).norm(dim=0), TAU * update.norm() ** 2
    for a in (0.5, 1.0, 2.0):  # Markov
        assert (moved >= a).double().mean() <= limit / a**2 * (1 + 1e-6)


@given(sizes, st.sampled_from([0.3, 0.8, 1.0]))
def test_thm_neurons(case, mass):
    """Rows and columns of the selected neurons are the solution over coordinate axes."""
    C, generator = moment(*case), torch.Generator().manual_seed(case[0])
    K = torch.randn(case[1], 3, generator=generator, dtype=torch.float64)
    R = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    chosen = top_neurons(K, mass)
    update = Solver(C).update_neurons(K, R, chosen)
    axes = torch.eye(case[1], dtype=torch.float64)[:, chosen]
    expected = solve_update(K, R, C, basis=axes)
    assert (update - expected).norm() < 1e-8 * (1 + expected.norm())
    others = torch.ones(case[1], dtype=torch.bool).index_fill(0, chosen, False)
    assert not update[:, others].any() and (mass < 1.0 or not others.any())


@given(sizes, st.sampled_from([0.3, 0.8]))
def test_thm_mass_left_out(case, mass):
    """‖Δk − Δ_I k‖ ≤ (1 − p)‖k‖₁ times the longest column left out.

    Reached when that is the only one.
    """
    generator = torch.Generator().manual_seed(case[0])
    k = torch.randn(case[1], 1, generator=generator, dtype=torch.float64)
    update = torch.randn(4, case[1], generator=generator, dtype=torch.float64)
    chosen = top_neurons(k, mass)
    rest = torch.ones(case[1], dtype=torch.bool).index_fill(0, chosen, False)
    if rest.any():
        left = k[rest].abs().sum()
        assert left <= (1 - mass) * k.abs().sum() * (1 + 1e-9)
        longest = update[:, rest].norm(dim=0).max()
        assert (update[:, rest] @ k[rest]).norm() <= left * longest * (1 + 1e-9)
        one = torch.zeros_like(update)
        one[:, rest.nonzero()[0, 0]] = update[:, 0]
        alone = k[rest.nonzero()[0, 0]].abs()
        assert abs((one @ k).norm() - alone * update[:, 0].norm()) < 1e-9 * (
            1 + alone.item() * update.norm()
        )


def test_drift_outside_the_subspace_is_larger():
    """The bound says something: directions above τ break it."""
    C = moment(0, 8, 5)
    vectors = torch.linalg.eigh(C).eigenvectors
    outside = vectors[:, 5:].T  # rows above τ
    assert drift(outside, C) > TAU * outside.norm() ** 2
    assert all(drift(row[None], C) > TAU for row in outside)


def test_float32_statistics_are_taken():
    """Moments stored in float32 give the same subspace in float64; 1e-2 allows for float32
    round-off of entries near 10 (6e-7) over the gap at τ (4e-4)."""
    C = moment(1, 10, 6)
    B, b = null_space(C, TAU).basis, null_space(C.float(), TAU).basis
    assert b.dtype == torch.float64
    assert torch.allclose(b @ b.T, B @ B.T, atol=1e-2) and b.shape == B.shape


def test_no_direction_left():
    """When nothing is below τ the error names τ and the smallest eigenvalue, to choose a better
    one.
    """
    with pytest.raises(ValueError, match=r"threshold = 0\.02; the smallest eigenvalue of C is 3"):
        null_space(3.0 * torch.eye(4), TAU)


def test_known_spectrum_condition_number_and_drift():
    """Known spectrum, known condition number, drift equal to the mean squared change of outputs
    over the keys.
    """
    generator = torch.Generator().manual_seed(2)
    U, V = (
        torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    W = (U[:, :3] * torch.tensor([8.0, 2.0, 0.5], dtype=torch.float64)) @ V[:3]
    assert torch.allclose(spectrum(W)[:3], torch.tensor([8.0, 2.0, 0.5], dtype=torch.float64))
    assert condition_number(W[:3] * 0) == float("inf")
    assert abs(condition_number(torch.diag(torch.tensor([4.0, 1.0, 0.5]))) - 8) < 1e-12
    keys = torch.randn(5, 200, generator=generator, dtype=torch.float64)
    assert abs(drift(W, keys @ keys.T / 200) - (W @ keys).pow(2).sum(0).mean().item()) < 1e-10


@given(st.integers(0, 2**20), st.sampled_from([(4, 7), (7, 4), (6, 6)]), st.floats(0, 9))
def test_singular_values_from_a_gram_matrix(seed, shape, decades):
    """To 1e-6 what a decomposition gives, whatever the condition number; and σ₁ to round-off, also
    of a matrix of rank one.
    """
    generator = torch.Generator().manual_seed(seed)
    U, _, Vh = torch.linalg.svd(
        torch.randn(*shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    values = torch.logspace(0, -decades, len(Vh), dtype=torch.float64)
    W = U @ torch.diag(values) @ Vh
    assert torch.allclose(spectrum(W), torch.linalg.svdvals(W), rtol=1e-6)
    assert condition_number(W) == pytest.approx(10**decades, rel=1e-6)
    removed = torch.linalg.svdvals(W - W.mean(dim=0))[: min(shape[0] - 1, shape[1])]
    kappa = (removed[0] / removed[-1]).item()
    assert condition_number(W, without_mean=True) == pytest.approx(kappa, rel=1e-5)


@pytest.mark.parametrize("rank", [1, 30, 127, 128, 129, 150])
def test_largest_singular_value(rank):
    """Of low rank, where a sketch finds it, and of a rank beyond the sketch."""
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.randn(160, rank, generator=generator).double() for _ in range(2))
    expected = torch.linalg.svdvals(left @ right.T)[0].item()
    assert largest_singular_value(left @ right.T) == pytest.approx(expected, rel=1e-12)
    assert largest_singular_value(0 * left @ right.T) == 0
