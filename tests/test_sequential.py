"""The loop: what a round does, what it remembers, and that a run can be continued bit for bit."""

import math
from dataclasses import replace

import oracles
import pytest
import torch
from conftest import build_plan, hook_count, relative
from runs import BESIDE, TOLD, every_method, method_and_plan, same, weights

from seqedit.editing.sequential import run_sequential
from seqedit.editing.state import EditState
from seqedit.lm.keys import BARE, read_keys, read_values
from seqedit.lm.target_loss import TargetConfig
from seqedit.lm.targets import optimise_targets
from seqedit.lm.weights import apply_update, read_weight, write_weight
from seqedit.methods.catalogue import CATALOGUE, METHODS
from seqedit.methods.combinators import with_history
from seqedit.methods.kinds.locate_then_edit import LocateThenEdit
from seqedit.methods.memit import memit, memit_seq
from seqedit.methods.rome import r_rome


def in_rounds(requests):
    return [requests[:2], requests[2:3], requests[3:]]


@every_method
def test_a_run(tiny_lm, requests, name):
    """A run gives one outcome per request, in order.

    The history has one key column per edit, and only the planned matrices change.
    """
    lm = tiny_lm("gpt2")
    method, plan = method_and_plan(lm, name)
    locates = isinstance(method, LocateThenEdit)
    before, total = weights(lm), 0
    for i, (batch, done) in enumerate(
        zip(in_rounds(requests), run_sequential(lm, in_rounds(requests), method, plan), strict=True)
    ):
        total += len(batch)
        assert [o.case_id for o in done.outcomes] == [r.case_id for r in batch]
        assert {o.status for o in done.outcomes} == {"edited"}
        updates = 5 if locates or name == "grace" else 1
        updates = 3 if name.startswith(("ft", "locft", "crisp")) else updates
        updates = 0 if name in TOLD else updates
        assert {o.target_updates for o in done.outcomes} == {updates}
        assert done.index == i and done.state.round == i + 1
        assert [o.layer for o in done.layers] == list(plan.layers)
        assert all(
            done.state.keys[layer].shape == (64, total if locates else 0) for layer in plan.layers
        )
        if locates and name != "r_rome":  # which writes at the averaged key
            assert done.residual_after < done.residual_before
        assert math.isnan(done.residual_after) != locates
        stages = {"observe", "total"} if name in TOLD else {"targets", "observe", "total"}
        assert done.seconds.keys() - {"keys", "solve"} == stages
    names = (
        {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in plan.layers}
        if name not in BESIDE
        else set()
    )
    after = weights(lm)
    assert {n for n in after if not torch.equal(after[n], before[n])} == names
    for layer in plan.layers:
        assert torch.equal(
            done.state.original[layer], before[f"transformer.h.{layer}.mlp.c_proj.weight"].T
        )
    assert hook_count(lm) == 0 and not any(p.requires_grad for p in lm.model.parameters())


@every_method
def test_same_inputs_same_weights(tiny_lm, requests, name):
    ends = []
    for _ in range(2):
        lm = tiny_lm("gpt2")
        list(run_sequential(lm, in_rounds(requests), *method_and_plan(lm, name)))
        ends.append(weights(lm))
    assert same(*ends)


@every_method
def test_continuing_equals_never_having_stopped(tiny_lm, requests, name):
    """State and matrices carried into a fresh copy of the model continue the run.

    The result equals the uninterrupted run bit for bit.
    """
    lm = tiny_lm("gpt2")
    method, plan = method_and_plan(lm, name)
    whole = list(run_sequential(lm, in_rounds(requests), method, plan))[-1]
    for stop in (1, 2):
        first, second = tiny_lm("gpt2"), tiny_lm("gpt2")
        state = list(run_sequential(first, in_rounds(requests)[:stop], method, plan))[-1].state
        for layer in plan.layers:
            write_weight(second, layer, read_weight(first, layer))
        last = list(run_sequential(second, in_rounds(requests)[stop:], method, plan, state))[-1]
        assert same(weights(second), weights(lm))
        assert last.index == 2 and last.state.round == whole.state.round == 3
        for layer in plan.layers:
            assert torch.equal(last.state.keys[layer], whole.state.keys[layer])
            assert torch.equal(last.state.original[layer], whole.state.original[layer])
        assert same(last.state.memory, whole.state.memory)
        assert [replace(o) for o in last.outcomes] == list(
            whole.outcomes
        ) and last.layers == whole.layers


