"""What single methods ask of the loop.

This covers rewinding, passes, patience, and restraints per round and on the total.
"""

import math
from dataclasses import replace

import oracles
import pytest
import torch
from conftest import CONTEXTS, build_plan, relative
from runs import same, weights

from seqedit.algebra.restrain import compress, keep_largest_relative
from seqedit.editing.sequential import handed_over, run_sequential
from seqedit.editing.state import EditPlan
from seqedit.lm.keys import BARE, read_keys, read_values
from seqedit.lm.target_loss import TargetConfig
from seqedit.lm.targets import optimise_targets
from seqedit.lm.weights import apply_update, read_weight, write_weight
from seqedit.methods.alphaedit import alphaedit, nas
from seqedit.methods.catalogue import make_method
from seqedit.methods.combinators import compensated, rect, sphere
from seqedit.methods.kinds.locate_then_edit import Passes
from seqedit.methods.memit import memit, memit_prune, memit_seq, pmet
from seqedit.methods.nse import nse, nse_paper

ALL = Passes(times=1, done_below=0.0, hopeless_from=float("inf"))


def test_nse_with_all_neurons_is_memit_seq_on_original_targets(tiny_lm, requests):
    """p = 1, one sweep, α = 0: the targets of the unedited model, written by MEMIT with history."""
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm, layers=(1,))
    rounds = [requests[:3], requests[3:]]
    everything = replace(nse_paper(0.5, 1.0), passes=ALL)
    list(run_sequential(lm, rounds, everything, plan))
    z = [
        optimise_targets(other, batch, CONTEXTS, 1, plan.target).z for batch in rounds
    ]  # before any edit
    solver, past = memit_seq(0.5).solver(plan.moments[1]), torch.zeros(64, 0)
    for batch, target in zip(rounds, z, strict=True):
        K, h = read_keys(other, batch, CONTEXTS, 1), read_values(other, batch, 1)
        apply_update(other, 1, solver.update(K, target.T - h, past))
        past = torch.cat([past, K], dim=1)
    W0 = read_weight(tiny_lm("gpt2"), 1)
    assert (
        relative(read_weight(lm, 1) - W0, read_weight(other, 1) - W0) < 1e-5
    )  # float32 weights between
    current = tiny_lm("gpt2")
    list(
        run_sequential(current, rounds, memit_seq(0.5), plan)
    )  # the converse: targets on current weights
    assert relative(read_weight(current, 1) - W0, read_weight(other, 1) - W0) > 1e-4


