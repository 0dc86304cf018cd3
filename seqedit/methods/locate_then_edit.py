"""Locate-then-edit: targets at the subject's last token, then layer by layer keys, residuals, one solve."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..algebra.solver import Solver
from ..base.clock import Clock
from ..editing.contract import EditPlan, EditState, Outcome, UpdateRefused, Written, guard
from ..lm.keys import (
    BARE,
    Average,
    KeyReader,
    read_keys,
    read_values,
)
from ..lm.model import LanguageModel
from ..lm.post_norm import before_norm
from ..lm.target_loss import Anchors, TargetConfig
from ..lm.targets import Targets, mean_states, optimise_targets
from ..lm.weights import apply_update, read_weight, rewound
from ..requests.request import EditRequest
from .least_squares import LeastSquares, LeastSquaresWriter


@dataclass(frozen=True, kw_only=True)
class Passes:
    """NSE's repeated sweeps over the requests of a round that are not yet written.

    Attributes:
        times: sweeps at most.
        done_below: α; a request is written when ‖z* − h‖ is no larger.
        hopeless_from: a request this far away is left alone for the sweep.
    """

    times: int
    done_below: float
    hopeless_from: float

    def reason(self, distance: float) -> tuple[str, str] | None:
        """Status and reason of a request that a sweep leaves alone; None for one that it takes."""
        if distance <= self.done_below:
            return "already satisfied", f"‖z* − h‖ is at most {self.done_below:g}"
        if distance >= self.hopeless_from:
            return "refused", f"‖z* − h‖ is {distance:.3g}, beyond {self.hopeless_from:g}"
        return None


@dataclass(frozen=True, kw_only=True)
class LocateThenEdit(LeastSquares):
    """ROME, MEMIT and their descendants.

    Attributes:
        site: where targets are defined: the output of the block, or of the MLP (ROME).
        average: how a key is averaged over context templates.
        key: "average" uses the averaged key throughout; "mixed" is released ROME, see `residuals`.
        patience: stop a target after so many passes in which it was most probable in all contexts; 0 never (ENCORE).
        rewind: find targets on the original weights (NSE).
        neurons: K → indices of the neurons that a sweep may change; None for all (NSE).
        passes: repeated sweeps over the layers (NSE).
        anchored: rescale values to their mean norm in the first round, on the original model, see `anchored_values`.
        both_ways: α and β of BIRD's term in the target's loss, see `inverse_anchors`; None leaves it out.
    """

    site: Literal["block", "mlp"] = "block"
    average: Average = "groups"
    key: Literal["average", "mixed"] = "average"
    patience: int = 0
    rewind: bool = False
    neurons: Callable[[Tensor], Tensor] | None = None
    passes: Passes | None = None
    anchored: bool = False
    both_ways: tuple[float, float] | None = None

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "TargetWriter":
        return TargetWriter(lm, self, plan)


def residuals(
    method: LocateThenEdit, R: Tensor, K: Tensor, bare: Tensor, W: Tensor, solver: Solver
) -> Tensor:
    """What ROME's rank-one step writes at the averaged key, given the residual of the bare prompt.

    r-ROME measures the residual at the averaged key k̄ itself: v* − Wk̄ = R − W(k̄ − k). The released ROME
    divides by k·u, u = C⁻¹k̄, where the exact step divides by k̄·u: the same as writing R·(k̄·u)/(k·u).
    When the bare key and the average disagree in the C⁻¹ inner product, that factor is large.

    Args:
        R: v* − (Wk + b) at the bare prompt, (d_model, 1).
        K: averaged key k̄, (d_ff, 1); bare: key k of the bare prompt, (d_ff, 1).
        W: current weight; solver: of the layer.

    Source: ROME (2202.05262) eq. 2, its released code; Gupta et al. (2403.07175) for r-ROME.
    """
    if method.key == "average":
        return R - W.to(R) @ (K - bare).to(R)
    direction = solver.inverse(K)  # u = C⁻¹k̄
    return R * ((K.double() * direction).sum() / (bare.double() * direction).sum()).to(R)


def anchored_values(z: Tensor, h: Tensor, v: Tensor, norm: Tensor | None) -> tuple[Tensor, Tensor]:
    """NAS: targets whose value v* = v + (z* − h) is rescaled to `norm`, z* = h − v + norm · v*/‖v*‖; and that norm.

    Args:
        z, h: targets and values before, (n, d_model); v: the MLP's part of h, (n, d_model).
        norm: the mean of ‖v*‖ on the original model; None makes it from these values.

    Source: NAS (2602.02543), commit 38ac1c8 of its code. There the mean is over the lower 95 % of a sample of other
    facts, and requests with ‖v*‖ of more than twice the mean are not written.
    """
    value = v + (z - h)
    norms = value.norm(dim=1, keepdim=True)
    norm = norms.mean() if norm is None else norm.to(norms)
    return h - v + value * (norm / norms), norm


def inverse_anchors(
    lm: LanguageModel, requests: list[EditRequest], alpha: float, beta: float
) -> Anchors:
    """BIRD's term α(‖s + r − o*‖ + ‖o* + r⁻¹ − s‖) − αβ(‖s + r − o‖ + ‖o + r⁻¹ − s‖), as points for s.

    s, o and o* are the last hidden states of subject, old and new object, r that of the prompt without its subject,
    each a mean over tokens; s moves with the target. r⁻¹ = mean of subjects − mean of old objects over the requests of
    the same relation that are edited together.

    Raises:
        UpdateRefused: a request has no target_true.

    Source: BIRD (2310.10322). There s is a mean over the subject's tokens and r⁻¹ comes from ten seed pairs.
    """
    missing = [r.case_id for r in requests if r.target_true is None]
    if missing:
        raise UpdateRefused(f"case_id {missing[0]!r}: target_true is needed to edit both ways")
    texts = {
        text
        for r in requests
        for text in (r.subject, r.target_true, r.target_new, r.prompt.replace("{}", ""))
    }
    state = dict(zip(texts, mean_states(lm, list(texts)), strict=True))
    pairs = defaultdict(list)
    for r in requests:
        pairs[r.relation_id].append(state[r.subject] - state[r.target_true])
    back = {relation: torch.stack(own).mean(dim=0) for relation, own in pairs.items()}
    points = torch.stack(
        [
            torch.stack(
                [
                    point
                    for o in (r.target_new, r.target_true)
                    for point in (
                        state[o] - state[r.prompt.replace("{}", "")],
                        state[o] + back[r.relation_id],
                    )
                ]
            )
            for r in requests
        ]
    )
    return Anchors(points, alpha * points.new_tensor([1.0, 1.0, -beta, -beta]))


class TargetWriter(LeastSquaresWriter):
    """Finds targets for all requests and writes them by one or more sweeps over the layers."""

    method: LocateThenEdit

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        with clock.stage("targets"):
            targets = self._targets(requests, state)
        if not torch.isfinite(targets.z).all():
            raise UpdateRefused("a target is not finite; lower the target's learning rate")
        if self.method.anchored:
            v = read_values(self.lm, requests, self.plan.layers[-1], "mlp").T
            z, norm = anchored_values(targets.z, targets.h, v, state.memory.get("value_norm"))
            targets, state = (
                replace(targets, z=z),
                state.recalling(state.memory | {"value_norm": norm.cpu()}),
            )
        left = {}
        if self.method.passes is None:
            keys = self._sweep(requests, targets.z, state, clock)
        else:
            left = self._sweeps(requests, targets.z, state, clock)
            with clock.stage("keys"):  # of all requests, under the final weights
                reader = KeyReader(self.lm, requests, self.plan.contexts, self.method.average)
                keys = {layer: reader.keys(layer) for layer in self.plan.layers}
        with clock.stage("solve"):
            state = self.remember(state, keys)
        return Written(_outcomes(requests, targets, self.plan.target, left), state, targets)

    def _targets(self, requests: list[EditRequest], state: EditState) -> Targets:
        """Targets under the current weights, or under the original ones for a method that rewinds."""
        with rewound(self.lm, state.original) if self.method.rewind else nullcontext():
            anchors = (
                inverse_anchors(self.lm, requests, *self.method.both_ways)
                if self.method.both_ways
                else None
            )
            return optimise_targets(
                self.lm,
                requests,
                self.plan.contexts,
                self.plan.layers[-1],
                self.plan.target,
                site=self.method.site,
                patience=self.method.patience,
                anchors=anchors,
            )

    def _sweeps(
        self, requests: list[EditRequest], z: Tensor, state: EditState, clock: Clock
    ) -> dict[int, tuple[str, str]]:
        """Sweeps over the requests that are not yet written; status and reason of those that no sweep took."""
        passes, left = self.method.passes, {}
        for sweep in range(passes.times):
            with clock.stage("keys"):
                h = read_values(self.lm, requests, self.plan.layers[-1], self.method.site)
            reasons = [passes.reason(distance) for distance in (z - h.T).norm(dim=1).tolist()]
            chosen = [i for i, reason in enumerate(reasons) if reason is None]
            left = {
                i: reason
                for i, reason in enumerate(reasons)
                if reason and (i in left or sweep == 0)
            }
            if not chosen:
                break
            self._sweep([requests[i] for i in chosen], z[chosen], state, clock)
        return left

    def _sweep(
        self, requests: list[EditRequest], z: Tensor, state: EditState, clock: Clock
    ) -> dict[int, Tensor]:
        """One update of every layer, in ascending order; returns the keys used."""
        lm, method, layers, keys = self.lm, self.method, self.plan.layers, {}
        with clock.stage("keys"):
            reader = KeyReader(lm, requests, self.plan.contexts, method.average)
        for i, layer in enumerate(layers):
            with clock.stage("keys"):
                K = reader.keys(layer)  # (d_ff, n)
                h = reader.values(layers[-1], method.site)  # (d_model, n)
            with clock.stage("solve"):
                R = (z.T - h) / (len(layers) - i)  # the share of this layer
                if method.site == "block" and (norm := lm.post_norm(layer)):
                    R = before_norm(norm, reader.values(layer, "mlp"), R)
                if method.one_at_a_time:
                    R = residuals(
                        method,
                        R,
                        K,
                        read_keys(lm, requests, BARE, layer),
                        read_weight(lm, layer),
                        self.solvers[layer],
                    )
                update = self._update(layer, K, R, state)
                guard(update, layer, state.original[layer], self.plan.max_update_ratio)
                apply_update(lm, layer, update)
            keys[layer] = K
        return keys

    def _update(self, layer: int, K: Tensor, R: Tensor, state: EditState) -> Tensor:
        """What is added to the matrix, given the keys and this layer's share of the residuals."""
        solver, past = self.solvers[layer], self.past(state, layer)
        if self.method.neurons:
            neurons = self.method.neurons(K)
            if not len(neurons):
                raise UpdateRefused(f"no neuron of layer {layer} is selected; raise mass")
            return solver.update_neurons(K, R, neurons, *past[:1])
        carry = {"carry": state.carry[layer].to(self.lm.device)} if layer in state.carry else {}
        return solver.update(K, R, *past, **carry)


def _outcomes(
    requests, targets: Targets, config: TargetConfig, left: dict[int, tuple[str, str]]
) -> list[Outcome]:
    reasons = {
        "loss": f"target loss below {config.stop_loss:g}",
        "steps": f"target used all {config.steps} steps",
        "most probable": "target most probable in all contexts",
    }
    satisfied = (targets.updates == 0) & targets.right
    found = [
        ("already satisfied" if done and stopped == "loss" else "edited", reasons[stopped])
        for done, stopped in zip(satisfied.tolist(), targets.stopped, strict=True)
    ]
    return [
        Outcome(request.case_id, *left.get(i, found[i]), loss, updates, hit)
        for i, (request, loss, updates, hit) in enumerate(
            zip(
                requests,
                targets.loss.tolist(),
                targets.updates.tolist(),
                targets.clamped.tolist(),
                strict=True,
            )
        )
    ]
