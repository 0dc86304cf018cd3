"""The loop: rounds of requests written into one model, with everything it remembers held in the open."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from .algebra.diagnostics import condition_number, drift, spectrum
from .algebra.recursion import Solver
from .clock import Clock
from .lm.architecture import apply_update, read_weight, restored, write_weight
from .lm.keys import BARE, KeyReader, read_keys, read_values
from .lm.load import LanguageModel
from .lm.targets import TargetConfig, Targets, optimise_targets
from .methods import EditMethod, residuals
from .requests import EditRequest
from .rounds import EditPlan, EditState, LayerObservation, Outcome, Round


class UpdateRefused(Exception):
    """An update that must not reach the model; the message says why."""


def run_sequential(lm: LanguageModel, rounds: Iterable[list[EditRequest]], method: EditMethod, plan: EditPlan,
                   state: EditState | None = None) -> Iterator[Round]:
    """Edit `lm` round by round, yielding a `Round` after each; the model ends in its edited state.

    A round whose update is not finite or too large is undone, bit for bit, and its requests are refused. A round that
    ends in any other exception, an interruption by the user included, is undone too before the exception goes on.
    Pass the `state` of a finished run, with its weights in the model, to continue it: continuing equals never
    having stopped (`tests/test_sequential.py`).

    Raises:
        ValueError: layers or moments do not fit the model or the method, the method edits one layer and several are
            given, or a round holds no requests.
    """
    plan.check(lm)
    if method.one_at_a_time and len(plan.layers) != 1:
        raise ValueError(f"layers: {method.name} edits one layer, {list(plan.layers)} were given")
    state = state or EditState.start(lm, plan.layers)
    solvers = {layer: _solver(method, layer, plan.moments[layer].to(lm.device)) for layer in plan.layers}
    for requests in rounds:
        done = edit_round(lm, requests, method, plan, state, solvers)
        state = done.state
        yield done


def _solver(method: EditMethod, layer: int, C: Tensor) -> Solver:
    try:
        return method.solver(C)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"moments: layer {layer}: {error}") from error


def edit_round(lm: LanguageModel, requests: list[EditRequest], method: EditMethod, plan: EditPlan, state: EditState,
               solvers: dict[int, Solver]) -> Round:
    """One round: targets for all requests, then layer by layer keys, residuals, update."""
    if not requests:
        raise ValueError(f"round {state.round} holds no requests; leave it out")
    clock = Clock()
    before = {layer: read_weight(lm, layer) for layer in plan.layers}
    groups = [[request] for request in requests] if method.one_at_a_time else [requests]
    targets, outcomes, after = [], [], state
    try:
        for group in groups:
            found, left, after = _write(lm, group, method, plan, after, solvers, clock)
            targets.append(found)
            outcomes += _outcomes(group, found, plan.target, left)
        with clock.stage("observe"):
            now = read_values(lm, requests, plan.layers[-1], method.site).T
            layers = tuple(_observe(lm, layer, before[layer], state.original[layer], plan.moments[layer])
                           for layer in plan.layers)
    except BaseException as error:                                        # no half-written round, whatever happened
        for layer, W in before.items():
            write_weight(lm, layer, W)
        if not isinstance(error, UpdateRefused | torch.linalg.LinAlgError):
            raise
        outcomes = tuple(Outcome(r.case_id, "refused", str(error), float("nan"), 0, False) for r in requests)
        return Round(state.round, outcomes, (), float("nan"), float("nan"), clock.seconds(),
                     replace(state, round=state.round + 1))
    z, h = torch.cat([t.z for t in targets]), torch.cat([t.h for t in targets])
    distances = [(z - value).norm(dim=1).mean().item() for value in (h, now)]
    return Round(state.round, tuple(outcomes), layers, *distances,
                 clock.seconds(), replace(after, round=state.round + 1))


@contextmanager
def handed_over(lm: LanguageModel, method: EditMethod, state: EditState) -> Iterator[None]:
    """Inside, the model is as the method hands it over, its total update restrained; afterwards as before."""
    with restored(lm, state.original):
        if method.restrain_total:
            for layer, W0 in state.original.items():
                W0 = W0.to(lm.device)
                kept = method.restrain_total(W0, read_weight(lm, layer) - W0)
                write_weight(lm, layer, W0)
                apply_update(lm, layer, kept)
        yield


def _write(lm, requests, method: EditMethod, plan: EditPlan, state: EditState, solvers: dict[int, Solver],
           clock: Clock) -> tuple[Targets, dict[int, tuple[str, str]], EditState]:
    """Targets and updates of requests that are solved together.

    Returns:
        The targets; status and reason of requests that no sweep took; what is remembered now.
    """
    last = plan.layers[-1]
    with clock.stage("targets"):
        targets = _targets(lm, requests, method, plan, state)
    if not torch.isfinite(targets.z).all():
        raise UpdateRefused("a target is not finite; lower the target's learning rate")
    before = {layer: read_weight(lm, layer) for layer in plan.layers}
    left = {}
    if method.passes is None:
        keys = _sweep(lm, requests, targets.z, method, plan, state, solvers, clock)
    else:
        for sweep in range(method.passes.times):
            with clock.stage("keys"):
                far = (targets.z - read_values(lm, requests, last, method.site).T).norm(dim=1)
            reasons = [method.passes.reason(distance) for distance in far.tolist()]
            chosen = [i for i, reason in enumerate(reasons) if reason is None]
            left = {i: reason for i, reason in enumerate(reasons) if reason and (i in left or sweep == 0)}
            if not chosen:
                break
            _sweep(lm, [requests[i] for i in chosen], targets.z[chosen], method, plan, state, solvers, clock)
        with clock.stage("keys"):                                         # of all requests, under the final weights
            reader = KeyReader(lm, requests, plan.contexts, method.average)
            keys = {layer: reader.keys(layer) for layer in plan.layers}
    with clock.stage("solve"):
        after = state.remember(keys, solvers if method.history else None)
        if method.restrain_update:
            after = _restrain(lm, method, before, after, solvers)
    return targets, left, after


def _targets(lm, requests, method: EditMethod, plan: EditPlan, state: EditState) -> Targets:
    """Targets under the current weights, or under the original ones for a method that rewinds."""
    with restored(lm, plan.layers):
        if method.rewind:
            for layer, W0 in state.original.items():
                write_weight(lm, layer, W0)
        return optimise_targets(lm, requests, plan.contexts, plan.layers[-1], plan.target, site=method.site,
                                patience=method.patience)


def _sweep(lm, requests, z: Tensor, method: EditMethod, plan: EditPlan, state: EditState, solvers: dict[int, Solver],
           clock: Clock) -> dict[int, Tensor]:
    """One update of every layer, in ascending order; returns the keys used."""
    last, keys = plan.layers[-1], {}
    with clock.stage("keys"):
        reader = KeyReader(lm, requests, plan.contexts, method.average)
    for i, layer in enumerate(plan.layers):
        with clock.stage("keys"):
            K = reader.keys(layer)                                                    # (d_ff, n)
            h = reader.values(last, method.site)                                      # (d_model, n)
        with clock.stage("solve"):
            R = (z.T - h) / (len(plan.layers) - i)                                    # the share of this layer
            if method.one_at_a_time:
                bare = read_keys(lm, requests, BARE, layer)
                R = residuals(method, R, K, bare, read_weight(lm, layer), solvers[layer])
            past = (state.keys[layer].to(lm.device), state.grams[layer].to(lm.device)) if method.history else ()
            if method.neurons:
                update = solvers[layer].update_neurons(K, R, method.neurons(K), *past[:1])
            else:
                carry = {"carry": state.carry[layer].to(lm.device)} if layer in state.carry else {}
                update = solvers[layer].update(K, R, *past, **carry)
            _guard(update, layer, state.original[layer], plan.max_update_ratio)
            apply_update(lm, layer, update)
        keys[layer] = K
    return keys


def _restrain(lm, method: EditMethod, before: dict[int, Tensor], state: EditState,
              solvers: dict[int, Solver]) -> EditState:
    """Puts the restrained update of every layer in place of the full one; remembers what that took, to be made good."""
    carry = {}
    for layer, W in before.items():
        update = read_weight(lm, layer) - W
        kept = method.restrain_update(state.original[layer].to(W), W, update)
        write_weight(lm, layer, W)
        apply_update(lm, layer, kept)
        if method.compensate:
            carry[layer] = solvers[layer].error(kept - update, state.keys[layer].to(W)).cpu()
    return replace(state, carry=carry)


def _guard(update: Tensor, layer: int, original: Tensor, limit: float) -> None:
    if not torch.isfinite(update).all():
        raise UpdateRefused(f"the update of layer {layer} is not finite")
    ratio = update.norm().item() / original.norm().item()
    if ratio > limit:
        raise UpdateRefused(f"the update of layer {layer} is {ratio:.3g} times as large as the original matrix "
                            f"(max_update_ratio {limit:g})")


def _outcomes(requests, targets: Targets, config: TargetConfig, left: dict[int, tuple[str, str]]) -> list[Outcome]:
    limit = config.clamp * targets.h.norm(dim=1)
    clamped = (targets.z - targets.h).norm(dim=1) >= limit * (1 - 1e-4)              # the clamp's own rounding
    reasons = {"loss": f"target loss below {config.stop_loss:g}", "steps": f"target used all {config.steps} steps",
               "most probable": "target most probable in all contexts"}
    satisfied = (targets.updates == 0) & targets.right
    found = [("already satisfied" if done and stopped == "loss" else "edited", reasons[stopped])
             for done, stopped in zip(satisfied.tolist(), targets.stopped, strict=True)]
    return [Outcome(request.case_id, *left.get(i, found[i]), loss, updates, hit)
            for i, (request, loss, updates, hit) in enumerate(zip(
                requests, targets.loss.tolist(), targets.updates.tolist(), clamped.tolist(), strict=True))]


def _observe(lm, layer: int, before: Tensor, original: Tensor, C: Tensor) -> LayerObservation:
    W = read_weight(lm, layer).cpu()
    update, total = W - before.cpu(), W - original.cpu()
    return LayerObservation(
        layer, update.norm().item(), spectrum(update)[0].item(), total.norm().item(), spectrum(W)[0].item(),
        condition_number(W), drift(total, C.cpu()))
