"""What goes into a run, what it remembers between rounds, and what it reports."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..algebra.compact import CompactMoment
from ..algebra.solver import Solver
from ..lm.keys import Contexts
from ..lm.model import LanguageModel
from ..lm.target_loss import TargetConfig, end_tokens
from ..lm.weights import read_weight

NAN = float("nan")
BESIDE = "beside."
"""Begins the names of what a method remembers that acts beside the weights (GRACE)."""


@dataclass(frozen=True, kw_only=True)
class EditPlan:
    """What stays the same over a run.

    Attributes:
        layers: edited layers in ascending order. Targets are defined at the last one.
        moments: layer → C, second moment of preserved keys, (d_ff, d_ff), or its compact form.
        contexts: groups of context templates.
        target: how targets are optimised, and what every method learns after them.
        max_update_ratio: a round is refused if ‖Δ‖ of a layer exceeds this multiple of ‖W₀‖.
        gradients: layer → S, second moment of a text's gradients at the outputs of the matrix,
            (d_model, d_model); for methods that ask for it, see `EditMethod.needs_gradients`.
        undoable: remember what undoing one edit takes, see `editing.undo`.
    """

    layers: tuple[int, ...]
    moments: dict[int, Tensor | CompactMoment]
    contexts: Contexts
    target: TargetConfig
    max_update_ratio: float = 10.0
    gradients: dict[int, Tensor] = field(default_factory=dict)
    undoable: bool = False

    def check(self, lm: LanguageModel) -> None:
        """Check that layers, moments and the end of targets fit the model.

        Raises:
            ValueError: they do not. The message names the layer or the setting.
        """
        end_tokens(lm, self.target)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(
                f"layers {list(self.layers)}: give at least one, in ascending order, none twice"
            )
        for layer in self.layers:
            if not 0 <= layer < lm.n_layers:
                raise ValueError(
                    f"layers: {layer} is out of range; the model has layers 0 to {lm.n_layers - 1}"
                )
            if not read_weight(lm, layer).isfinite().all():
                raise ValueError(
                    f"model: the matrix of layer {layer} has entries that are not finite; the "
                    "checkpoint is damaged, get it anew"
                )
            self._check_moment(lm, layer)

    def gradient_moment(self, lm: LanguageModel, layer: int) -> Float[Tensor, "d_model d_model"]:
        """S of a layer, on the model's device.

        Raises:
            ValueError: there is none, or it does not fit the model.
        """
        if layer not in self.gradients:
            raise ValueError(
                f"gradients: none for layer {layer}; there are {sorted(self.gradients)}. The "
                "method needs second moments of a text's gradients, see `corpus_gradients`"
            )
        S, size = self.gradients[layer], read_weight(lm, layer).shape[0]
        if tuple(S.shape) != (size, size) or not S.isfinite().all() or not S.trace() > 0:
            raise ValueError(
                f"gradients: S.{layer} is {tuple(S.shape)}, where a finite matrix with a positive "
                f"trace, {size} × {size}, is needed; compute it again for this model"
            )
        return S.to(lm.device)

    def _check_moment(self, lm: LanguageModel, layer: int) -> None:
        if layer not in self.moments:
            raise ValueError(f"moments: none for layer {layer}; there are {sorted(self.moments)}")
        C, size = self.moments[layer], read_weight(lm, layer).shape[1]
        if tuple(C.shape) != (size, size):
            raise ValueError(
                f"moments: C.{layer} is {tuple(C.shape)}, but keys of layer {layer} have {size} "
                "entries; these moments belong to another model"
            )
        if not C.isfinite().all():
            raise ValueError(
                f"moments: C.{layer} has entries that are not finite; compute it again"
            )


@dataclass(frozen=True)
class EditState:
    """What a run remembers between rounds. It is never changed in place.

    Attributes:
        round: number of rounds done.
        original: layer → W₀, the matrix before any edit, (d_model, d_ff).
        keys: layer → keys of all written edits, (d_ff, N), one column per edit; or per subject of a
            round, for a method that merges those.
        grams: layer → their Gram matrix for a method with history, see `Solver.extend`; else empty.
        carry: layer → error that a compensated restraint left in the normal equations,
            (d_model, d_ff), see `Solver.error`. A layer without such an error has no entry.
        memory: what else a method remembers, by name: statistics of features (UltraEdit), a
            codebook (GRACE). Names that begin with "beside." are of things that act beside the
            weights, see `EditMethod.beside`.

    Everything is held on the CPU, wherever the model is.
    """

    round: int
    original: dict[int, Tensor]
    keys: dict[int, Tensor]
    grams: dict[int, Tensor]
    carry: dict[int, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, lm: LanguageModel, layers: Sequence[int]) -> "EditState":
        """The state before the first round, with the matrices of `layers` as they are now."""
        original = {layer: read_weight(lm, layer).cpu() for layer in layers}
        keys = {layer: W.new_zeros(W.shape[1], 0) for layer, W in original.items()}
        grams = {layer: torch.zeros(0, 0, dtype=torch.float64) for layer in layers}
        return cls(0, original, keys, grams)

    def past(self, layer: int) -> Float[Tensor, "d_ff d_ff"]:
        """K_pK_pᵀ of the edits written so far, in float64; zero at the start."""
        keys = self.keys[layer].double()
        return keys @ keys.T

    def remember(
        self,
        keys: dict[int, Float[Tensor, "d_ff n"]],
        solvers: dict[int, Solver] | None = None,
    ) -> "EditState":
        """The state after more edits.

        Args:
            keys: layer → keys of the new edits.
            solvers: solvers of a method with history, which extend its Gram matrices.
        """
        grams = self.grams
        if solvers:
            grams = {
                layer: self._extended_gram(layer, keys[layer], solvers[layer]) for layer in grams
            }
        joined = {
            layer: torch.cat([old, keys[layer].cpu()], dim=1) for layer, old in self.keys.items()
        }
        return replace(self, grams=grams, keys=joined)

    def _extended_gram(self, layer: int, new: Tensor, solver: Solver) -> Tensor:
        where = new.device
        gram, old = self.grams[layer].to(where), self.keys[layer].to(where)
        return solver.extend(gram, old, new).cpu()

    def with_memory(self, memory: dict[str, Tensor]) -> "EditState":
        """The state with another memory."""
        return replace(self, memory=memory)

    def with_residuals(self, residuals: dict[int, Float[Tensor, "d_model n"]]) -> "EditState":
        """The state that also remembers what more edits were to add to the original weights.

        Args:
            residuals: layer → v* − W₀k, one column per edit, as for `remember`.
        """
        memory = dict(self.memory)
        for layer, new in residuals.items():
            old = memory.get(residuals_name(layer), new[:, :0].cpu())
            memory[residuals_name(layer)] = torch.cat([old, new.cpu()], dim=1)
        return self.with_memory(memory)

    def with_carry(self, carry: dict[int, Float[Tensor, "d_model d_ff"]]) -> "EditState":
        """The state with another error to make good."""
        return replace(self, carry=carry)


def residuals_name(layer: int) -> str:
    """Under which name a state's memory keeps v* − W₀k of a layer, (d_model, N)."""
    return f"residuals.{layer}"


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        status: "already satisfied" means that no target step was needed and greedy decoding was
            right before the round; "edited", that the weights were changed, or what acts beside
            them.
        reason: why the target search ended, or why the request was refused.
        target_loss: loss of the target at its last forward pass.
        target_updates: steps of the optimiser.
        clamped: whether ‖δ‖ ended on its limit.
    """

    case_id: int | str
    status: Literal["edited", "already satisfied", "refused"]
    reason: str
    target_loss: float
    target_updates: int
    clamped: bool

    @classmethod
    def refused(cls, case_id: int | str, reason: str) -> "Outcome":
        """The outcome of a request that was not written."""
        return cls(case_id, "refused", reason, NAN, 0, False)


@dataclass(frozen=True)
class LayerObservation:
    """Measurements of one layer after a round.

    Δ is the round's update, W the matrix after it, W₀ the matrix before any edit.

    Attributes:
        update_norm: ‖Δ‖.
        update_sigma_max: σ₁(Δ).
        weight_norm: ‖W‖ after the round.
        total_norm: ‖W − W₀‖.
        sigma_max: σ₁(W).
        condition_number: κ(W).
        condition_number_read: κ of that part of W's output that the norm behind the layer reads,
            see `LanguageModel.removes_mean`.
        drift: tr((W − W₀) C (W − W₀)ᵀ).
    """

    layer: int
    update_norm: float
    update_sigma_max: float
    weight_norm: float
    total_norm: float
    sigma_max: float
    condition_number: float
    condition_number_read: float
    drift: float


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        index: number of the round, from 0 on.
        outcomes: one for each request, in order.
        layers: one for each edited layer; empty if the round was refused.
        residual_before: mean ‖z* − h‖ over the requests before the round; NaN, like the next two,
            for a method without targets and for a refused round.
        residual_after: mean ‖z* − h‖ after the round.
        target_norm: mean ‖z*‖.
        seconds: seconds of each stage, and "total".
        state: what to continue from.
    """

    index: int
    outcomes: tuple[Outcome, ...]
    layers: tuple[LayerObservation, ...]
    residual_before: float
    residual_after: float
    target_norm: float
    seconds: dict[str, float]
    state: EditState
