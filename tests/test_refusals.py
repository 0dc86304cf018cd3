"""Rounds and plans that are refused: the reason is said, and the model is bit for bit as before."""

from dataclasses import replace

import pytest
import torch
from conftest import build_plan
from runs import BESIDE, method_and_plan, same, weights

import seqedit.editing.sequential as loop
from seqedit.algebra.solver import Solver
from seqedit.editing.sequential import run_sequential
from seqedit.lm.keys import KeyReader
from seqedit.lm.weights import read_weight
from seqedit.methods.alphaedit import alphaedit
from seqedit.methods.catalogue import METHODS
from seqedit.methods.kinds import locate_then_edit
from seqedit.methods.memit import memit
from seqedit.methods.rome import r_rome, rome


@pytest.mark.parametrize("name", sorted(set(METHODS) - BESIDE))  # which write nothing
@pytest.mark.parametrize("at", [0, 1])
def test_exploding_update_is_undone(tiny_lm, requests, name, at):
    """Refused in whichever round it happens: weights bit for bit as before it, no history, and the
    run goes on.
    """
    lm = tiny_lm("gpt2")
    method, plan = method_and_plan(lm, name)
    state = None
    if at:
        state = list(run_sequential(lm, [requests[:2]], method, plan))[-1].state
    before = weights(lm)
    strict = replace(plan, max_update_ratio=1e-9)
    (done,) = run_sequential(lm, [requests[2:]], method, strict, state)
    assert same(weights(lm), before)
    assert [o.case_id for o in done.outcomes] == [r.case_id for r in requests[2:]]
    assert {o.status for o in done.outcomes} == {"refused"}
    assert all(
        "times as large as the original matrix (max_update_ratio 1e-09)" in o.reason
        for o in done.outcomes
    )
    assert done.layers == () and done.state.round == at + 1
    for layer in plan.layers:
        assert torch.equal(done.state.keys[layer], state.keys[layer] if at else torch.zeros(64, 0))
    (after,) = run_sequential(lm, [requests[2:]], method, plan, done.state)
    assert {o.status for o in after.outcomes} == {"edited"} and after.index == at + 1


def test_a_late_failure_undoes_the_whole_round(tiny_lm, requests, monkeypatch):
    """ROME edits one by one: if the last of a round fails, the earlier ones are taken back too."""
    lm = tiny_lm("gpt2")
    before, plan = weights(lm), build_plan(lm, layers=(1,))
    solved, update = [], Solver.update

    def fails_late(solver, K, R, *past):
        solved.append(1)
        return update(solver, K, R, *past) * (1 if len(solved) < 3 else float("nan"))

    monkeypatch.setattr(Solver, "update", fails_late)
    (done,) = run_sequential(lm, [requests[:3]], r_rome(), plan)
    assert len(solved) == 3
    assert [o.status for o in done.outcomes] == ["refused"] * 3 and same(weights(lm), before)


