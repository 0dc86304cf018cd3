"""The one solver against the papers' equations: every theorem the chapters state about it, on
random problems.

Float64 throughout; metrics have condition numbers up to 1e4, so a solve may lose four of sixteen
digits.
"""

import inspect

import oracles
import pytest
import torch
from conftest import relative
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import Problem, problems

from seqedit.algebra.solve import solve_update
from seqedit.methods.alphaedit import alphaedit
from seqedit.methods.combinators import null_space as with_projection
from seqedit.methods.combinators import with_history
from seqedit.methods.memit import memit, memit_seq

EXACT = 1e-9  # four digits for the conditioning, three for sizes and two solves in a row


def price(update, M) -> float:
    return torch.trace(update @ M @ update.T).item()


@given(problems(), st.sampled_from([1e-2, 1.0, 30.0]), st.booleans())
def test_thm_first_order(problem, mu, confined):
    """The gradient of misfit + μ·price vanishes in every allowed direction, and any step costs
    more.
    """
    basis = problem.basis(max(1, problem.d_ff // 2)) if confined else None
    K, R, M = problem.K, problem.R, problem.M
    update = solve_update(K, R, M, basis=basis, mu=mu)
    B = torch.eye(problem.d_ff, dtype=torch.float64) if basis is None else basis
    assert torch.allclose(update @ B @ B.T, update, rtol=0, atol=EXACT * (1 + update.norm().item()))
    gradient = ((update @ K - R) @ K.T + mu * update @ M) @ B
    assert gradient.norm() <= EXACT * ((R @ K.T).norm() + (update @ (K @ K.T + mu * M)).norm())
    objective = (update @ K - R).norm() ** 2 + mu * price(update, M)
    for size in (1e-3, 1.0):
        other = update + size * problem.random(problem.d_model, B.shape[1]) @ B.T
        assert (other @ K - R).norm() ** 2 + mu * price(other, M) > objective


@given(problems(fits=True), st.booleans())
def test_thm_interpolation(problem, confined):
    """μ = 0 writes the residuals exactly, and of all updates that do, moves least in metric M."""
    r = max(problem.n, problem.d_ff - 1)
    basis = problem.basis(r) if confined else None
    K, R, M = problem.K, problem.R, problem.M
    B = torch.eye(problem.d_ff, dtype=torch.float64) if basis is None else basis
    k = B.T @ K
    assume(torch.linalg.cond(k) < 1e2)  # nearly equal keys leave no digits
    update = solve_update(K, R, M, basis=basis, mu=0.0)
    assert relative(update @ K, R) < 1e-7  # cond(k)² · cond(M) · 1e-16, times ten
    unseen = torch.eye(len(k), dtype=torch.float64) - k @ torch.linalg.pinv(k)
    step = problem.random(problem.d_model, len(k)) @ unseen @ B.T  # changes nothing at the keys
    assert torch.allclose(step @ K, torch.zeros_like(R), atol=1e-10)
    assert price(update + step, M) >= price(update, M) * (1 - 1e-7)
    assert (
        abs(torch.trace(update @ M @ step.T))
        <= 1e-7 * (price(update, M) * price(step, M)) ** 0.5 + 1e-10
    )


@given(problems(fits=True))
def test_interpolation_is_the_limit_of_small_mu(problem):
    """As μ → 0 the ridge solution approaches the constrained one, at least linearly in μ."""
    K, R, M = problem.K, problem.R, problem.M
    assume(torch.linalg.cond(K) < 30)
    exact = solve_update(K, R, M, mu=0.0)
    misses = [relative(solve_update(K, R, M, mu=mu), exact) for mu in (1e-3, 1e-5, 1e-7)]
    assert misses[2] <= 1e-2 * misses[0] + 1e-7
    assert misses[1] <= 0.2 * misses[0] + 1e-7


@given(problems())
def test_rome_of_one_request(problem):
    K, R = problem.K[:, :1], problem.R[:, :1]
    assert (
        relative(solve_update(K, R, problem.M, mu=0.0), oracles.rome(K[:, 0], R[:, 0], problem.M))
        < EXACT
    )


@given(problems(), st.sampled_from([0.1, 1.0, 100.0]))
def test_memit_with_and_without_history(problem, lam):
    keys, residuals = oracles.columns(problem.K), oracles.columns(problem.R)
    past, C = problem.random(problem.d_ff, 3), problem.M
    update = memit(lam).solver(C).update(problem.K, problem.R)
    assert relative(update, oracles.memit(keys, residuals, lam, C)) < EXACT
    update = memit_seq(lam).solver(C).update(problem.K, problem.R, past)
    assert (
        relative(update, oracles.memit_seq(keys, residuals, lam, C, oracles.columns(past))) < EXACT
    )


@given(problems(), st.sampled_from([1e-2, 1.0]), st.sampled_from([0.5, 20.0]))
def test_thm_emmet_is_memit(problem, eps, lam):
    """A ridge ε on EMMET's constraint in the metric λC is MEMIT with ελ.

    One family, indexed by its price.
    """
    keys, residuals = oracles.columns(problem.K), oracles.columns(problem.R)
    ridge = solve_update(problem.K, problem.R, lam * problem.M, mu=eps)
    assert relative(ridge, memit(eps * lam).solver(problem.M).update(problem.K, problem.R)) < EXACT
    assert (
        relative(ridge, oracles.emmet(keys, residuals, lam * problem.M, ridge=eps)) < 1e-7
    )  # explicit inverses


@given(problems(fits=True))
def test_emmet_without_ridge(problem):
    assume(torch.linalg.cond(problem.K) < 30)
    expected = oracles.emmet(oracles.columns(problem.K), oracles.columns(problem.R), problem.M)
    assert (
        relative(solve_update(problem.K, problem.R, problem.M, mu=0.0), expected) < 1e-7
    )  # explicit inverses


def sequence(method, problem, C, groups):
    """W_T − W_0 after editing column groups of (K, Z) one after the other, residuals from the
    evolving weights.
    """
    solver, past = method.solver(C), problem.K[:, :0]
    total = torch.zeros(problem.d_model, problem.d_ff, dtype=torch.float64)
    for group in groups:
        K = problem.K[:, group]
        total = total + solver.update(
            K, problem.R[:, group] - total @ K, past if method.history else None
        )
        past = torch.cat([past, K], dim=1)
    return total


TAU = 1.0  # the spectrum of C reaches from 0.01 to 100
HISTORY = {
    "memit_seq": lambda: memit_seq(3.0),
    "alphaedit": lambda: alphaedit(TAU, 0.5),
    "memit+projection+history": lambda: with_history(with_projection(memit(3.0), TAU)),
}


@pytest.mark.parametrize("name", HISTORY)
@given(problem=problems(), data=st.data())
def test_thm_sequential_is_joint(name, problem, data):
    """With history, editing in any order and any batches ends where one joint edit of everything
    would.
    """
    C, method = problem.M, HISTORY[name]()
    assume(torch.linalg.eigvalsh(C)[0] < TAU)
    order = data.draw(st.permutations(range(problem.n)))
    cuts = sorted(data.draw(st.sets(st.integers(1, problem.n), max_size=4)) | {0, problem.n})
    groups = [list(order[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    keys, residuals = oracles.columns(problem.K), oracles.columns(problem.R)
    P = (
        oracles.projection(C, TAU)
        if method.directions
        else torch.eye(problem.d_ff, dtype=torch.float64)
    )
    M = method.metric(C)
    metric = M if isinstance(M, torch.Tensor) else M * torch.eye(problem.d_ff, dtype=torch.float64)
    expected = oracles.joint_ridge(keys, residuals, metric, P)
    assert (
        relative(sequence(method, problem, C, groups), expected) < 1e-8
    )  # one digit for five solves in a row
    assert relative(sequence(method, problem, C, [list(range(problem.n))]), expected) < EXACT


def test_without_history_is_not_joint():
    """The converse: leave the history out and ten sequential edits end more than 10 % away from the
    joint solution.
    """
    problem = Problem(7, d_ff=12, d_model=4, n=10)
    C, one_by_one = problem.M, [[i] for i in range(10)]
    joint = sequence(memit(0.1), problem, C, [list(range(10))])
    assert relative(sequence(memit(0.1), problem, C, one_by_one), joint) > 0.1
    assert relative(sequence(memit_seq(0.1), problem, C, one_by_one), joint) < EXACT
    fits = [
        (total @ problem.K - problem.R).norm().item()
        for total in (
            sequence(memit(0.1), problem, C, one_by_one),
            sequence(memit_seq(0.1), problem, C, one_by_one),
        )
    ]
    assert fits[0] > fits[1]  # what was forgotten is visible in the fit


@given(problems(), st.sampled_from([0.1, 10.0]))
def test_thm_alphaedit_reduced(problem, l2):
    """The symmetric system in null-space coordinates equals the dense non-symmetric one that was
    released.
    """
    C = problem.M
    assume(torch.linalg.eigvalsh(C)[0] < TAU)
    past = problem.random(problem.d_ff, 4)
    keys, residuals = oracles.columns(problem.K), oracles.columns(problem.R)
    expected = oracles.alphaedit(
        keys, residuals, oracles.projection(C, TAU), l2, oracles.columns(past)
    )
    found = alphaedit(TAU, l2).solver(C).update(problem.K, problem.R, past)
    assert relative(found, expected) < EXACT


def both_conditions(G, B, l2) -> tuple[float, float]:
    """Condition numbers of BᵀGB + L₂I and of PG + L₂I."""

    def eye(n):
        return l2 * torch.eye(n, dtype=torch.float64)

    reduced, released = B.T @ G @ B + eye(B.shape[1]), B @ B.T @ G + eye(len(G))
    return torch.linalg.cond(reduced).item(), torch.linalg.cond(released).item()


@given(problems(), st.integers(0, 6), st.sampled_from([0.1, 1.0, 10.0]), st.data())
def test_thm_reduced_condition(problem, n_past, l2, data):
    """The symmetric system in null-space coordinates is better conditioned than the released one,
    with a history and without; equally well where all directions are allowed.
    """
    keys = torch.cat([problem.K, problem.random(problem.d_ff, n_past)], dim=1)
    G = keys @ keys.T
    B = problem.basis(data.draw(st.integers(1, problem.d_ff - 1)))
    reduced, released = both_conditions(G, B, l2)
    assert reduced < released  # random keys lie neither in the span of B nor across it
    whole = problem.basis(problem.d_ff)
    reduced, released = both_conditions(G, whole, l2)
    assert reduced == pytest.approx(released, rel=1e-9)


@given(problems(), st.sampled_from([0.1, 1.0, 10.0]))
def test_when_the_small_system_is_as_badly_conditioned(problem, l2):
    """Equality with r < d: keys that do not mix the span of B with its complement, and leave a
    direction of the span free. Either alone is not enough."""
    Q = problem.basis(problem.d_ff)
    r = max(1, problem.d_ff // 2)
    B, rest = Q[:, :r], Q[:, r:]
    split = B[:, : r - 1] @ problem.random(r - 1, 3)  # within the span, one direction free
    beside = 0.1 * rest @ problem.random(problem.d_ff - r, 3)
    reduced, released = both_conditions(split @ split.T, B, l2)
    assert reduced == pytest.approx(released, rel=1e-9)
    mixed = split + beside
    reduced, released = both_conditions(mixed @ mixed.T, B, l2)
    assert r == 1 or reduced < released
    full = B @ problem.random(r, r + 3)  # within the span, all directions used
    reduced, released = both_conditions(full @ full.T, B, l2)
    assert reduced < released


def test_rescaling():
    """Doubling R doubles Δ; (K, M) → (aK, a²M) divides it by a: the solution has the units it
    should have.
    """
    problem = Problem(3, d_ff=8, d_model=3, n=5)
    update = solve_update(problem.K, problem.R, problem.M)
    assert relative(solve_update(problem.K, 2 * problem.R, problem.M), 2 * update) < 1e-14
    assert relative(solve_update(5 * problem.K, problem.R, 25 * problem.M), update / 5) < 1e-12


def test_result_has_the_type_of_the_residual():
    """float32 in, float32 out, but solved in float64: only the final rounding is lost."""
    problem = Problem(4, d_ff=8, d_model=3, n=5)
    exact = solve_update(problem.K.float().double(), problem.R.float().double(), problem.M)
    found = solve_update(problem.K.float(), problem.R.float(), problem.M)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact.float())


def test_slightly_indefinite_metric():
    """A statistic summed in float32 may have a tiny negative eigenvalue.

    The solve goes on by LU, and is stationary.
    """
    problem = Problem(5, d_ff=8, d_model=3, n=2)
    values, vectors = torch.linalg.eigh(problem.M)
    M = (vectors * torch.cat([torch.tensor([-1e-6], dtype=torch.float64), values[1:]])) @ vectors.T
    K = problem.K - vectors[:, :1] @ (
        vectors[:, :1].T @ problem.K
    )  # the keys do not repair that direction
    assert torch.linalg.cholesky_ex(M + K @ K.T).info > 0
    update = solve_update(K, problem.R, M)
    assert ((update @ K - problem.R) @ K.T + update @ M).norm() < 1e-8 * (problem.R @ K.T).norm()


def test_singular_system_is_an_error():
    """A key of zeros cannot carry a residual exactly."""
    problem = Problem(6, d_ff=6, d_model=2, n=2)
    problem.K[:, 1] = 0
    with pytest.raises(torch.linalg.LinAlgError):
        solve_update(problem.K, problem.R, problem.M, mu=0.0)


@pytest.mark.parametrize(
    ("K", "R", "M", "extra", "message"),
    [
        ((6, 3), (2, 4), (6, 6), {}, "K has 3 columns but R has 4"),
        ((6, 3), (2, 3), (5, 5), {}, "K has 6 rows but M is 5×5"),
        ((6, 3), (2, 3), (6, 5), {}, "K has 6 rows but M is 6×5"),
        ((6, 3), (2, 3), (6, 6), {"basis": torch.ones(5, 2)}, "K has 6 rows but the basis has 5"),
        ((6, 3), (2, 3), (6, 6), {"mu": -1.0}, "mu is -1.0"),
    ],
)
def test_shape_errors(K, R, M, extra, message):
    """Each mismatch is named with both numbers (called past the shape checks that may run during
    tests).
    """
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(solve_update)(torch.ones(K), torch.ones(R), torch.ones(M), **extra)