@pytest.mark.parametrize("name", ["memit", "alphaedit"])
def test_a_round_spread_over_layers(tiny_lm, requests, name):
    """Layer by layer, keys and h are read under what is written so far.

    The layers take a third, half, then all of the residual.

    1e-5 of ‖Δ‖ allows for the float32 weights in between.
    """
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm, layers=(0, 1, 2))
    W0 = {layer: read_weight(lm, layer) for layer in plan.layers}
    list(run_sequential(lm, [requests], METHODS[name](**CATALOGUE[name].test), plan))
    z = optimise_targets(other, requests, plan.contexts, 2, plan.target).z.T
    for layer, share in ((0, 3), (1, 2), (2, 1)):
        keys = oracles.columns(read_keys(other, requests, plan.contexts, layer))
        values = oracles.columns((z - read_values(other, requests, 2)) / share)
        if name == "memit":
            update = oracles.memit(keys, values, CATALOGUE[name].test["lam"], plan.moments[layer])
        else:
            P = oracles.projection(plan.moments[layer], CATALOGUE[name].test["threshold"])
            update = oracles.alphaedit(keys, values, P, CATALOGUE[name].test["l2"], [])
        assert relative(read_weight(lm, layer) - W0[layer], update) < 1e-5
        write_weight(other, layer, W0[layer] + update.float())


def test_history_is_the_sum_of_outer_products(tiny_lm, requests):
    """`past` is Σ k kᵀ over all edits so far, and zero at the start.

    The keys are those that the matrices were edited at.
    """
    lm = tiny_lm("gpt2")
    method, plan = method_and_plan(lm, "alphaedit")
    start = EditState.start(lm, plan.layers)
    assert (
        not start.past(0).any()
        and start.past(0).shape == (64, 64)
        and start.past(0).dtype == torch.float64
    )
    for done in run_sequential(lm, in_rounds(requests), method, plan):
        for layer in plan.layers:
            expected = sum(torch.outer(k, k) for k in done.state.keys[layer].double().T)
            assert torch.allclose(done.state.past(layer), expected, rtol=1e-12)
    # Keys at the first layer do not depend on edits of this run at or above it.
    expected = torch.cat(
        [read_keys(lm, batch, plan.contexts, 0) for batch in in_rounds(requests)], dim=1
    )
    assert torch.equal(done.state.keys[0], expected)
    assert start.keys[0].shape == (64, 0)  # an earlier state is not written to


def test_history_protects_earlier_edits(tiny_lm, requests):
    """With history, the second round moves the outputs at the first round's keys less."""
    moved = {}
    for name, method in {"without": memit(0.1), "with": memit_seq(0.1)}.items():
        lm = tiny_lm("gpt2")
        rounds = run_sequential(
            lm, [requests[:3], requests[3:]], method, build_plan(lm, layers=(1,))
        )
        keys = next(rounds).state.keys[1]
        W = read_weight(lm, 1)
        next(rounds)
        moved[name] = ((read_weight(lm, 1) - W) @ keys).norm()
    assert moved["with"] < 0.8 * moved["without"]


def test_observations(tiny_lm, requests):
    """What is observed of each layer is that of the matrices before and after.

    These are norms, singular values, conditioning and drift.
    """
    lm = tiny_lm("gpt2")
    plan = build_plan(lm)
    W0 = {layer: read_weight(lm, layer) for layer in plan.layers}
    previous = dict(W0)
    for done in run_sequential(lm, in_rounds(requests), memit(0.5), plan):
        for seen in done.layers:
            W = read_weight(lm, seen.layer)
            update, total = (W - previous[seen.layer]).double(), (W - W0[seen.layer]).double()
            singular = torch.linalg.svdvals(W.double())
            read = torch.linalg.svdvals(W.double() - W.double().mean(dim=0))
            expected = (
                update.norm(),
                torch.linalg.svdvals(update)[0],
                total.norm(),
                singular[0],
                singular[0] / singular[-1],
                read[0] / read[-2],
                torch.trace(total @ plan.moments[seen.layer] @ total.T),
            )
            found = (
                seen.update_norm,
                seen.update_sigma_max,
                seen.total_norm,
                seen.sigma_max,
                seen.condition_number,
                seen.condition_number_read,
                seen.drift,
            )
            assert torch.allclose(
                torch.tensor(found, dtype=torch.float64), torch.stack(expected), rtol=1e-5
            )
            previous[seen.layer] = W


