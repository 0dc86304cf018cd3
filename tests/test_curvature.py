"""Kronecker-factored curvature: the price of outputs, and the directions of low curvature."""

import oracles
import pytest
import torch
from conftest import build_plan, relative
from oracles import Case
from runs import same, weights

from seqedit.algebra.curvature import CurvatureSolver, damped, low_curvature
from seqedit.algebra.solver import Solver
from seqedit.algebra.subspace import null_space
from seqedit.editing.sequential import run_sequential
from seqedit.lm.weights import read_weight
from seqedit.methods.catalogue import CATALOGUE, make_method
from seqedit.methods.combinators import curvature
from seqedit.methods.combinators import null_space as projected
from seqedit.methods.describe import describe, formula
from seqedit.methods.memit import memit, memit_seq

EXACT = 1e-9  # float64, systems of condition below 1e4


def output_moment(size: int = 4, seed: int = 3) -> torch.Tensor:
    """A second moment of outputs whose eigenvalues span two orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return (Q * torch.logspace(-1.5, 0.5, size, dtype=torch.float64)) @ Q.T


@pytest.fixture
def case():
    return Case()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_thm_curvature_price(n, errors):
    """The closed form is the minimiser, whose gradient vanishes; with history and without.

    Converses: with S = I it is MEMIT's, another S gives another update, and where the fit is exact
    no price of outputs changes anything.
    """
    case, S, lam = Case(n=n), output_moment(), 5.0
    solver = CurvatureSolver(lam * case.C, S)
    update = solver.update(case.K, case.R)
    expected = oracles.curvature_price(case.keys, case.residuals, S, lam * case.C, [])
    assert relative(update, expected) < EXACT
    misfit = (update @ case.K - case.R) @ case.K.T
    assert (misfit + lam * S @ update @ case.C).norm() < EXACT * misfit.norm()
    plain = Solver(lam * case.C).update(case.K, case.R)
    assert (
        relative(CurvatureSolver(lam * case.C, case.eye()[:4, :4]).update(case.K, case.R), plain)
        < EXACT
    )
    assert relative(update, plain) > 0.05
    method = make_method("memit_seq+curvature", **CATALOGUE["memit_seq+curvature"].test)
    found = method.solver(case.C, S).update(case.K, case.R, case.past_keys)
    price = damped(S, method.output_damping)
    expected = oracles.curvature_price(case.keys, case.residuals, price, 0.5 * case.C, case.past)
    assert errors("memit_seq+curvature", "oracle", relative(found, expected)) < EXACT
    if n < 7:  # fewer keys than directions: μ → 0 is ROME's exact fit, whatever S is
        exact = CurvatureSolver(case.C, S, mu=1e-9).update(case.K, case.R)
        assert relative(exact, Solver(case.C, mu=0.0).update(case.K, case.R)) < 1e-6


def test_thm_curvature_history(case):
    """Round after round the updates add up to the solution of all rounds together.

    The converse: with earlier keys inside the price of outputs, S ⊗ (M₀ + K_pK_pᵀ), they do not,
    unless S is the identity.
    """
    other, M = Case(seed=1), 0.5 * case.C
    for S, exact in ((output_moment(), False), (case.eye()[:4, :4], True)):
        keys, residuals = case.keys + other.keys, case.residuals + other.residuals
        joint = oracles.curvature_price(keys, residuals, S, M, [])
        solver = CurvatureSolver(M, S)
        first = solver.update(case.K, case.R)
        left = other.R - first @ other.K
        second = solver.update(
            other.K, left, case.K, solver.extend(torch.zeros(0, 0).double(), case.K[:, :0], case.K)
        )
        assert relative(first + second, joint) < EXACT
        priced = CurvatureSolver(M + case.K @ case.K.T, S).update(other.K, left)
        assert (relative(first + priced, joint) < EXACT) == exact
        assert exact or relative(first + priced, joint) > 1e-2


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("M", ["matrix", "number"])
def test_forms_of_the_price_agree(case, weight, inside, M):
    """By keys and by directions; with the weight of past keys, in a subspace, for both metrics."""
    S, metric = output_moment(), 0.3 if M == "number" else 0.5 * case.C
    subspace = null_space(case.C, 0.9) if inside else None
    both = [
        CurvatureSolver(metric, S, subspace, mu=2.0, weight=weight, dense_from=limit)
        for limit in (float("inf"), 0)
    ]
    found = [one.update(case.K, case.R, case.past_keys) for one in both]
    assert relative(found[0], found[1]) < EXACT
    B = subspace.basis if inside else case.eye()
    full = metric * case.eye() if M == "number" else metric
    coordinates = oracles.curvature_price(
        oracles.columns(B.T @ case.K),
        case.residuals,
        2 * S,
        B.T @ full @ B,
        oracles.columns(weight**0.5 * B.T @ case.past_keys),
    )
    assert relative(found[0], coordinates @ B.T) < EXACT


def test_damping(case):
    """The mean eigenvalue is 1; ρ = 1 is the identity, and the method then MEMIT-seq."""
    S = output_moment()
    for damping in (1e-3, 0.3, 1.0):
        found = damped(7 * S, damping)
        assert found.trace() == pytest.approx(4) and relative(found, damped(S, damping)) < 1e-12
        assert torch.linalg.eigvalsh(found)[0] >= damping * (1 - 1e-9)
    priced = curvature(memit_seq(0.5), 1.0).solver(case.C, S)
    plain = memit_seq(0.5).solver(case.C)
    past = case.past_keys
    assert relative(priced.update(case.K, case.R, past), plain.update(case.K, case.R, past)) < EXACT
    with pytest.raises(ValueError, match="damping"):
        curvature(memit(), 0.0)


def test_price_moves_what_the_text_minds_least(case):
    """At the same λ less is written along the dear outputs, and no more curvature is paid."""
    S = output_moment()
    plain = memit(0.5).solver(case.C).update(case.K, case.R)
    priced = curvature(memit(0.5), 0.05).solver(case.C, S).update(case.K, case.R)
    _, U = torch.linalg.eigh(S)  # ascending
    cheap, dear = ((U.T @ one).norm(dim=1) for one in (priced, plain))
    assert cheap[-1] < dear[-1] and cheap[0] > dear[0]
    paid = [torch.trace(S @ one @ case.C @ one.T) for one in (priced, plain)]
    assert paid[0] < paid[1]


def test_curvature_composes(tiny_lm, requests):
    """With history and projection on several layers; continued from the state it is the same."""
    lm, second, plain = (tiny_lm("gpt2") for _ in range(3))
    plan, rounds = build_plan(lm), [requests[:3], requests[3:]]
    method = curvature(projected(memit_seq(0.5), 0.9), 0.2)
    assert method.name == "MEMIT-seq+projection+curvature"
    *_, whole = run_sequential(lm, rounds, method, plan)
    state = None
    for batch in rounds:
        (done,) = run_sequential(second, [batch], method, plan, state)
        state = done.state
    assert same(weights(lm), weights(second)) and whole.state.keys[0].shape == (64, 6)
    *_, done = run_sequential(plain, rounds, projected(memit_seq(0.5), 0.9), plan)
    assert relative(read_weight(lm, 1), read_weight(plain, 1)) > 1e-4
    assert describe(method)["$\\mathbf M_0$"].endswith(", outputs by $\\mathbf S$")
    assert r"\mathbf B^\top(\lambda\mathbf C)" in formula(method)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r_rome+curvature", "an exact fit leaves a price of outputs nothing to choose"),
        ("evoedit+curvature", "a finite weight of earlier keys"),
        ("nse_paper+curvature", "writes all neurons"),
        ("memit_seq+rect+compensated+curvature", "makes good no restraint"),
        ("memit_seq+rect+curvature+compensated", "price all outputs alike"),
        ("lyaplock+curvature", "do not support a change of their outputs"),
        ("ft+curvature", "do not support a change of their outputs"),
    ],
)
def test_what_takes_no_price_of_outputs(name, message):
    with pytest.raises(ValueError, match=message):
        make_method(name)


def test_missing_gradients(tiny_lm, requests):
    """Without S, or with that of another model, nothing is edited; the message says why."""
    lm = tiny_lm("gpt2")
    before = weights(lm)
    for gradients, message in (
        ({}, r"gradients: none for layer 0; there are \[\]"),
        ({0: torch.eye(64), 1: torch.eye(64)}, r"S.0 is \(64, 64\), where a finite matrix"),
        ({0: torch.zeros(16, 16), 1: torch.eye(16)}, "with a positive trace"),
    ):
        plan = build_plan(lm, gradients=gradients)
        with pytest.raises(ValueError, match=message):
            next(run_sequential(lm, [requests], curvature(memit(0.5)), plan))
    assert same(weights(lm), before)
    with pytest.raises(ValueError, match="give the second moment of gradients"):
        curvature(memit(0.5)).solver(torch.eye(64))
    with pytest.raises(ValueError, match="needs mu > 0"):
        CurvatureSolver(1.0, torch.eye(4), mu=0.0)
    with pytest.raises(ValueError, match="carry: errors are not made good"):
        CurvatureSolver(1.0, torch.eye(4)).update(
            torch.eye(3), torch.ones(4, 3), carry=torch.ones(4, 3)
        )


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_low_curvature_is_the_paper_s(case, share):
    """The projector takes out the sharpest products, and is one: linear, symmetric, idempotent."""
    S, Q = output_moment(), case.W + case.R @ case.K.T
    found = low_curvature(case.C, S, share)
    assert relative(found.project(Q), oracles.low_curvature(Q, case.C, S, share)) < EXACT
    kept = found.project(Q)
    assert relative(found.project(kept), kept) < 1e-12
    inner = torch.sum((Q - kept) * kept) / Q.norm() ** 2
    assert abs(inner) < 1e-12 and 0 < kept.norm() < Q.norm()
    left = torch.trace(S @ kept @ case.C @ kept.T)
    assert left < torch.trace(S @ Q @ case.C @ Q.T)


def test_low_curvature_without_outputs_is_a_null_space(case):
    """With S = I it is Adam-NSCL's: the projection of rows on eigenvectors of A below a threshold.

    The converse: with another S it projects outputs too.
    """
    Q, share = case.W + case.R @ case.K.T, 0.7
    found = low_curvature(case.C, case.eye()[:4, :4], share)
    values, kept = torch.linalg.eigvalsh(case.C), found.allowed[0]
    assert (found.allowed == kept).all() and 0 < kept.sum() < len(values)
    rows = null_space(case.C, values[kept.sum()].item()).project(Q.T).T
    assert relative(found.project(Q), rows) < EXACT
    other = low_curvature(case.C, output_moment(), share)
    assert not (other.allowed == other.allowed[0]).all()
    assert relative(other.project(Q), rows) > 1e-2
    with pytest.raises(ValueError, match="share"):
        low_curvature(case.C, output_moment(), 0.0)
