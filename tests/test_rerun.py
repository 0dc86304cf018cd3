"""Combinators that run a method more than once: SimIE joins single edits, iteration repeats them.

1e-4 of an update allows for float32 weights.
"""

from dataclasses import replace

import oracles
import pytest
import torch
from conftest import CONTEXTS, build_plan, hook_count, relative
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem
from runs import network_for, same, weights

from seqedit.editing.sequential import handed_over, run_sequential
from seqedit.lm.hooks import observe
from seqedit.lm.keys import BARE, read_keys, read_values
from seqedit.lm.target_loss import TargetConfig
from seqedit.lm.targets import optimise_targets
from seqedit.lm.weights import apply_update, read_weight, write_weight
from seqedit.methods.catalogue import make_method
from seqedit.methods.combinators import compensated, prune, rect, robust_keys, with_history
from seqedit.methods.fine_tuned import ft_m
from seqedit.methods.from_gradients import mend
from seqedit.methods.grace import grace
from seqedit.methods.kinds.iterated import joined_outcome
from seqedit.methods.memit import memit, memit_rect, memit_seq
from seqedit.methods.rerun import iterated, simie
from seqedit.methods.rome import rome

RIDGE = 3.0
BASES = ["rome", "memit", "ft_m", "mend"]


def base_of(lm, name):
    """A base with settings that suit a tiny model, and the layers it edits."""
    if name == "mend":
        return mend(network_for(lm)), (0, 1)
    if name == "rome":
        return rome(), (1,)
    return (memit(0.5) if name == "memit" else ft_m(lr=1e-2, steps=3)), (0, 1)


def single_edits(tiny_lm, requests, method, plan):
    """Layer → matrices after each edit alone, and keys of all its tokens, one forward pass each."""
    ideals, keys = ({layer: [] for layer in plan.layers} for _ in range(2))
    for request in requests:
        lm = tiny_lm("gpt2")
        ids = lm.tokenizer(f"{request.text} {request.target_new}")["input_ids"]
        modules = {layer: lm.down_proj(layer) for layer in plan.layers}
        calls = observe(lm, torch.tensor([ids]), modules, last=plan.layers[-1])
        list(run_sequential(lm, [[request]], method, plan))
        for layer in plan.layers:
            ideals[layer].append(read_weight(lm, layer))
            keys[layer].append(calls[layer].input[0].T)
    return ideals, keys


@given(st.integers(0, 2**32), st.integers(1, 4), st.floats(0.1, 10.0))
def test_thm_simie_is_joint_ridge(seed, edits, ridge):
    """The recursion ends where one ridge regression on all single edits does, in any order.

    The converse: forgetting P between edits, or other keys later, leads elsewhere.
    """
    problem = Problem(seed, d_ff=6, d_model=3, n=2)
    W0 = problem.random(3, 6)
    ideals = [W0 + problem.random(3, 6) for _ in range(edits)]
    keys = [problem.random(6, 2) for _ in range(edits)]
    joint = oracles.simie_joint(W0, ideals, keys, ridge)
    assert relative(oracles.simie(W0, ideals, keys, ridge), joint) < 1e-9
    assert relative(oracles.simie(W0, ideals[::-1], keys[::-1], ridge), joint) < 1e-9
    if edits > 1:
        W = W0
        for ideal, K in zip(ideals, keys, strict=True):
            W = W + (ideal - W) @ K @ K.T @ torch.linalg.inv(ridge * torch.eye(6) + K @ K.T)
        assert relative(W, joint) > 1e-6
        moved = [keys[0] + 0.1, *keys[1:]]
        assert relative(oracles.simie_joint(W0, ideals, moved, ridge), joint) > 1e-6