def test_nse_changes_selected_neurons_only(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
    method = replace(nse_paper(0.5, 0.4), passes=ALL)
    chosen = method.neurons(read_keys(lm, requests, CONTEXTS, 1))
    next(run_sequential(lm, [requests], method, plan))
    changed = (read_weight(lm, 1) - W0).norm(dim=0) > 0
    assert set(changed.nonzero()[:, 0].tolist()) == set(chosen.tolist()) and 1 < len(chosen) < 40


def test_nse_says_what_no_sweep_took(tiny_lm, requests):
    """Requests that no sweep takes are reported with the reason.

    Those close to the target and those far away are refused, with the limit or the distance. None
    is called satisfied, because the model said none of them before. The others are edited.
    """
    lm = tiny_lm("gpt2")
    plan = build_plan(lm, layers=(1,))
    found = optimise_targets(lm, requests, CONTEXTS, 1, plan.target)
    far = (found.z - found.h).norm(dim=1)
    low, high = far.sort().values[1].item() * 1.0001, far.sort().values[-2].item() * 0.9999
    before = weights(lm)
    (done,) = run_sequential(
        lm,
        [requests],
        replace(nse_paper(0.5, 1.0), passes=Passes(times=1, done_below=low, hopeless_from=high)),
        plan,
    )
    assert not found.right.any() and (found.updates > 0).all()
    expected = ["edited" if low < d < high else "refused" for d in far.tolist()]
    assert [o.status for o in done.outcomes] == expected and sorted(expected).count("edited") == 2
    for outcome, distance in zip(done.outcomes, far.tolist(), strict=True):
        word = "done_below" if distance <= low else "beyond"
        assert (outcome.status == "edited") or word in outcome.reason
    assert done.state.keys[1].shape == (64, 6)  # all of them enter the history, as released
    (none,) = run_sequential(
        lm,
        [requests],
        replace(nse_paper(0.5), passes=Passes(times=2, done_below=1e9, hopeless_from=1e10)),
        plan,
        done.state,
    )
    assert {o.status for o in none.outcomes} == {"refused"} and not same(weights(lm), before)
    assert {o.reason for o in none.outcomes} == {
        "nothing is written for ‖z* − h‖ of at most 1e+09 (done_below)"
    }


def test_nse_sweeps_again_where_it_is_needed(tiny_lm, requests):
    """A second sweep solves for what the first one left: the update is Δ₁ + Δ₂.

    R₂ = R − Δ₁k, with k the keys of the bare prompts.
    """
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, W0 = build_plan(lm, layers=(1,)), read_weight(lm, 1)
    left = []
    for times in (1, 2):
        model = tiny_lm("gpt2")
        (done,) = run_sequential(
            model, [requests], replace(nse_paper(20.0, 1.0), passes=replace(ALL, times=times)), plan
        )
        left.append(done.residual_after)
    solver = memit(20.0).solver(plan.moments[1])
    z = optimise_targets(other, requests, CONTEXTS, 1, plan.target).z
    K, R = read_keys(other, requests, CONTEXTS, 1), z.T - read_values(other, requests, 1)
    first = solver.update(K, R)
    second = solver.update(K, R - first.to(R) @ read_keys(other, requests, BARE, 1))
    assert relative(read_weight(model, 1) - W0, (first + second).to(W0)) < 1e-5
    assert left[1] < left[0] < done.residual_before


def test_pmet_spreads_by_the_square_root(tiny_lm, requests, errors):
    """Two layers write 1/√2 and all of what is left; MEMIT's shares, 1/2 and all, write less."""
    lm, other, linear = tiny_lm("gpt2"), tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm, layers=(0, 1))
    before = read_weight(lm, 0)
    next(run_sequential(lm, [requests], pmet(0.5), plan))
    z = optimise_targets(other, requests, CONTEXTS, 1, plan.target).z
    for layer, divisor in ((0, math.sqrt(2)), (1, 1.0)):
        K, h = read_keys(other, requests, CONTEXTS, layer), read_values(other, requests, 1)
        keys, residuals = oracles.columns(K), oracles.columns((z.T - h) / divisor)
        update = oracles.memit(keys, residuals, 0.5, plan.moments[layer])
        apply_update(other, layer, update.float())
    for layer in plan.layers:
        error = relative(read_weight(lm, layer), read_weight(other, layer))
        assert errors("pmet", "oracle", error) < 1e-5  # float32 weights between the layers
    next(run_sequential(linear, [requests], memit(0.5), plan))
    written = [(read_weight(model, 0) - before).norm() for model in (lm, linear)]
    assert written[0] / written[1] == pytest.approx(math.sqrt(2), rel=1e-4)


def test_patience(tiny_lm, requests):
    """A target ends after `patience` passes in which every context predicts all of it.

    Without patience the optimisation continues.
    """
    lm = tiny_lm("gpt2")
    ends_with_subject = [
        replace(requests[4], case_id=i, target_new=text) for i, text in enumerate("abi")
    ]
    config = TargetConfig(steps=40, lr=0.5, clamp=50.0, stop_loss=0.0, weight_decay=0.0, kl=0.0)
    found = {
        patience: optimise_targets(lm, ends_with_subject, CONTEXTS, 2, config, patience=patience)
        for patience in (0, 1, 3)
    }
    assert set(found[0].stopped) == {"steps"} and (found[0].updates == 39).all()
    assert set(found[1].stopped) == set(found[3].stopped) == {"most probable"}
    assert (found[3].updates >= found[1].updates + 2).all() and (found[1].updates > 0).all()
    for i, updates in enumerate(found[1].updates.tolist()):  # it stopped just there
        short = replace(config, steps=updates + 1)
        assert torch.allclose(
            optimise_targets(lm, [ends_with_subject[i]], CONTEXTS, 2, short).z[0],
            found[1].z[i],
            atol=1e-5,
        )


