"""The solver that remembers equals the plain one: every round, any past, any subspace, any μ.

Float64; prices have condition numbers up to 1e4 and Woodbury's identity subtracts nearly equal numbers when past and
new keys are alike, so 1e-8 is allowed of the update.
"""

import pytest
import torch
from conftest import relative
from hypothesis import given
from hypothesis import strategies as st
from test_solve import Problem, problems

from seqedit.algebra.recursion import Solver
from seqedit.algebra.solve import solve_update

CLOSE = 1e-8


def subspace(problem, r: int | None):
    return None if r is None else torch.linalg.qr(problem.random(problem.d_ff, r))[0]


def plain(problem, past, basis, mu):
    return solve_update(problem.K, problem.R, problem.M + past @ past.T, basis=basis, mu=mu)


@given(problems(), st.integers(0, 12), st.sampled_from([1.0, 0.3, 30.0]), st.booleans(), st.booleans())
def test_solver_is_solve_update(problem, n_past, mu, projected, given_gram):
    """Past keys by their Gram matrix, given or not, or beyond `dense_from`: always the plain update."""
    basis = subspace(problem, (problem.d_ff + 1) // 2 if projected else None)
    past = problem.random(problem.d_ff, n_past)
    expected = plain(problem, past, basis, mu)
    for dense_from in (0, 10**6):
        solver = Solver(problem.M, basis, mu)
        solver.dense_from = dense_from
        gram = past.T @ solver.inverse(past) if given_gram else None
        assert relative(solver.update(problem.K, problem.R, past, gram), expected) < CLOSE


@given(problems(fits=True), st.integers(0, 5))
def test_exact_fit_with_history(problem, n_past):
    """μ = 0: ΔK = R, at the least price of M₀ + K_pK_pᵀ."""
    if torch.linalg.cond(problem.K) > 30:
        return
    past = problem.random(problem.d_ff, n_past)
    solver = Solver(problem.M, mu=0.0)
    solver.dense_from = 10**6
    update = solver.update(problem.K, problem.R, past)
    assert relative(update @ problem.K, problem.R) < 1e-7
    assert relative(update, plain(problem, past, None, 0.0)) < 1e-6       # two solves in a row with each other's error


@given(problems(), st.integers(1, 4), st.booleans())
def test_gram_grows_block_by_block(problem, size, projected):
    """`extend` after every round gives the Gram matrix of all keys."""
    solver = Solver(problem.M, subspace(problem, 3) if projected and problem.d_ff >= 3 else None)
    solver.dense_from = 10**6
    keys, gram = problem.random(problem.d_ff, 3 * size), torch.zeros(0, 0, dtype=torch.float64)
    for i in range(3):
        gram = solver.extend(gram, keys[:, :i * size], keys[:, i * size:(i + 1) * size])
    assert relative(gram, keys.T @ solver.inverse(keys)) < 1e-10


def test_past_keys_like_the_new_ones():
    """The same keys again: what is written already leaves half of each residual, in both forms."""
    problem = Problem(1, d_ff=12, d_model=3, n=3)
    solver = Solver(1e-6 * problem.M)
    solver.dense_from = 100
    update = solver.update(problem.K, problem.R, problem.K)
    assert relative(update, solve_update(problem.K, problem.R, 1e-6 * problem.M + problem.K @ problem.K.T)) < 1e-6
    assert relative(update @ problem.K, problem.R / 2) < 1e-5


def test_large_histories_use_the_plain_form():
    """From d_ff / 2 keys on no Gram matrix grows, and none is needed."""
    problem = Problem(2, d_ff=10, d_model=3, n=2)
    solver, past = Solver(problem.M), problem.random(10, 4)
    gram = past.T @ solver.inverse(past)
    assert solver.extend(gram, past, problem.K) is gram
    assert torch.equal(solver.update(problem.K, problem.R, past, gram), plain(problem, past, None, 1.0))


def test_types_and_singular_prices():
    problem = Problem(3, d_ff=8, d_model=3, n=2)
    update = Solver(problem.M.float()).update(problem.K.float(), problem.R.float(), problem.K.float())
    assert update.dtype == torch.float32
    with pytest.raises(torch.linalg.LinAlgError, match="singular on the allowed directions"):
        Solver(0 * problem.M)
    shifted = problem.M - (torch.linalg.eigvalsh(problem.M)[0] + 1e-9) * torch.eye(8)       # slightly indefinite
    Y = problem.random(8, 2)
    assert relative(shifted @ Solver(shifted).inverse(Y), Y) < 1e-4       # condition number 1e11
