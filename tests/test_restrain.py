"""Restraints on updates, and what compensation restores.

Float64 and condition numbers below 1e4: 1e-9 leaves three digits to spare where nothing else is
said.
"""

import inspect
import math
from dataclasses import replace
from itertools import pairwise

import oracles
import pytest
import torch
from conftest import relative
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import Problem, problems
from scipy.special import lambertw

from seqedit.algebra.restrain import (
    compress,
    damp_principal_directions,
    keep_largest_relative,
    outside_top_subspaces,
    restrain_spectrum,
)
from seqedit.algebra.subspace import top_neurons
from seqedit.methods.alphaedit import alphaedit
from seqedit.methods.combinators import (
    compensated,
    prune,
    prune_added_twice,
    prune_rounds,
    rect,
    revive,
    sphere,
    with_history,
)
from seqedit.methods.memit import memit, memit_seq
from seqedit.methods.nse import nse_paper

values = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12).map(
    lambda v: torch.tensor(sorted(v, reverse=True), dtype=torch.float64)
)
ALPHAS = st.sampled_from([math.e, 2.0, 1.5, 1.2])
BASES = st.one_of(ALPHAS, st.floats(1.001, 50))


@given(
    values, st.floats(0.1, 100), ALPHAS, st.sampled_from(["log", "linear", "clip", "scale_free"])
)
def test_restraint_of_the_spectrum(spectrum, limit, alpha, mode):
    """Nothing up to the limit changes.

    Above it F is continuous and does not decrease, so the order stays.
    """
    kept = restrain_spectrum(spectrum, limit, alpha, mode)
    small = spectrum <= limit
    assert torch.equal(kept[small], spectrum[small])
    assert (kept[~small] >= limit * (1 - 1e-12)).all() and (kept.diff() <= 1e-9 * limit).all()
    joint = torch.tensor([limit * (1 + 1e-9)], dtype=torch.float64)
    at = restrain_spectrum(joint, limit, alpha, mode)
    assert abs(at.item() - limit) < 1e-7 * max(limit, 1.0)


@given(values, st.floats(0.1, 10), st.floats(0.01, 100), BASES)
def test_thm_prune_scale(spectrum, limit, c, alpha):
    """F(cσ, cs) = cF(σ, s) for the scale-free form.

    PRUNE's own misses it above s by exactly (1 − c) log_α(σ/s), which is 0 for no c but 1, and not
    at all up to s. The product cs rounds, so that σ = s may fall on either side.
    """
    free = restrain_spectrum(c * spectrum, c * limit, alpha, "scale_free")
    assert torch.allclose(
        free, c * restrain_spectrum(spectrum, limit, alpha, "scale_free"), rtol=1e-9
    )
    own = restrain_spectrum(c * spectrum, c * limit, alpha)
    missed = own - c * restrain_spectrum(spectrum, limit, alpha)
    expected = (1 - c) * (spectrum / limit).log().clamp(min=0) / math.log(alpha)
    scale = own.abs().max().item() + c * restrain_spectrum(spectrum, limit, alpha).abs().max()
    assert torch.allclose(missed, expected, rtol=1e-9, atol=1e-12 * scale)
    above = (spectrum > limit * (1 + 1e-6)) & (abs(c - 1) > 1e-6)
    assert (missed[above] * (1 - c) > 0).all()


@given(problems(), st.floats(0.05, 20), BASES)
def test_scale_of_a_compressed_matrix(problem, c, alpha):
    """The same for matrices: units cancel in the scale-free form and in no update that F changes
    otherwise."""
    W0, update = problem.random(4, problem.d_ff), 9 * problem.random(4, problem.d_ff)
    free = compress(c * W0, c * update, alpha, "scale_free")
    assert relative(free, c * compress(W0, update, alpha, "scale_free")) < 1e-9
    s, largest = torch.linalg.svdvals(W0)[0], torch.linalg.svdvals(update)[0]
    if largest > 1.01 * s and abs(c - 1) > 0.01:
        missed = compress(c * W0, c * update, alpha) - c * compress(W0, update, alpha)
        least = abs(1 - c) * math.log(largest / s) / math.log(alpha)  # what the first one misses
        assert torch.linalg.svdvals(missed)[0] >= least * (1 - 1e-6)