def test_second_layer_failing_undoes_the_first(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    before, plan = weights(lm), build_plan(lm)
    other = plan.moments | {1: 1e-30 * plan.moments[1]}
    broken = replace(memit(1.0), price=lambda C: C if C.trace() > 1e-20 else C * float("inf"))
    (done,) = run_sequential(lm, [requests], broken, replace(plan, moments=other))
    assert same(weights(lm), before)
    assert {o.reason for o in done.outcomes} == {"the update of layer 1 is not finite"}


def test_a_singular_price_is_an_error(tiny_lm, requests):
    """A price of zero leaves fewer equations than unknowns: an error before the first round, not
    solved somehow.
    """
    lm = tiny_lm("gpt2")
    before = weights(lm)
    zero = replace(memit(1.0), price=lambda C: 0 * C)
    with pytest.raises(ValueError, match="moments: layer 0: the price of movement is singular"):
        next(run_sequential(lm, [requests[:2]], zero, build_plan(lm)))
    assert same(weights(lm), before)


def test_targets_that_are_not_finite(tiny_lm, requests):
    """NaN in the model above the edited layer: refused, never "already satisfied"."""
    lm = tiny_lm("gpt2")
    lm.model.get_submodule("transformer.ln_f").weight[0] = float("nan")
    W = read_weight(lm, 1)
    (done,) = run_sequential(lm, [requests], memit(0.5), build_plan(lm))
    assert {(o.status, o.reason[:24]) for o in done.outcomes} == {
        ("refused", "a target is not finite; ")
    }
    assert torch.equal(read_weight(lm, 1), W)


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), KeyboardInterrupt()], ids=["memory", "interrupt"]
)
@pytest.mark.parametrize(
    ("place", "name", "call"),
    [
        (KeyReader, "keys", 2),
        (KeyReader, "values", 2),
        (locate_then_edit, "apply_update", 2),
        (locate_then_edit, "read_values", 1),
        (loop, "condition_number", 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_other_exception_undoes_the_round(
    tiny_lm, requests, monkeypatch, place, name, call, error
):
    """Not a refusal, it reaches the caller; but the layers already written are put back, bit for
    bit, and the same
    round can be run again as if nothing had happened."""
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, before, calls, real = build_plan(lm), weights(lm), [], getattr(place, name)

    def fail(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise error
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fail)
        with pytest.raises(type(error)):
            next(run_sequential(lm, [requests], memit(0.5), plan))
    assert len(calls) == call and same(weights(lm), before)
    for model in (lm, other):
        next(run_sequential(model, [requests], memit(0.5), plan))
    assert same(weights(lm), weights(other)) and not same(weights(lm), before)


def test_an_empty_round(tiny_lm, requests):
    """Says which round; the one before it stays written."""
    lm = tiny_lm("gpt2")
    rounds = run_sequential(lm, [requests, []], memit(0.5), build_plan(lm))
    next(rounds)
    written = weights(lm)
    with pytest.raises(ValueError, match="round 1 holds no requests; leave it out"):
        next(rounds)
    assert same(weights(lm), written)


def plan_errors():
    """Changes of a plan and what is said about them."""
    yield {"layers": ()}, "give at least one"
    yield {"layers": (1, 0)}, r"layers \[1, 0\]: give at least one, in ascending order"
    yield {"layers": (1, 1)}, "none twice"
    yield {"layers": (1, 3)}, "layers: 3 is out of range; the model has layers 0 to 2"
    yield {"layers": (-1,)}, "layers: -1 is out of range"
    yield {"moments": {0: torch.eye(64)}}, r"moments: none for layer 1; there are \[0\]"
    yield (
        {"moments": dict.fromkeys((0, 1), torch.eye(16))},
        r"C.0 is \(16, 16\), but .*keys of layer 0 have 64",
    )
    yield (
        {"moments": {0: torch.eye(64), 1: torch.eye(64) * float("nan")}},
        "C.1 has entries that are not finite",
    )
    yield (
        {"moments": {0: torch.eye(64), 1: torch.eye(64) / 0}},
        "moments: C.1 has entries that are not finite",
    )


@pytest.mark.parametrize("method", [memit(), alphaedit(0.9)], ids=["memit", "alphaedit"])
@pytest.mark.parametrize(("changes", "message"), list(plan_errors()))
def test_plans_that_do_not_fit(tiny_lm, requests, changes, message, method):
    """Said before anything is computed, and the model is as it was."""
    lm = tiny_lm("gpt2")
    before = weights(lm)
    with pytest.raises(ValueError, match=message):
        next(run_sequential(lm, [requests], method, build_plan(lm, **changes)))
    assert same(weights(lm), before)


@pytest.mark.parametrize("method", [rome(), r_rome()], ids=["rome", "r_rome"])
def test_rome_edits_one_layer(tiny_lm, requests, method):
    lm = tiny_lm("gpt2")
    with pytest.raises(ValueError, match=r"ROME edits one layer, \[0, 1\] were given"):
        next(run_sequential(lm, [requests], method, build_plan(lm)))


def test_alphaedit_without_any_direction(tiny_lm, requests):
    """A threshold below the whole spectrum is an error before the first round."""
    lm = tiny_lm("gpt2")
    with pytest.raises(ValueError, match="no direction of key space"):
        next(run_sequential(lm, [requests], alphaedit(1e-6), build_plan(lm)))