def test_rect_acts_after_all_layers_were_swept(tiny_lm, requests):
    """Each layer keeps the relatively largest entries of the update of unrestrained MEMIT."""
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm)
    W0 = {layer: read_weight(lm, layer) for layer in plan.layers}
    next(run_sequential(lm, [requests], rect(memit(0.5), 0.3), plan))
    next(run_sequential(other, [requests], memit(0.5), plan))
    for layer in plan.layers:
        full = read_weight(other, layer) - W0[layer]
        assert (
            relative(
                read_weight(lm, layer) - W0[layer], keep_largest_relative(W0[layer], full, 0.3)
            )
            < 1e-5
        )


def test_prune_acts_when_the_model_is_handed_over(tiny_lm, requests, monkeypatch):
    """The loop continues with MEMIT's own weights; PRUNE acts inside `handed_over` only.

    There the model is W₀ + F(W_T − W₀); afterwards it is as before. With originals this small F
    enlarges beyond the guard, which is not what is tested here.
    """
    monkeypatch.setattr(EditPlan, "max_update_ratio", math.inf)
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, method = build_plan(lm), memit_prune(1e-3, 1.2)
    W0 = {layer: read_weight(lm, layer) for layer in plan.layers}
    for layer in plan.layers:  # small originals, so that F has work to do
        for model in (lm, other):
            write_weight(model, layer, 0.02 * W0[layer])
    rounds = [requests[:3], requests[3:]]
    *_, done = run_sequential(lm, rounds, method, plan)
    list(run_sequential(other, rounds, memit(1e-3), plan))
    assert same(weights(lm), weights(other))
    with handed_over(lm, method, done.state):
        for layer in plan.layers:
            total = read_weight(other, layer) - 0.02 * W0[layer]
            expected = compress(0.02 * W0[layer], total, 1.2)
            assert relative(read_weight(lm, layer) - 0.02 * W0[layer], expected) < 1e-5
            assert relative(expected, total) > 1e-2
    assert same(weights(lm), weights(other))


def test_compensation_is_carried_in_the_state(tiny_lm, requests):
    """What RECT took away enters the solve of the next round.

    Continuing from the state equals never having stopped.
    """
    method, rounds = (
        compensated(rect(memit_seq(0.5), 0.3)),
        [requests[:2], requests[2:4], requests[4:]],
    )
    lm, second = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm)
    *_, whole = run_sequential(lm, rounds, method, plan)
    state = None
    for batch in rounds:
        (done,) = run_sequential(second, [batch], method, plan, state)
        state = done.state
        assert {layer: E.shape for layer, E in state.carry.items()} == dict.fromkeys(
            plan.layers, (16, 64)
        )
        assert all(E.any() for E in state.carry.values())
    assert same(weights(lm), weights(second))
    assert all(torch.equal(whole.state.carry[layer], state.carry[layer]) for layer in plan.layers)
    naive = tiny_lm("gpt2")
    list(run_sequential(naive, rounds, rect(memit_seq(0.5), 0.3), plan))
    assert not same(weights(naive), weights(lm))