def crossing(s: float, alpha: float) -> float:
    """The σ above s at which F(σ) = σ, for s ln α < 1: with x = σ/s, ln x = s ln α (x − 1)."""
    a = s * math.log(alpha)
    return float(-s * lambertw(-a * math.exp(-a), -1).real / a)


@given(st.floats(1e-3, 0.999), st.floats(0.01, 100), st.floats(1e-6, 1e6))
def test_thm_prune_enlarges(a, s, beyond):
    """With s ln α = a < 1 F(σ) exceeds σ from s up to one crossing, and is below σ from there on.

    It exceeds σ most at σ = 1/ln α.
    """
    alpha = math.exp(a / s)
    assume(alpha < 1e300)
    end = crossing(s, alpha)
    assume(end > s * (1 + 1e-4))  # as a → 1 the interval closes: nothing left to sample

    def gain(sigma):
        return restrain_spectrum(sigma, s, alpha) - sigma

    inside = s + (end - s) * torch.linspace(1e-3, 1 - 1e-3, 200, dtype=torch.float64)
    outside = end + s * beyond * torch.linspace(1e-3, 1, 200, dtype=torch.float64)
    assert (gain(inside) > 0).all()
    assert (gain(outside)[outside > end * (1 + 1e-6)] < 0).all()
    best = gain(torch.tensor([s / a], dtype=torch.float64))
    assert (gain(inside) <= best * (1 + 1e-9)).all()


@given(st.floats(1, 1e3), st.floats(0.01, 100), st.floats(1e-3, 1e4))
def test_prune_shrinks_everything_beyond_the_threshold(a, s, beyond):
    """The converse: with s ln α ≥ 1 every σ > s is made smaller."""
    assume(a / s < 700)
    sigma = s * (1 + beyond * torch.linspace(1e-3, 1, 200, dtype=torch.float64))
    assert (restrain_spectrum(sigma, s, math.exp(a / s)) < sigma).all()


@given(st.floats(0.1, 20), st.floats(1.01, 100))
def test_prune_between_clip_and_amplifier(s, ratio):
    """As α falls from ∞ to 1, F(σ) rises from s without limit: α → 1 is no absence of restraint."""
    sigma = torch.tensor([ratio * s], dtype=torch.float64)
    alphas = (1e300, 10.0, math.e, 1.2, 1.02, 1 + 1e-4, 1 + 1e-8)
    values = [restrain_spectrum(sigma, s, alpha).item() for alpha in alphas]
    assert values == sorted(values)
    assert values[0] == pytest.approx(s, rel=0.01, abs=0.01)
    assert values[-1] > 1e3 * sigma.item()
    assert crossing(s, 1 + 1e-8) > 1e8  # σ that are enlarged: all that occur


@given(problems(), ALPHAS)
def test_compress_is_prune(problem, alpha):
    """The thin SVD gives what the full one does.

    An update below σ_max(W₀) is left alone, zero stays zero.
    """
    W0, update = problem.random(4, problem.d_ff), 5 * problem.random(4, problem.d_ff)
    assert relative(compress(W0, update, alpha), oracles.prune(W0, update, alpha)) < 1e-9
    small = 0.9 * update * torch.linalg.svdvals(W0)[0] / torch.linalg.svdvals(update)[0]
    assert relative(compress(W0, small, alpha), small) < 1e-12
    assert not compress(W0, 0 * update, alpha).any()


@given(problems(), st.sampled_from([0.1, 0.4, 1.0]))
def test_rect_keeps_the_largest_relative_entries(problem, share):
    W, update = problem.random(4, problem.d_ff), problem.random(4, problem.d_ff)
    kept = keep_largest_relative(W, update, share)
    if share == 1.0:
        assert torch.equal(kept, update)
    elif int((1 - share) * W.numel()) >= 1:
        assert relative(kept, oracles.rect(W, update, share)) < 1e-12
        assert (kept != 0).sum() == W.numel() - int((1 - share) * W.numel()) + 1


@given(problems(), st.floats(0.05, 0.95))
def test_revive_leaves_the_leading_subspaces(problem, share):
    W0, update = problem.random(6, problem.d_ff), problem.random(6, problem.d_ff)
    kept = outside_top_subspaces(W0, update, share)
    U, sizes, Vh = torch.linalg.svd(W0, full_matrices=False)
    total, k = 0.0, 0
    while k < len(sizes) and total <= share * sizes.sum():
        total, k = total + sizes[k], k + 1
    assert (U[:, :k].T @ kept).norm() < 1e-10 * update.norm() and (
        kept @ Vh[:k].T
    ).norm() < 1e-10 * update.norm()
    left = torch.eye(6, dtype=torch.float64) - U[:, :k] @ U[:, :k].T
    right = torch.eye(problem.d_ff, dtype=torch.float64) - Vh[:k].T @ Vh[:k]
    assert (kept - left @ update @ right).norm() < 1e-10 * update.norm()


