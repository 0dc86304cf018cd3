"""LyapLock: every round is the joint solution of all edits so far.

The queue sets the price of drift.
"""

import pytest
import torch
from conftest import build_plan, relative

from seqedit.algebra.diagnostics import drift
from seqedit.algebra.solver import Solver
from seqedit.editing.sequential import run_sequential
from seqedit.lm.weights import read_weight
from seqedit.methods.memit import memit_seq
from seqedit.methods.recursive import lyaplock


def in_rounds(requests):
    return [requests[:2], requests[2:4], requests[4:]]


def test_within_budget_it_is_memit_seq(tiny_lm, requests):
    """Sequential solving equals joint solving: solving again for all edits adds nothing.

    The tolerance 1e-4 allows for float32 targets and weights.
    """
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, W0 = build_plan(lm), {layer: read_weight(lm, layer) for layer in (0, 1)}
    *_, done = run_sequential(lm, in_rounds(requests), lyaplock(0.5, budget=1e6), plan)
    list(run_sequential(other, in_rounds(requests), memit_seq(0.5), plan))
    for layer in (0, 1):
        assert (
            relative(read_weight(lm, layer) - W0[layer], read_weight(other, layer) - W0[layer])
            < 1e-4
        )
        assert done.state.memory[f"lyaplock.queue.{layer}"][0] == 1
    tight = tiny_lm("gpt2")
    list(run_sequential(tight, in_rounds(requests), lyaplock(0.5, budget=1.01), plan))
    assert relative(read_weight(tight, 1) - W0[1], read_weight(other, 1) - W0[1]) > 1e-2


def test_each_round_is_the_weighted_least_squares_solution(tiny_lm, requests, errors):
    """argmin Σ‖Wk − v‖² + Zλ tr((W − W₀)C(W − W₀)ᵀ), by its normal equations.

    The queue is recomputed from the drifts.
    """
    lm = tiny_lm("gpt2")
    plan, W0 = build_plan(lm, layers=(1,)), read_weight(lm, 1).double()
    C, z, budget = plan.moments[1], 1.0, None
    for done in run_sequential(lm, in_rounds(requests), lyaplock(0.5, budget=1.1), plan):
        K, V = done.state.keys[1].double(), done.state.memory["lyaplock.residuals.1"].double()
        expected = V @ K.T @ torch.linalg.inv(K @ K.T + z * 0.5 * C)
        total = read_weight(lm, 1).double() - W0
        assert errors("lyaplock", "oracle", relative(total, expected)) < 1e-5  # float32 weights
        now = drift(total.float(), C)
        budget = budget or 1.1 * now
        z = max(z + now / budget - 1, 1.0)
        assert done.state.memory["lyaplock.queue.1"].tolist() == pytest.approx(
            [z, budget], rel=1e-4
        )
    assert z > 1.01  # the budget was exceeded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_first_round_that_writes_nothing_sets_no_budget(tiny_lm, requests, monkeypatch, dtype):
    """As with requests that are refused; the first round that writes sets it."""
    lm = tiny_lm("gpt2")
    lm.model.to(dtype)
    plan, update, calls = build_plan(lm, layers=(1,)), Solver.update, []

    def first_does_nothing(solver, K, R, *past):
        calls.append(1)
        return update(solver, K, R, *past) * (len(calls) != 1)

    monkeypatch.setattr(Solver, "update", first_does_nothing)
    first, second, _ = run_sequential(lm, in_rounds(requests), lyaplock(0.5, budget=1.01), plan)
    assert {outcome.status for outcome in first.outcomes} == {"refused"}
    assert {outcome.status for outcome in second.outcomes} == {"edited"}
    assert second.state.memory["lyaplock.queue.1"][1] > 0
