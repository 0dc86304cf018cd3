"""Singular values and condition numbers.

Each theorem with an example that makes it sharp or breaks its converse.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqedit.algebra.diagnostics import condition_number, spectrum
from seqedit.algebra.restrain import compress, restrain_spectrum
from seqedit.lm.weights import (
    apply_update,
    read_weight,
    restored,
)

seeds = st.integers(0, 2**20)


def random(seed: int, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


@given(seeds, st.floats(0.01, 10))
def test_thm_weyl(seed, size):
    """No singular value moves by more than σ₁(Δ).

    Along the top singular pair it moves by exactly that much.
    """
    W, D = random(seed, (4, 7), (4, 7))
    D = size * D
    assert ((spectrum(W + D) - spectrum(W)).abs() <= spectrum(D)[0] * (1 + 1e-9)).all()
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    along = size * torch.outer(U[:, 0], Vh[0])
    assert (spectrum(W + along)[0] - spectrum(W)[0]).item() == pytest.approx(size, rel=1e-9)


@given(seeds, st.floats(1e-4, 0.5), st.floats(0, 0.5))
def test_thm_linear_system(seed, share, noise):
    """‖x̂ − x‖/‖x‖ ≤ κ/(1 − κε) (ε + ‖f‖/‖b‖) as long as κε < 1, ε = ‖E‖/‖A‖."""
    A, x, E, f = random(seed, (5, 5), (5,), (5, 5), (5,))
    kappa, b = condition_number(A), A @ x
    E = E * share * spectrum(A)[0] / (kappa * spectrum(E)[0])  # κε = share
    f = f * noise * b.norm() / f.norm()
    epsilon = (spectrum(E)[0] / spectrum(A)[0]).item()
    moved = torch.linalg.solve(A + E, b + f) - x
    assert moved.norm() / x.norm() <= kappa / (1 - kappa * epsilon) * (epsilon + noise) * (1 + 1e-6)


def test_the_bound_for_systems_needs_its_assumption():
    """With κε = 1 the perturbed matrix may be singular."""
    A, E = (
        torch.diag(torch.tensor([1.0, 0.1])).double(),
        torch.diag(torch.tensor([0.0, -0.1])).double(),
    )
    assert condition_number(A) * (spectrum(E)[0] / spectrum(A)[0]).item() == pytest.approx(1.0)
    assert condition_number(A + E) == float("inf")


@given(seeds)
def test_thm_condition_and_output(seed):
    """‖Δk‖/‖Wk‖ ≤ κ(W)σ₁(Δ)/σ₁(W) for keys in the row space.

    Reached at the last right singular vector.
    """
    W, D, y = random(seed, (4, 7), (4, 7), (4,))
    k = W.T @ y
    bound = condition_number(W) * spectrum(D)[0] / spectrum(W)[0]
    assert (D @ k).norm() / (W @ k).norm() <= bound * (1 + 1e-9)
    last = torch.linalg.svd(W, full_matrices=False).Vh[-1]
    worst = torch.outer(y, last)
    assert ((worst @ last).norm() / (W @ last).norm()).item() == pytest.approx(
        (condition_number(W) * spectrum(worst)[0] / spectrum(W)[0]).item(), rel=1e-9
    )
    outside = torch.linalg.svd(W, full_matrices=True).Vh[
        -1
    ]  # Wk = 0: no bound beyond the row space
    for far in (1e3, 1e6):
        beyond = k / k.norm() + far * bound * outside
        assert (D @ outside).norm() < 1e-6 or (D @ beyond).norm() / (W @ beyond).norm() > bound


@given(seeds, st.floats(0.1, 1000), st.sampled_from([math.e, 2.0, 1.5, 1.2]))
def test_thm_prune_bound(seed, size, alpha):
    """σ₁(W₀ + F(Δ)) ≤ s + σ₁(Δ) below s and 2s + log_α(σ₁(Δ)/s) above; with the clip at most 2s."""
    W0, D = random(seed, (4, 7), (4, 7))
    limit = spectrum(W0)[0].item()
    largest = spectrum(W0 + compress(W0, size * D, alpha))[0]
    top = size * spectrum(D)[0].item()
    bound = limit + top if top <= limit else 2 * limit + math.log(top / limit, alpha)
    assert largest <= bound * (1 + 1e-9)
    assert restrain_spectrum(size * spectrum(D)[:1], limit, alpha)[0].item() == pytest.approx(
        bound - limit
    )
    assert spectrum(W0 + compress(W0, size * D, alpha, "clip"))[0] <= 2 * limit * (1 + 1e-9)


@given(seeds, st.integers(2, 5), st.integers(0, 4))
def test_thm_prune_does_not_bound_the_condition_number(seed, rows, more):
    """An update up to s is left alone, and may take the smallest singular value to zero."""
    (W0,) = random(seed, (rows, rows + more))
    U, values, Vh = torch.linalg.svd(W0, full_matrices=False)
    D = -values[-1] * torch.outer(U[:, -1], Vh[-1])
    assert spectrum(D)[0] <= values[0] * (1 + 1e-12)
    assert torch.allclose(compress(W0, D), D, atol=1e-12)
    assert condition_number(W0 + D) > 1e10 * condition_number(W0)


def test_thm_mean_is_not_read(tiny_lm):
    """A network whose norms are LayerNorms gives the same logits with c·1 added to a layer's
    outputs; one with RMSNorms does not. κ without the mean does not see such an addition, κ
    does."""
    for name, reads in (("gpt2", False), ("gptj", False), ("llama", True)):
        lm = tiny_lm(name)
        ids = torch.tensor([lm.tokenizer("The mother tongue of André is")["input_ids"]])
        W, before = read_weight(lm, 1), lm.model(ids).logits
        y = torch.randn(W.shape[1], generator=torch.Generator().manual_seed(0))
        along, other = (
            torch.ones(len(W)),
            torch.randn(len(W), generator=torch.Generator().manual_seed(1)),
        )
        with restored(lm, [1]):
            apply_update(lm, 1, torch.outer(along, y))
            moved = (lm.model(ids).logits - before).abs().max()
        with restored(lm, [1]):
            apply_update(lm, 1, torch.outer(other - other.mean(), y))
            felt = (lm.model(ids).logits - before).abs().max()
        assert lm.removes_mean != reads and felt > 1e-2
        assert (moved > 0.05 * felt) if reads else moved < 1e-4 * felt  # float32 round-off
        added = W + torch.outer(along, y)
        assert condition_number(added, without_mean=True) == pytest.approx(
            condition_number(W, without_mean=True), rel=1e-3
        )  # float32 sums
        assert condition_number(added) > 1.1 * condition_number(W)


def test_a_reader_without_a_norm_sees_the_mean(tiny_lm):
    """The hypothesis is needed: one reader of the stream that does not subtract the mean, here the
    head itself, and c·1 is felt."""
    lm = tiny_lm("gpt2")
    ids = torch.tensor([lm.tokenizer("The mother tongue of André is")["input_ids"]])
    W = read_weight(lm, 1)
    added = torch.outer(torch.ones(len(W)), torch.ones(W.shape[1]))

    def moved():
        before = lm.model(ids).logits
        with restored(lm, [1]):
            apply_update(lm, 1, added)
            return (lm.model(ids).logits - before).abs().max()

    assert moved() < 1e-4
    lm.model.transformer.ln_f = torch.nn.Identity()
    assert moved() > 1e-2