def test_norm_anchor(tiny_lm, requests, errors):
    """NAS: in every round the values have the norm that they had on the original model.

    The state records that norm.
    """
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, method = build_plan(lm, layers=(1,)), nas(0.5, 0.1)
    rounds, norm, past = [requests[:3], requests[3:]], None, torch.zeros(64, 0)
    W0, solver = read_weight(lm, 1), alphaedit(0.5, 0.1).solver(plan.moments[1])
    state = None
    for batch in rounds:
        found = optimise_targets(other, batch, CONTEXTS, 1, plan.target)
        h, v = read_values(other, batch, 1), read_values(other, batch, 1, "mlp")
        z, norm = oracles.norm_anchor(list(found.z), list(h.T), list(v.T), norm)
        K = read_keys(other, batch, CONTEXTS, 1)
        apply_update(other, 1, solver.update(K, torch.stack(z, dim=1) - h, past))
        past = torch.cat([past, K], dim=1)
        (done,) = run_sequential(lm, [batch], method, plan, state)
        state = done.state
        values = done.target_norm
        assert values != pytest.approx(
            found.z.norm(dim=1).mean().item(), rel=1e-4
        )  # it does something
    assert state.memory["value_norm"].item() == pytest.approx(norm, rel=1e-5)
    error = relative(read_weight(lm, 1) - W0, read_weight(other, 1) - W0)
    assert errors("nas", "oracle", error) < 1e-4  # float32 weights and targets
    with pytest.raises(ValueError, match="give it a method that writes whole rounds"):
        make_method("rome+norm_anchor")
    with pytest.raises(ValueError, match="Codebook methods do not support a change of their"):
        make_method("grace+norm_anchor")


def test_no_neuron_selected_is_refused(tiny_lm, requests):
    """NSE as released selects no neuron when its mass is less than the strongest one's."""
    lm = tiny_lm("gpt2")
    before = weights(lm)
    (done,) = run_sequential(
        lm, [requests], replace(nse(0.5, 1e-3), passes=ALL), build_plan(lm, layers=(1,))
    )
    assert {o.reason for o in done.outcomes} == {"no neuron of layer 1 is selected; raise mass"}
    assert {o.status for o in done.outcomes} == {"refused"} and same(weights(lm), before)


@pytest.mark.parametrize("name", ["gptj", "llama"])
def test_on_other_architectures(tiny_lm, requests, name):
    lm = tiny_lm(name, bos=name == "llama")
    method = compensated(rect(replace(nse_paper(0.5, 0.9), passes=ALL, neurons=None), 0.5))
    (done,) = run_sequential(lm, [requests[:3]], method, build_plan(lm))
    assert {o.status for o in done.outcomes} == {
        "edited"
    } and done.residual_after < done.residual_before


def enlarge(update):
    return 1e6 * update


def test_what_a_restraint_enlarges_is_refused(tiny_lm, requests):
    """A round whose restrained update is beyond the limit is undone, whatever it was before."""
    lm = tiny_lm("gpt2")
    before, plan = weights(lm), build_plan(lm)
    whole = make_method("memit", lam=0.5)
    for restraint in (lambda W0, W, update: enlarge(update), None):
        method = replace(whole, restrain_update=restraint)
        (done,) = run_sequential(lm, [requests[:2]], method, plan)
        refused = all(o.status == "refused" for o in done.outcomes)
        assert refused == (restraint is not None) and refused == same(weights(lm), before)
        if refused:
            assert "times as large as the original matrix" in done.outcomes[0].reason


def test_sphere_with_a_strength_that_enlarges(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    method = sphere(make_method("memit", lam=0.5), strength=1e6)
    (done,) = run_sequential(lm, [requests[:2]], method, build_plan(lm))
    assert all(o.status == "refused" for o in done.outcomes)


def test_a_total_that_its_restraint_enlarges_is_refused(tiny_lm, requests):
    """Where it is handed over; the model stays as it was edited."""
    lm = tiny_lm("gpt2")
    whole = make_method("memit", lam=0.5)
    method = replace(whole, restrain_total=lambda W0, total: enlarge(total))
    (done,) = run_sequential(lm, [requests[:2]], method, build_plan(lm))
    edited = weights(lm)
    with pytest.raises(ValueError, match="the restraint on the total update: the update of layer"):
        with handed_over(lm, method, done.state):
            pass
    assert same(weights(lm), edited)
