"""The solver that remembers equals the plain one: every round, any past, any subspace, any μ.

Float64; prices have condition numbers up to 1e4 and Woodbury's identity subtracts nearly equal
numbers when past and new keys are alike, so 1e-8 is allowed of the update.
"""

import pytest
import torch
from conftest import relative
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem, problems

from seqedit.algebra.solve import solve_update
from seqedit.algebra.solver import Solver
from seqedit.algebra.subspace import Subspace

CLOSE = 1e-8


def subspace(problem, r: int, complement: bool = False):
    """Of dimension r, held by its own basis or by that of its complement."""
    Q = torch.linalg.qr(problem.random(problem.d_ff, problem.d_ff))[0]
    return Subspace(Q[:, r:] if complement else Q[:, :r], complement)


def plain(problem, past, space=None, mu=1.0, M=None):
    M = problem.M if M is None else M
    return solve_update(problem.K, problem.R, M + past @ past.T, basis=space and space.basis, mu=mu)


def solver_of(form, M, space=None, mu=1.0):
    """A solver that uses the "gram" or the "plain" form whatever the sizes."""
    return Solver(M, space, mu, dense_from=0 if form == "plain" else 10**6)


@given(
    problems(), st.integers(0, 12), st.sampled_from([1.0, 0.3, 30.0]), st.booleans(), st.booleans()
)
def test_solver_is_solve_update(problem, n_past, mu, projected, given_gram):
    """Past keys by their Gram matrix, given or not, or summed: always the plain update."""
    space = (
        subspace(problem, (problem.d_ff + 1) // 2, complement=n_past % 2 == 1)
        if projected
        else None
    )
    past = problem.random(problem.d_ff, n_past)
    for form in ("gram", "plain"):
        solver = solver_of(form, problem.M, space, mu)
        gram = past.T @ solver.inverse(past) if given_gram else None
        assert (
            relative(
                solver.update(problem.K, problem.R, past, gram), plain(problem, past, space, mu)
            )
            < CLOSE
        )


@given(problems(), st.integers(1, 8), st.sampled_from([1.0, 0.3]), st.sampled_from([1.0, 2.5]))
def test_thm_four_forms(problem, n_past, mu, weight):
    """Dense, reduced, dual, dual with history, each written out.

    They agree; without the history the result differs.
    """
    B = problem.basis((problem.d_ff + 1) // 2)
    P, eye = B @ B.T, torch.eye(problem.d_ff, dtype=torch.float64)
    K, R, Kp, inverse = problem.K, problem.R, problem.random(problem.d_ff, n_past), torch.linalg.inv
    M = problem.M + weight * Kp @ Kp.T
    small = torch.eye(K.shape[1], dtype=torch.float64)
    dense = R @ K.T @ P @ inverse(P @ (mu * M + K @ K.T) @ P + eye - P)
    reduced = R @ K.T @ B @ inverse(B.T @ (mu * M + K @ K.T) @ B) @ B.T
    Q = B @ inverse(B.T @ M @ B) @ B.T @ K
    dual = R @ inverse(mu * small + K.T @ Q) @ Q.T
    A = B @ inverse(B.T @ problem.M @ B) @ B.T
    Q = A @ (
        K
        - Kp
        @ inverse(torch.eye(n_past, dtype=torch.float64) / weight + Kp.T @ A @ Kp)
        @ Kp.T
        @ A
        @ K
    )
    history = R @ inverse(mu * small + K.T @ Q) @ Q.T
    solver = Solver(problem.M, Subspace(B, complement=False), mu, weight)
    for form in (dense, dual, history, solver.update(K, R, Kp)):
        assert relative(form, reduced) < CLOSE
    forgets = solver.update(K, R, 0 * Kp)
    assert (
        problem.d_ff < 3 or relative(forgets, reduced) > 1e-6
    )  # in few directions M may outweigh the past


@given(problems(), st.integers(0, 12), st.booleans(), st.booleans())
def test_a_number_as_price_means_a_multiple_of_the_identity(problem, n_past, projected, complement):
    """c in place of cI: the same update, whichever of the two bases holds the subspace."""
    space = subspace(problem, (problem.d_ff + 1) // 2, complement) if projected else None
    past, eye = problem.random(problem.d_ff, n_past), torch.eye(problem.d_ff, dtype=torch.float64)
    for form in ("gram", "plain"):
        update = solver_of(form, 0.3, space).update(problem.K, problem.R, past)
        assert relative(update, plain(problem, past, space, M=0.3 * eye)) < CLOSE


@given(problems(fits=True), st.integers(0, 5))
def test_exact_fit_with_history(problem, n_past):
    """μ = 0: ΔK = R, at the least price of M₀ + K_pK_pᵀ."""
    if torch.linalg.cond(problem.K) > 30:
        return
    past = problem.random(problem.d_ff, n_past)
    update = solver_of("gram", problem.M, None, 0.0).update(problem.K, problem.R, past)
    assert relative(update @ problem.K, problem.R) < 1e-7
    assert (
        relative(update, plain(problem, past, mu=0.0)) < 1e-6
    )  # two solves in a row with each other's error


@given(problems(), st.integers(1, 4), st.booleans())
def test_gram_grows_block_by_block(problem, size, projected):
    """`extend` after every round gives the Gram matrix of all keys."""
    solver = solver_of("gram", problem.M, subspace(problem, 1) if projected else None)
    keys, gram = problem.random(problem.d_ff, 3 * size), torch.zeros(0, 0, dtype=torch.float64)
    for i in range(3):
        gram = solver.extend(gram, keys[:, : i * size], keys[:, i * size : (i + 1) * size])
    assert relative(gram, keys.T @ solver.inverse(keys)) < 1e-10


def test_past_keys_like_the_new_ones():
    """The same keys again: what is written already leaves half of each residual, in both forms."""
    problem = Problem(1, d_ff=12, d_model=3, n=3)
    update = solver_of("gram", 1e-6 * problem.M).update(problem.K, problem.R, problem.K)
    assert (
        relative(
            update, solve_update(problem.K, problem.R, 1e-6 * problem.M + problem.K @ problem.K.T)
        )
        < 1e-6
    )
    assert relative(update @ problem.K, problem.R / 2) < 1e-5


def test_large_histories_use_the_plain_form():
    """Beyond d_ff keys no Gram matrix grows, and none is needed."""
    problem = Problem(2, d_ff=10, d_model=3, n=2)
    solver, past = Solver(problem.M), problem.random(10, 9)
    gram = past.T @ solver.inverse(past)
    assert solver.extend(gram, past, problem.K) is gram
    assert torch.equal(solver.update(problem.K, problem.R, past, gram), plain(problem, past))


def test_float32_comes_back_and_a_singular_price_is_an_error():
    problem = Problem(3, d_ff=8, d_model=3, n=2)
    update = Solver(problem.M.float()).update(
        problem.K.float(), problem.R.float(), problem.K.float()
    )
    assert update.dtype == torch.float32
    with pytest.raises(torch.linalg.LinAlgError, match="singular on the allowed directions"):
        Solver(0 * problem.M)
    shifted = problem.M - (torch.linalg.eigvalsh(problem.M)[0] + 1e-9) * torch.eye(
        8
    )  # slightly indefinite
    Y = problem.random(8, 2)
    assert relative(shifted @ Solver(shifted).inverse(Y), Y) < 1e-4  # condition number 1e11


@given(problems(), st.integers(1, 3), st.booleans())
def test_thm_evolving_null_space(problem, rounds, confined):
    """P loses the span of each round's keys: it stays a projection, annihilates all past keys, is
    what infinite weight does, and what large weights tend to."""
    start = subspace(problem, problem.d_ff - 1) if confined else None
    everything = torch.eye(problem.d_ff, dtype=torch.float64)
    P = start.project(everything) if start else everything
    past = torch.zeros(problem.d_ff, 0, dtype=torch.float64)
    for _ in range(rounds):
        K = problem.random(problem.d_ff, 2)
        if rounds == 2:
            K[:, 1] = -2 * K[:, 0]  # keys that depend on each other
        U, values, _ = torch.linalg.svd(P @ K, full_matrices=False)
        Q = U[:, values > 1e-9 * K.norm()]
        P, past = P - Q @ Q.T, torch.cat([past, K], dim=1)
        assert torch.allclose(P @ P, P, atol=1e-9) and torch.allclose(P, P.T, atol=1e-12)
        assert (P @ past).norm() < 1e-8 * past.norm()
    update = Solver(2.0, start, 1.0, float("inf")).update(problem.K, problem.R, past)
    gain = torch.linalg.solve(
        problem.K.T @ P @ problem.K + 2 * torch.eye(problem.K.shape[1]).double(), problem.K.T @ P
    )
    assert (update - problem.R @ gain).norm() < 1e-7 * (1 + problem.R.norm())
    assert (update @ past).norm() < 1e-7 * (1 + update.norm()) * past.norm()
    distances = [
        (Solver(2.0, start, 1.0, weight).update(problem.K, problem.R, past) - update).norm().item()
        for weight in (1.0, 1e3, 1e6)
    ]
    assert distances[2] <= max(1e-2 * distances[0], 1e-6 * (1 + update.norm().item()))