@given(problems(), st.sampled_from([0.3, 0.5, 0.9]), st.sampled_from([0.5, 1.0]))
def test_sphere_damps_the_principal_directions(problem, share, strength):
    W, update = problem.random(5, problem.d_ff), problem.random(5, problem.d_ff)
    rows = torch.stack([row / row.norm() for row in W])
    eigenvalues, vectors = torch.linalg.eigh(rows.T @ rows)
    held, U = 0.0, []
    for j in reversed(range(len(eigenvalues))):
        U.append(vectors[:, j])
        held += eigenvalues[j]
        if held >= share * eigenvalues.sum() * (1 - 1e-12):
            break
    U = torch.stack(U, dim=1)
    expected = update - strength * update @ U @ U.T
    assert (
        damp_principal_directions(W, update, share, strength) - expected
    ).norm() < 1e-7 * update.norm()


@given(problems(), st.floats(0.05, 1.0))
def test_top_neurons_are_the_fewest_that_hold_the_mass(problem, mass):
    """The fewest neurons that hold the mass: dropping the last would hold less."""
    chosen, score = top_neurons(problem.K, mass), problem.K.abs().sum(dim=1)
    assert score[chosen].sum() >= mass * score.sum() * (1 - 1e-9)
    assert len(chosen) == 1 or score[chosen[:-1]].sum() < mass * score.sum()
    assert score[chosen].min() >= score.sort(descending=True).values[len(chosen) - 1] - 1e-12


class Rounds:
    """Two matrices' worth of sequential rounds on fixed keys and values, with any method's
    restraint.
    """

    def __init__(self, seed: int = 0, groups: int = 4, size: int = 2, d_ff: int = 12):
        self.problem = Problem(seed, d_ff=d_ff, d_model=4, n=groups * size)
        self.W0 = self.problem.random(4, d_ff)
        self.groups = [slice(i * size, (i + 1) * size) for i in range(groups)]

    def run(self, method, dense_from=None):
        """After each round W, and W as it would be without that round's restraint."""
        solver, W, carry, ends, free = method.solver(self.problem.M), self.W0, None, [], []
        solver.dense_from = dense_from
        for group in self.groups:
            K, V = self.problem.K[:, group], self.problem.R[:, group]
            past = self.problem.K[:, : group.start] if method.history else None
            update = solver.update(K, V - W @ K, past, carry=carry if method.compensate else None)
            kept = method.restrain_update(self.W0, W, update) if method.restrain_update else update
            if method.compensate:
                carry = solver.error(kept - update, self.problem.K[:, : group.stop])
            free.append(W + update)
            W = W + kept
            ends.append(W)
        return ends, free

    def joint(self, method, end: int):
        """The one-shot solution of all requests so far, from W₀."""
        K, V = self.problem.K[:, :end], self.problem.R[:, :end]
        return self.W0 + method.solver(self.problem.M).update(K, V - self.W0 @ K)


def nothing(base):
    """The strongest restraint: R(Δ) = 0."""
    return replace(base, restrain_update=lambda W0, W, update: 0 * update)


def clipped(base, share=0.02):
    """A restraint that bounds the size of a round: R(Δ) has at most a share of W₀'s norm."""

    def limit(W0, update):
        return min(1.0, share * W0.norm().item() / update.norm().item())

    return replace(base, restrain_update=lambda W0, W, update: limit(W0, update) * update)


def lenient(base):
    """RECT as it was tuned: nine tenths of the entries are kept."""
    return rect(base, 0.9)