def test_a_clamped_target_is_reported(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    tight, wide = (replace(build_plan(lm).target, clamp=clamp) for clamp in (0.01, 50.0))
    for target, clamped in ((tight, True), (wide, False)):
        fresh = tiny_lm("gpt2")
        done = next(run_sequential(fresh, [requests], memit(0.5), build_plan(fresh, target=target)))
        assert {o.clamped for o in done.outcomes} == {clamped}
        assert {o.reason for o in done.outcomes} == {"target used all 6 steps"}


def test_already_satisfied(tiny_lm, requests):
    """A request is satisfied already if no step was needed and greedy decoding is right.

    A low loss alone is not enough, and neither is a plan without steps.
    """
    lm = tiny_lm("gpt2", seed=3)
    said = replace(requests[4], target_new="b")  # what this random model says by itself
    before = weights(lm)
    for stop_loss, steps, reason in (
        (1e9, 6, "target loss below 1e+09"),
        (0.0, 1, "target used all 1 steps"),
    ):
        plan = build_plan(lm, layers=(1,), target=TargetConfig(stop_loss=stop_loss, steps=steps))
        done = next(run_sequential(lm, [[requests[0], said]], memit(0.5), plan))
        # z and h come from differently padded batches, so round-off may be written, or nothing
        moved = any(not torch.equal(W, before[name]) for name, W in weights(lm).items())
        rest = "edited" if moved else "refused"
        assert [o.status for o in done.outcomes] == [
            rest,
            "already satisfied" if steps > 1 else rest,
        ]
        told = {(o.reason, o.target_updates) for o in done.outcomes if o.status != "refused"}
        assert told <= {(reason, 0)} and {o.target_updates for o in done.outcomes} == {0}
        assert max(o.update_norm for o in done.layers) < 1e-5
        assert all(
            torch.allclose(tensor, before[name], atol=1e-5) for name, tensor in weights(lm).items()
        )


@pytest.mark.parametrize("model_type", ["gptj", "gpt_neox", "llama", "qwen3"])
def test_r_rome_writes_its_target(tiny_lm, requests, model_type):
    """On every kind of architecture a rank-one edit raises the probability of its target.

    The key of the bare prompt is used alone, so the MLP's output at the subject becomes exactly z.
    """
    lm = tiny_lm(model_type)
    plan = build_plan(
        lm,
        layers=(1,),
        contexts=BARE,
        target=TargetConfig(steps=8, lr=0.2, stop_loss=0.0, clamp=3.0),
    )
    (done,) = run_sequential(lm, [[requests[4]]], r_rome(), plan)
    assert done.residual_before > 0.1
    assert (
        done.residual_after < 1e-4 * done.residual_before
    )  # float32 round-off of one rank-one step


def test_history_composes(tiny_lm, requests):
    """`with_history(memit)` is MEMIT with history, bit for bit."""
    ends = []
    for method in (memit_seq(0.5), with_history(memit(0.5))):
        lm = tiny_lm("gpt2")
        list(run_sequential(lm, in_rounds(requests), method, build_plan(lm)))
        ends.append(weights(lm))
    assert same(*ends)


def test_the_model_can_be_edited_between_rounds_by_its_owner(tiny_lm, requests):
    """The loop keeps no copy of the weights: what a caller adds between rounds stays added."""
    lm = tiny_lm("gpt2")
    plan = build_plan(lm, layers=(1,))
    rounds = run_sequential(
        lm, [requests[:2], requests[2:]], memit(1e12), plan
    )  # a price that forbids movement
    next(rounds)
    apply_update(lm, 1, torch.ones(16, 64))
    W = read_weight(lm, 1)
    next(rounds)
    assert torch.allclose(read_weight(lm, 1), W, atol=1e-6)