@pytest.mark.parametrize("name", BASES)
def test_simie_joins_single_edits(tiny_lm, requests, errors, name):
    """Through a network: the recursion and the joint solution, whatever the rounds are."""
    lm, whole = tiny_lm("gpt2"), tiny_lm("gpt2")
    base, layers = base_of(lm, name)
    plan, method = build_plan(lm, layers=layers), simie(base, RIDGE)
    W0 = {layer: read_weight(lm, layer) for layer in layers}
    ideals, keys = single_edits(tiny_lm, requests, base, plan)
    *_, done = run_sequential(lm, [requests[:1], requests[1:4], requests[4:]], method, plan)
    assert [o.status for o in done.outcomes] == ["edited"] * 2 and hook_count(lm) == 0
    next(run_sequential(whole, [requests], method, plan))
    for layer in layers:
        moved = read_weight(lm, layer) - W0[layer]
        recursion = oracles.simie(W0[layer], ideals[layer], keys[layer], RIDGE) - W0[layer]
        joint = oracles.simie_joint(W0[layer], ideals[layer], keys[layer], RIDGE) - W0[layer]
        error = max(relative(moved, recursion), relative(moved, joint))
        if name != "memit":  # which is no entry of the catalogue
            errors(f"{name}+simie", "oracle", error)
        assert error < 1e-4
        assert relative(read_weight(whole, layer) - W0[layer], joint) < 1e-4
        added = sum(ideal - W0[layer] for ideal in ideals[layer])
        assert relative(moved, added) > 1e-2  # it is not the sum of the single edits


def test_simie_resumes(tiny_lm, requests):
    """Stopped between rounds and continued in another model: the same bits."""
    lm, first, second = (tiny_lm("gpt2") for _ in range(3))
    plan, method = build_plan(lm), simie(memit_seq(0.5), RIDGE)
    *_, whole = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
    (done,) = run_sequential(first, [requests[:3]], method, plan)
    for layer in plan.layers:
        write_weight(second, layer, read_weight(first, layer))
    (last,) = run_sequential(second, [requests[3:]], method, plan, done.state)
    assert same(weights(second), weights(lm)) and same(last.state.memory, whole.state.memory)
    P = whole.state.memory["simie.system.0"]
    assert P.dtype == torch.float64 and torch.linalg.eigvalsh(P)[0] > RIDGE


def test_simie_does_not_depend_on_a_history_of_its_base(tiny_lm, requests):
    """Each edit begins anew, so that a base with history joins as the same base without."""
    ends = []
    for base in (memit(0.5), memit_seq(0.5), with_history(memit(0.5), 7.0)):
        lm = tiny_lm("gpt2")
        list(run_sequential(lm, [requests[:2], requests[2:]], simie(base, RIDGE), build_plan(lm)))
        ends.append(weights(lm))
    assert same(ends[0], ends[1]) and same(ends[0], ends[2])


def test_a_restraint_of_the_base_acts_on_single_edits(tiny_lm, requests):
    """RECT before SimIE restrains what is joined, after it the joined update; PRUNE the total."""
    ends = {}
    for name in ("memit_rect+simie", "memit+simie+rect", "memit+simie"):
        lm = tiny_lm("gpt2")
        settings = {"lam": 0.5} | ({"share": 0.3} if "rect" in name else {})
        method = make_method(name, simie_ridge=RIDGE, **settings)
        list(run_sequential(lm, [requests], method, build_plan(lm)))
        ends[name] = read_weight(lm, 1) - read_weight(tiny_lm("gpt2"), 1)
    shares = {name: (end != 0).double().mean().item() for name, end in ends.items()}
    assert shares["memit+simie+rect"] < 0.35 < shares["memit+simie"]
    assert relative(ends["memit_rect+simie"], ends["memit+simie"]) > 1e-2
    total = simie(prune(memit(0.5), 1.5))
    assert total.restrain_total is not None and total.base.restrain_total is None


def test_what_simie_refuses(tiny_lm):
    """Editors whose edits are not in the matrices alone."""
    for base in (grace(), robust_keys(memit())):
        with pytest.raises(ValueError, match=r"simie\(.*do not support a change of their weights"):
            simie(base)