@pytest.mark.parametrize(
    "restrained", [rect, lenient, prune_rounds, sphere, revive, nothing, clipped]
)
@pytest.mark.parametrize("dense_from", [None, 0])
def test_thm_compensation_restores_the_joint_solution(restrained, dense_from):
    """The solve before the restraint is the joint solution J_t, and W_t = J_t − D_t with the
    arrears D_t = loss(D_{t−1} + J_t − J_{t−1}).

    Without compensation the solve is not the joint solution.
    """
    case = Rounds()
    method = compensated(restrained(memit_seq(0.5)))
    ends, free = case.run(method, dense_from)
    _, naive = case.run(restrained(memit_seq(0.5)), dense_from)
    arrears, last, W = torch.zeros_like(case.W0), case.W0, case.W0
    for i, group in enumerate(case.groups):
        joint = case.joint(memit(0.5), group.stop)
        assert relative(free[i], joint) < 1e-9
        asked = arrears + joint - last
        arrears, last = asked - method.restrain_update(case.W0, W, asked), joint
        assert (joint - ends[i] - arrears).norm() < 1e-8 * (joint - case.W0).norm()
        assert i == 0 or relative(naive[i], joint) > 1e-4  # the converse: uncompensated errors stay
        W = ends[i]
    assert relative(ends[0], free[0]) > 1e-4  # the restraint does something


def arrears_left(restrained, groups=12):
    """‖W_t − J_t‖ / ‖J_t − W₀‖ after every round, with compensation."""
    case = Rounds(groups=groups, size=2, d_ff=30)
    ends, _ = case.run(compensated(restrained(memit_seq(0.5))))
    joints = [case.joint(memit(0.5), group.stop) for group in case.groups]
    return [
        ((W - J).norm() / (J - case.W0).norm()).item() for W, J in zip(ends, joints, strict=True)
    ]


def test_arrears_of_a_strong_restraint_are_never_paid():
    """R = 0 stays at distance 1, a clip of each round's norm falls behind; RECT that keeps nine
    tenths repays."""
    assert arrears_left(nothing) == pytest.approx([1.0] * 12)
    behind = arrears_left(clipped)
    assert min(behind) > 0.5 and behind[-1] > 0.5
    repaid = arrears_left(lenient)
    assert repaid[-1] < 0.5 * repaid[0] and max(repaid) < 0.2


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_arrears_are_bounded_by_what_a_round_loses(share):
    """A restraint that loses the share q of each update leaves D_t = Σ_s q^(t−s+1) (J_s − J_{s−1}).

    That is the bound for every restraint that loses at most q‖Δ‖, reached but for directions.
    """
    case = Rounds(groups=6)
    shrink = replace(memit_seq(0.5), restrain_update=lambda W0, W, update: (1 - share) * update)
    ends, _ = case.run(compensated(shrink))
    joints = [case.W0, *(case.joint(memit(0.5), group.stop) for group in case.groups)]
    steps = [after - before for before, after in pairwise(joints)]
    for t, W in enumerate(ends):
        exact = sum(share ** (t - i + 1) * steps[i] for i in range(t + 1))
        bound = sum(share ** (t - i + 1) * steps[i].norm() for i in range(t + 1))
        assert relative(joints[t + 1] - W, exact) < 1e-8
        assert (joints[t + 1] - W).norm() <= bound * (1 + 1e-9)


def test_composed_systems_are_their_equations(errors):
    """SPHERE on AlphaEdit, REVIVE on MEMIT-seq, OTE-SE on RECT with history and on PRUNE per round,
    over rounds, from the equations alone.
    """
    case, keys = Rounds(), oracles.columns
    P, C = oracles.projection(case.problem.M, 1.0), case.problem.M
    systems = {
        "alphaedit+sphere": (
            sphere(alphaedit(1.0, 0.5), 0.5, 0.5),
            lambda W, k, r, past, owed: oracles.sphere(
                W, oracles.alphaedit(k, r, P, 0.5, past), 0.5, 0.5
            ),
        ),
        "memit_seq+revive": (
            revive(memit_seq(0.5), 0.4),
            lambda W, k, r, past, owed: oracles.revive(
                case.W0, oracles.memit_seq(k, r, 0.5, C, past), 0.4
            ),
        ),
        "memit_rect+with_history+compensated": (
            compensated(with_history(rect(memit(0.5), 0.4))),
            lambda W, k, r, past, owed: oracles.rect(
                W, oracles.compensated(k, r, 0.5, C, past, owed), 0.4
            ),
        ),
        "memit_seq+prune_rounds+compensated": (
            compensated(prune_rounds(memit_seq(0.5), 1.5)),
            lambda W, k, r, past, owed: oracles.prune(
                case.W0, oracles.compensated(k, r, 0.5, C, past, owed), 1.5
            ),
        ),
    }
    for name, (method, equation) in systems.items():
        W, past, owed = case.W0, [], torch.zeros_like(case.W0)
        for group in case.groups:
            k = keys(case.problem.K[:, group])
            r = keys(case.problem.R[:, group] - W @ case.problem.K[:, group])
            kept = equation(W, k, r, past, owed)
            if method.compensate:
                system = 0.5 * C + oracles.outer_sum(past + k, past + k)
                owed = (kept - oracles.compensated(k, r, 0.5, C, past, owed)) @ system
            W, past = W + kept, past + k
        ends, _ = case.run(method)
        assert errors(name, "oracle", relative(ends[-1] - case.W0, W - case.W0)) < 1e-9


