"""Locate-then-edit: targets at the subject's last token; per layer keys, residuals, one solve."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...base.clock import Clock
from ...editing.contract import UpdateRefused, Written, guard
from ...editing.state import EditPlan, EditState, Outcome, residuals_name
from ...lm.joint_targets import mean_by, optimise_joint_targets, subject_numbers
from ...lm.keys import BARE, Average, KeyReader, read_keys, read_values
from ...lm.model import LanguageModel
from ...lm.post_norm import before_norm
from ...lm.target_loss import TargetConfig
from ...lm.targets import Targets, optimise_targets
from ...lm.weights import apply_update, read_weight, rewound
from ...requests.request import EditRequest
from .least_squares import LeastSquares, LeastSquaresWriter
from .passes import Passes
from .residuals import anchored_values, inverse_anchors, neighbour_rows, rome_residual


@dataclass(frozen=True, kw_only=True)
class LocateThenEdit(LeastSquares):
    """ROME, MEMIT and their descendants.

    Attributes:
        site: where targets are defined: the output of the block, or of the MLP (ROME).
        average: how a key is averaged over context templates.
        key: "average" uses the averaged key throughout; "mixed" is the released ROME, see
            `rome_residual`.
        spread: the share of the residual that a layer writes: 1/(layers left), or 1/√(layers left)
            (PMET).
        patience: stop a target after this many forward passes in which it was most probable in all
            contexts (ENCORE); 0 never stops it early.
        rewind: find targets on the original weights (NSE).
        neurons: K → indices of the neurons that a sweep may change (NSE); None allows all.
        passes: repeated sweeps over the layers (NSE); None makes one.
        anchored: rescale values to their mean norm on the original model, see `anchored_values`.
        both_ways: α and β of BIRD's term in the target's loss, see `inverse_anchors`; None leaves
            it out.
        neighbours: how many neighbours of each request keep their object in the target's loss, see
            `neighbour_rows`.
        merged: one key and one target for all requests of a round about one subject (MEMIT-Merge).
    """

    supports: ClassVar[frozenset[str]] = frozenset(
        {"weights", "subspace", "history", "targets", "compensation", "outputs"}
    )

    site: Literal["block", "mlp"] = "block"
    average: Average = "groups"
    key: Literal["average", "mixed"] = "average"
    spread: Literal["linear", "square root"] = "linear"
    patience: int = 0
    rewind: bool = False
    neurons: Callable[[Tensor], Tensor] | None = None
    passes: Passes | None = None
    anchored: bool = False
    both_ways: tuple[float, float] | None = None
    neighbours: int = 0
    merged: bool = False

    @property
    def key_average(self) -> Average | None:
        return None if self.merged else self.average

    @property
    def cannot_undo(self) -> str | None:
        if self.history != 1.0 or self.mu != 1.0:
            return "without a history of weight 1 at μ = 1 its rounds are not one problem together"
        if self.merged:
            return "requests of a round about one subject share a key"
        if self.restrain_update or self.neurons or self.passes:
            return (
                "what a restraint, a choice of neurons or a second sweep changes is in no equation"
            )
        return None

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "TargetWriter":
        return TargetWriter(lm, self, plan)

    def residual_divisor(self, layers_left: int) -> float:
        """What the residual is divided by at a layer; 1 at the last one, which writes all of it."""
        return math.sqrt(layers_left) if self.spread == "square root" else float(layers_left)


class TargetWriter(LeastSquaresWriter):
    """Finds targets for all requests and writes them by one or more sweeps over the layers."""

    method: LocateThenEdit

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        with clock.stage("targets"):
            targets = self._targets(requests, state)
        if not torch.isfinite(targets.z).all():
            raise UpdateRefused("a target is not finite; lower the target's learning rate")
        left: dict[int, str] = {}
        if self.method.anchored:
            targets, state, left = self._anchored(requests, targets, state)
        if self.method.passes is None:
            keys, residuals = self._sweep(requests, targets.z, state, clock)
            if self.plan.undoable:
                state = state.with_residuals(residuals)
        else:
            left |= self._sweeps(self.method.passes, requests, targets.z, state, clock)
            with clock.stage("keys"):  # of all requests, under the final weights
                reader = KeyReader(self.lm, requests, self.plan.contexts, self.method.average)
                keys = {layer: reader.keys(layer) for layer in self.plan.layers}
        with clock.stage("solve"):
            state = self.remember(state, keys)
        return Written(_outcomes(requests, targets, self.plan.target, left), state, targets)

    def current_values(self, requests: list[EditRequest]) -> Float[Tensor, "n d_model"]:
        return read_values(self.lm, requests, self.plan.layers[-1], self.method.site).T

    def solved_again(
        self, state: EditState, edits: Sequence[int]
    ) -> dict[int, Float[Tensor, "d_model d_ff"]]:
        found, chosen = {}, torch.tensor([*edits], dtype=torch.long)
        for layer, solver in self.solvers.items():
            K, R = state.keys[layer][:, chosen], state.memory[residuals_name(layer)][:, chosen]
            found[layer] = solver.update(K.to(self.lm.device), R.to(self.lm.device))
        return found

    def _targets(self, requests: list[EditRequest], state: EditState) -> Targets:
        """Targets under the current weights, or the original ones for a method that rewinds."""
        with rewound(self.lm, state.original) if self.method.rewind else nullcontext():
            method, plan = self.method, self.plan
            contexts, layer, config = plan.contexts, plan.layers[-1], plan.target
            if method.merged:
                return optimise_joint_targets(
                    self.lm, requests, contexts, layer, config, site=method.site
                )
            anchors = protected = None
            if method.both_ways:
                anchors = inverse_anchors(self.lm, requests, *method.both_ways)
            if method.neighbours:
                protected = neighbour_rows(self.lm, requests, method.neighbours, config)
            return optimise_targets(
                self.lm,
                requests,
                contexts,
                layer,
                config,
                site=method.site,
                patience=method.patience,
                anchors=anchors,
                protected=protected,
            )

    def _anchored(
        self, requests: list[EditRequest], targets: Targets, state: EditState
    ) -> tuple[Targets, EditState, dict[int, str]]:
        """Targets rescaled to the norm of the first round, and the state that remembers it.

        The last result says which requests are left out, and why: none here.
        """
        v = read_values(self.lm, requests, self.plan.layers[-1], "mlp").T  # (n, d_model)
        z, norm = anchored_values(targets.z, targets.h, v, state.memory.get("value_norm"))
        memory = state.memory | {"value_norm": norm.cpu()}
        return replace(targets, z=z), state.with_memory(memory), {}

    def _sweeps(
        self,
        passes: Passes,
        requests: list[EditRequest],
        z: Tensor,
        state: EditState,
        clock: Clock,
    ) -> dict[int, str]:
        """Sweep over the requests that are not yet written.

        Returns:
            Number of a request → why no sweep took it.
        """
        left: dict[int, str] = {}
        for sweep in range(passes.times):
            with clock.stage("keys"):
                h = self.current_values(requests)  # (n, d_model)
            reasons = [passes.reason_to_leave(d) for d in (z - h).norm(dim=1).tolist()]
            chosen = [i for i, reason in enumerate(reasons) if reason is None]
            left = {
                i: reason
                for i, reason in enumerate(reasons)
                if reason and (sweep == 0 or i in left)
            }
            if not chosen:
                break
            self._sweep([requests[i] for i in chosen], z[chosen], state, clock)
        return left

    def _sweep(
        self,
        requests: list[EditRequest],
        z: Float[Tensor, "n d_model"],
        state: EditState,
        clock: Clock,
    ) -> tuple[
        dict[int, Float[Tensor, "d_ff columns"]], dict[int, Float[Tensor, "d_model columns"]]
    ]:
        """Update every layer once, in ascending order.

        Returns:
            The keys that were used; and, for undoing an edit, what the original weights lack at
            them, v* − W₀k.
        """
        method, layers = self.method, self.plan.layers
        keys, residuals = {}, {}
        with clock.stage("keys"):
            reader = KeyReader(self.lm, requests, self.plan.contexts, method.average)
        for i, layer in enumerate(layers):
            with clock.stage("keys"):
                K = reader.keys(layer)  # (d_ff, n)
                h = reader.values(layers[-1], method.site)  # (d_model, n)
            with clock.stage("solve"):
                R = (z.T - h) / method.residual_divisor(len(layers) - i)
                R = self._residual(requests, layer, R, K, reader)
                if method.merged:
                    owner = subject_numbers(requests)
                    K, R = mean_by(K, owner), mean_by(R, owner)
                if self.plan.undoable:
                    total = read_weight(self.lm, layer) - state.original[layer].to(R)
                    residuals[layer] = R + total.to(R) @ K.to(R)
                update = self._update(layer, K, R, state)
                guard(update, layer, state.original[layer], self.plan.max_update_ratio)
                apply_update(self.lm, layer, update)
            keys[layer] = K
        return keys, residuals

    def _residual(
        self, requests: list[EditRequest], layer: int, R: Tensor, K: Tensor, reader: KeyReader
    ) -> Tensor:
        """What is to be written at the keys, given this layer's share of the residuals."""
        norm = self.lm.post_norm(layer)
        if norm is not None and self.method.site == "block":
            R = before_norm(norm, reader.values(layer, "mlp"), R)
        if not self.method.one_at_a_time:
            return R
        bare = read_keys(self.lm, requests, BARE, layer)
        W, solver = read_weight(self.lm, layer), self.solvers[layer]
        return rome_residual(self.method.key, R, K, bare, W, solver)

    def _update(self, layer: int, K: Tensor, R: Tensor, state: EditState) -> Tensor:
        """What is added to the matrix, (d_model, d_ff), to write residuals R at keys K."""
        solver = self.solvers[layer]
        past, gram = self.past(state, layer)
        if self.method.neurons:
            neurons = self.method.neurons(K)
            if not len(neurons):
                raise UpdateRefused(f"no neuron of layer {layer} is selected; raise mass")
            return solver.update_neurons(K, R, neurons, past)
        carry = state.carry.get(layer)
        if carry is not None:
            carry = carry.to(self.lm.device)
        return solver.update(K, R, past, gram, carry)


def _outcomes(
    requests: list[EditRequest],
    targets: Targets,
    config: TargetConfig,
    left: dict[int, str],
) -> list[Outcome]:
    """What became of each request; one that no sweep took is refused unless it was satisfied.

    Args:
        left: number of a request → why no sweep took it.
    """
    reasons = {
        "loss": f"target loss below {config.stop_loss:g}",
        "steps": f"target used all {config.steps} steps",
        "most probable": "target most probable in all contexts",
    }
    outcomes = []
    for i, request in enumerate(requests):
        stopped, updates = targets.stopped[i], int(targets.updates[i])
        status: Literal["edited", "already satisfied", "refused"] = "edited"
        reason = reasons[stopped]
        if updates == 0 and bool(targets.right[i]) and stopped == "loss":
            status = "already satisfied"
        elif i in left:
            status, reason = "refused", left[i]
        loss, clamped = targets.loss[i].item(), bool(targets.clamped[i])
        outcomes.append(Outcome(request.case_id, status, reason, loss, updates, clamped))
    return outcomes