def test_iterated_is_its_steps(tiny_lm, requests, errors):
    """Targets under the weights so far, MEMIT's solve, three times; the history ends before it."""
    lm, other, once = (tiny_lm("gpt2") for _ in range(3))
    plan = build_plan(lm, layers=(1,))
    W0 = read_weight(lm, 1)
    rounds = [requests[:3], requests[3:]]
    *_, done = run_sequential(lm, rounds, iterated(memit_seq(0.5), 3), plan)
    past = []
    for batch in rounds:
        for _ in range(3):
            z = optimise_targets(other, batch, CONTEXTS, 1, plan.target).z
            K, h = read_keys(other, batch, CONTEXTS, 1), read_values(other, batch, 1)
            keys, residuals = oracles.columns(K), oracles.columns(z.T - h)
            update = oracles.memit_seq(keys, residuals, 0.5, plan.moments[1], past)
            apply_update(other, 1, update.float())
        past += keys
    error = relative(read_weight(lm, 1) - W0, read_weight(other, 1) - W0)
    assert errors("memit+iterated", "oracle", error) < 1e-4
    assert done.state.keys[1].shape == (64, 6) and {o.target_updates for o in done.outcomes} == {15}
    assert {o.reason for o in done.outcomes} == {"target used all 6 steps, repetition 3"}
    *_, single = run_sequential(once, rounds, memit_seq(0.5), plan)
    assert done.residual_before > done.residual_after
    losses = [sum(o.target_loss for o in one.outcomes) for one in (done, single)]
    assert losses[0] < losses[1]


def test_one_iteration_is_the_base(tiny_lm, requests):
    """With a restraint in the base as well, which then acts on each repetition."""
    for base in (memit_rect(0.5), compensated(rect(memit_seq(0.5), 0.3)), rome()):
        lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
        plan = build_plan(lm, layers=(1,))
        rounds = [requests[:3], requests[3:]]
        ours = list(run_sequential(lm, rounds, iterated(base, 1), plan))
        theirs = list(run_sequential(other, rounds, base, plan))
        assert same(weights(lm), weights(other))
        assert [one.outcomes for one in ours] == [one.outcomes for one in theirs]


def test_iteration_ends_when_nothing_is_missing(tiny_lm, requests):
    """Once every target is reached at its start, nothing is searched or written any more."""
    lm = tiny_lm("gpt2")
    target = TargetConfig(steps=30, lr=0.5, clamp=50.0, stop_loss=3.8, kl=0.0, weight_decay=0.0)
    plan = build_plan(lm, layers=(1,), contexts=BARE, target=target)
    easy = replace(requests[4], target_new="a")
    (done,) = run_sequential(lm, [[easy]], iterated(memit(1e-6), 20), plan)
    assert all("repetition" in o.reason and "20" not in o.reason for o in done.outcomes)
    assert all(o.reason.startswith("target loss below 3.8") for o in done.outcomes)
    edited = done.outcomes[0]
    assert joined_outcome((edited, replace(edited, status="refused"))).status == "edited"
    satisfied = replace(edited, status="already satisfied")
    assert joined_outcome((satisfied, satisfied)).status == "already satisfied"


@pytest.mark.parametrize("name", ["ft_m", "grace", "lyaplock", "ultraedit"])
def test_what_cannot_be_iterated(name):
    with pytest.raises(ValueError, match=r"iterated\(.*do not support a change of their targets"):
        make_method(f"{name}+iterated")


@pytest.mark.parametrize("base", ["ft_m", "memit"])
def test_averaged_weights_are_between_old_and_new(tiny_lm, requests, errors, base):
    """Handed over is W₀ + α(W_T − W₀), after PRUNE where that is asked for; the loop never sees it.

    α = 1 is the base.
    """
    lm = tiny_lm("gpt2")
    plan, W0 = build_plan(lm), read_weight(lm, 1)
    settings = {"lr": 1e-2, "steps": 3} if base == "ft_m" else {"lam": 0.5}
    method = make_method(f"{base}+averaged", mix=0.25, **settings)
    *_, done = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
    W = read_weight(lm, 1)
    with handed_over(lm, method, done.state):
        error = relative(read_weight(lm, 1), 0.75 * W0 + 0.25 * W)
    if base == "ft_m":  # the entry of the catalogue
        errors("ft_m+averaged", "oracle", error)
    assert error < 1e-6 and relative(W, W0) > 1e-3
    assert torch.equal(read_weight(lm, 1), W)
    total = (W - W0).double()
    pruned = make_method("memit+prune+averaged", alpha=1.5, mix=0.25)
    expected = 0.25 * oracles.prune(0.01 * W0.double(), total, 1.5)
    assert relative(pruned.restrain_total(0.01 * W0.double(), total), expected) < 1e-9
    assert torch.equal(make_method("memit+averaged", mix=1.0).restrain_total(W0, total), total)
    with pytest.raises(ValueError, match="mix is 1.5; it must lie between 0 and 1"):
        make_method("memit+averaged", mix=1.5)
