"""The loop: rounds of requests written into one model, with everything it remembers held in the open."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .algebra.diagnostics import condition_number, drift, spectrum
from .algebra.recursion import Solver
from .clock import Clock
from .lm.architecture import apply_update, read_weight, write_weight
from .lm.keys import BARE, Contexts, read_keys, read_values
from .lm.load import LanguageModel
from .lm.targets import TargetConfig, Targets, optimise_targets
from .methods import EditMethod, residuals
from .requests import EditRequest


@dataclass(frozen=True, kw_only=True)
class EditPlan:
    """What stays the same over a run.

    Attributes:
        layers: edited layers in ascending order; targets are defined at the last.
        moments: layer → C, second moment of preserved keys, (d_ff, d_ff).
        contexts: groups of context templates.
        target: how targets are optimised.
        max_update_ratio: a round whose update of a layer exceeds this multiple of ‖W₀‖ is refused.
    """

    layers: tuple[int, ...]
    moments: dict[int, Tensor]
    contexts: Contexts
    target: TargetConfig
    max_update_ratio: float = 10.0

    def check(self, lm: LanguageModel) -> None:
        """Raises ValueError when layers or moments do not fit the model, naming the layer."""
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers {list(self.layers)}: give at least one, ascending, none twice")
        for layer in self.layers:
            if not 0 <= layer < lm.n_layers:
                raise ValueError(f"layers: {layer} is out of range; the model has layers 0 to {lm.n_layers - 1}")
            if layer not in self.moments:
                raise ValueError(f"moments: none for layer {layer}; there are {sorted(self.moments)}")
            size = read_weight(lm, layer).shape[1]
            if tuple(self.moments[layer].shape) != (size, size):
                raise ValueError(f"moments: C.{layer} is {tuple(self.moments[layer].shape)}, but keys of layer {layer} "
                                 f"have {size} entries; these moments belong to another model")
            if not torch.isfinite(self.moments[layer]).all():
                raise ValueError(f"moments: C.{layer} has entries that are not finite; compute it again")


@dataclass(frozen=True)
class EditState:
    """What a run remembers between rounds.

    Attributes:
        round: rounds done.
        original: layer → W₀, the matrix before any edit.
        keys: layer → keys of all written edits, (d_ff, N), one column per edit.
        grams: layer → their Gram matrix for a method with history, see `Solver.extend`; else empty.

    Everything is held on the CPU, wherever the model is.
    """

    round: int
    original: dict[int, Tensor]
    keys: dict[int, Tensor]
    grams: dict[int, Tensor]

    @classmethod
    def start(cls, lm: LanguageModel, layers: Sequence[int]) -> "EditState":
        original = {layer: read_weight(lm, layer).cpu() for layer in layers}
        return cls(0, original, {layer: W.new_zeros(W.shape[1], 0) for layer, W in original.items()},
                   {layer: torch.zeros(0, 0, dtype=torch.float64) for layer in layers})

    def past(self, layer: int) -> Tensor:
        """K_pK_pᵀ of the edits written so far, (d_ff, d_ff), float64; zero at the start."""
        keys = self.keys[layer].double()
        return keys @ keys.T

    def remember(self, keys: dict[int, Tensor], solvers: dict[int, Solver] | None = None) -> "EditState":
        """The state after more edits with these keys; nothing is changed in place.

        Args:
            solvers: of a method with history, to extend the Gram matrices.
        """
        grams = {layer: solvers[layer].extend(gram.to(keys[layer].device), self.keys[layer].to(keys[layer].device),
                                              keys[layer]).cpu() for layer, gram in self.grams.items()} \
            if solvers else self.grams
        return replace(self, grams=grams, keys={
            layer: torch.cat([old, keys[layer].cpu()], dim=1) for layer, old in self.keys.items()})


@dataclass(frozen=True)
class Outcome:
    """What became of one request; "already satisfied": no target step was needed, and greedy decoding was right."""

    case_id: int | str
    status: Literal["edited", "already satisfied", "refused"]
    reason: str
    target_loss: float
    target_updates: int
    clamped: bool                     # ‖δ‖ ended on its limit


@dataclass(frozen=True)
class LayerObservation:
    """Measurements of one layer after a round; Δ is the round's update, W the weight after it, W₀ the original."""

    layer: int
    update_norm: float                # ‖Δ‖
    update_sigma_max: float           # σ₁(Δ)
    total_norm: float                 # ‖W − W₀‖
    sigma_max: float                  # σ₁(W)
    condition_number: float           # κ(W)
    drift: float                      # tr((W − W₀) C (W − W₀)ᵀ)