def test_compensation_in_one_step_is_exact():
    """Restrain the first round only.

    The second round ends at the joint solution, as if nothing had been taken.
    """
    case = Rounds(groups=2, size=3)
    solver = memit_seq(0.5).solver(case.problem.M)
    K, V = case.problem.K, case.problem.R
    first = solver.update(K[:, :3], V[:, :3] - case.W0 @ K[:, :3])
    kept = keep_largest_relative(case.W0, first, 0.3)
    carry = solver.error(kept - first, K[:, :3])
    W = case.W0 + kept
    for dense_from in (10**6, 0):
        solver.dense_from = dense_from
        second = solver.update(K[:, 3:], V[:, 3:] - W @ K[:, 3:], K[:, :3], carry=carry)
        assert relative(W + second, case.joint(memit(0.5), 6)) < 1e-9
        without = solver.update(K[:, 3:], V[:, 3:] - W @ K[:, 3:], K[:, :3])
        assert relative(W + without, case.joint(memit(0.5), 6)) > 1e-3  # the converse


def test_compensation_in_a_subspace():
    """AlphaEdit too: what is carried is projected, and the joint solution in the subspace is
    reached.
    """
    case, method = Rounds(groups=2, size=3), alphaedit(1.0, 0.5)
    solver, K, V = method.solver(case.problem.M), case.problem.K, case.problem.R
    first = solver.update(K[:, :3], V[:, :3] - case.W0 @ K[:, :3])
    kept = solver.subspace.project(keep_largest_relative(case.W0, first, 0.3).T).T
    carry = solver.error(kept - first, K[:, :3])
    W = case.W0 + kept
    for dense_from in (10**6, 0):
        solver.dense_from = dense_from
        second = solver.update(K[:, 3:], V[:, 3:] - W @ K[:, 3:], K[:, :3], carry=carry)
        joint = case.W0 + solver.update(K, V - case.W0 @ K)
        assert relative(W + second, joint) < 1e-9


def test_limits_and_refusals():
    """RECT of everything and PRUNE of small updates are their bases.

    Wrong compositions and parameters are named.
    """
    case = Rounds()
    for method in (rect(memit(0.5), 1.0), sphere(memit(0.5), strength=0.0)):
        assert relative(case.run(method)[0][-1], case.run(memit(0.5))[0][-1]) < 1e-12
    total = 1e-3 * case.problem.random(4, 12)
    assert relative(prune(memit(0.5)).restrain_total(case.W0, total), total) < 1e-12
    assert relative(prune_added_twice(memit(0.5)).restrain_total(case.W0, total), 2 * total) < 1e-12
    with pytest.raises(
        ValueError, match="MEMIT-seq.: compensation needs a restraint of each round's update"
    ):
        compensated(memit_seq(1.0))
    with pytest.raises(ValueError, match="MEMIT.RECT.: compensation needs .* and history"):
        compensated(rect(memit(1.0)))
    assert rect(sphere(memit(1.0))).name == "MEMIT+SPHERE+RECT"
    assert compensated(rect(with_history(memit(1.0)))).compensate
    for make, message in (
        (lambda: rect(memit(), 1.5), "share is 1.5"),
        (lambda: nse_paper(mass=0.0), "mass is 0"),
        (lambda: prune(memit(), 1.0), "alpha is 1"),
        (lambda: revive(memit(), -1.0), "share is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="mode is 'cube'; known are log, linear, clip, scale_free"):
        # past the type checks of the tests, which refuse the string before the function can
        inspect.unwrap(restrain_spectrum)(torch.ones(2), 1.0, mode="cube")