@dataclass(frozen=True)
class Round:
    """What one round did: returned, never printed.

    Attributes:
        residual_before: mean ‖z* − h‖ over the requests, before the round; residual_after: after it.
        seconds: of each stage.
        state: what to continue from.
    """

    index: int
    outcomes: tuple[Outcome, ...]
    layers: tuple[LayerObservation, ...]
    residual_before: float
    residual_after: float
    seconds: dict[str, float]
    state: EditState


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
    targets, after = [], state
    try:
        for group in groups:
            found, keys = _write(lm, group, method, plan, after, solvers, clock)
            targets.append(found)
            with clock.stage("solve"):
                after = after.remember(keys, solvers if method.history else None)
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
    outcomes = tuple(o for group, found in zip(groups, targets, strict=True)
                     for o in _outcomes(group, found, plan.target))
    return Round(state.round, outcomes, layers, (z - h).norm(dim=1).mean().item(), (z - now).norm(dim=1).mean().item(),
                 clock.seconds(), replace(after, round=state.round + 1))


def _write(lm, requests, method: EditMethod, plan: EditPlan, state: EditState, solvers: dict[int, Solver],
           clock: Clock) -> tuple[Targets, dict[int, Tensor]]:
    """Targets and updates of requests that are solved together; returns the keys used."""
    last = plan.layers[-1]
    with clock.stage("targets"):
        targets = optimise_targets(lm, requests, plan.contexts, last, plan.target, site=method.site)
    if not torch.isfinite(targets.z).all():
        raise UpdateRefused("a target is not finite; lower the target's learning rate")
    keys = {}
    for i, layer in enumerate(plan.layers):
        with clock.stage("keys"):
            K = read_keys(lm, requests, plan.contexts, layer, method.average)         # (d_ff, n)
            h = read_values(lm, requests, last, method.site)                          # (d_model, n)
        with clock.stage("solve"):
            R = (targets.z.T - h) / (len(plan.layers) - i)                            # the share of this layer
            if method.one_at_a_time:
                bare = read_keys(lm, requests, BARE, layer)
                R = residuals(method, R, K, bare, read_weight(lm, layer), solvers[layer])
            past = (state.keys[layer].to(lm.device), state.grams[layer].to(lm.device)) if method.history else ()
            update = solvers[layer].update(K, R, *past)
            _guard(update, layer, state.original[layer], plan.max_update_ratio)
            apply_update(lm, layer, update)
        keys[layer] = K
    return targets, keys


def _guard(update: Tensor, layer: int, original: Tensor, limit: float) -> None:
    if not torch.isfinite(update).all():
        raise UpdateRefused(f"the update of layer {layer} is not finite")
    ratio = update.norm().item() / original.norm().item()
    if ratio > limit:
        raise UpdateRefused(f"the update of layer {layer} is {ratio:.3g} times as large as the original matrix "
                            f"(max_update_ratio {limit:g})")


def _outcomes(requests, targets: Targets, config: TargetConfig) -> list[Outcome]:
    limit = config.clamp * targets.h.norm(dim=1)
    clamped = (targets.z - targets.h).norm(dim=1) >= limit * (1 - 1e-4)              # the clamp's own rounding
    reasons = {"loss": f"target loss below {config.stop_loss:g}", "steps": f"target used all {config.steps} steps"}
    satisfied = (targets.updates == 0) & targets.right
    return [Outcome(request.case_id, "already satisfied" if done and stopped == "loss" else "edited",
                    reasons[stopped], loss, updates, hit)
            for request, done, stopped, loss, updates, hit in zip(
                requests, satisfied.tolist(), targets.stopped, targets.loss.tolist(), targets.updates.tolist(),
                clamped.tolist(), strict=True)]


def _observe(lm, layer: int, before: Tensor, original: Tensor, C: Tensor) -> LayerObservation:
    W = read_weight(lm, layer).cpu()
    update, total = W - before.cpu(), W - original.cpu()
    return LayerObservation(
        layer, update.norm().item(), spectrum(update)[0].item(), total.norm().item(), spectrum(W)[0].item(),
        condition_number(W), drift(total, C.cpu()))
