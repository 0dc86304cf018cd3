"""What goes into a run, what it remembers and what it reports."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..algebra.compact import CompactMoment
from ..algebra.solver import Solver
from ..base.clock import Clock
from ..lm.keys import Contexts
from ..lm.model import LanguageModel
from ..lm.target_loss import TargetConfig
from ..lm.targets import Targets
from ..lm.weights import read_weight
from ..requests.request import EditRequest


@dataclass(frozen=True, kw_only=True)
class EditPlan:
    """What stays the same over a run.

    Attributes:
        layers: edited layers in ascending order; targets are defined at the last.
        moments: layer → C, second moment of preserved keys, (d_ff, d_ff), or its compact form.
        contexts: groups of context templates.
        target: how targets are optimised.
        max_update_ratio: a round whose update of a layer exceeds this multiple of ‖W₀‖ is refused.
    """

    layers: tuple[int, ...]
    moments: dict[int, Tensor | CompactMoment]
    contexts: Contexts
    target: TargetConfig
    max_update_ratio: float = 10.0

    def check(self, lm: LanguageModel) -> None:
        """Raises ValueError when layers or moments do not fit the model, naming the layer."""
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(
                f"layers {list(self.layers)}: give at least one, ascending, none twice"
            )
        for layer in self.layers:
            if not 0 <= layer < lm.n_layers:
                raise ValueError(
                    f"layers: {layer} is out of range; the model has layers 0 to {lm.n_layers - 1}"
                )
            if layer not in self.moments:
                raise ValueError(
                    f"moments: none for layer {layer}; there are {sorted(self.moments)}"
                )
            size = read_weight(lm, layer).shape[1]
            if tuple(self.moments[layer].shape) != (size, size):
                raise ValueError(
                    f"moments: C.{layer} is {tuple(self.moments[layer].shape)}, but keys of layer {layer} "
                    f"have {size} entries; these moments belong to another model"
                )
            if not self.moments[layer].isfinite().all():
                raise ValueError(
                    f"moments: C.{layer} has entries that are not finite; compute it again"
                )


@dataclass(frozen=True)
class EditState:
    """What a run remembers between rounds.

    Attributes:
        round: rounds done.
        original: layer → W₀, the matrix before any edit.
        keys: layer → keys of all written edits, (d_ff, N), one column per edit.
        grams: layer → their Gram matrix for a method with history, see `Solver.extend`; else empty.
        carry: layer → what a compensated restraint owes, (d_model, d_ff), see `Solver.error`; no entry otherwise.
        memory: what else a method remembers, by name: statistics of features (UltraEdit), a codebook (GRACE).

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
        original = {layer: read_weight(lm, layer).cpu() for layer in layers}
        return cls(
            0,
            original,
            {layer: W.new_zeros(W.shape[1], 0) for layer, W in original.items()},
            {layer: torch.zeros(0, 0, dtype=torch.float64) for layer in layers},
        )

    def past(self, layer: int) -> Tensor:
        """K_pK_pᵀ of the edits written so far, (d_ff, d_ff), float64; zero at the start."""
        keys = self.keys[layer].double()
        return keys @ keys.T

    def remember(
        self, keys: dict[int, Tensor], solvers: dict[int, Solver] | None = None
    ) -> "EditState":
        """The state after more edits with these keys; nothing is changed in place.

        Args:
            solvers: of a method with history, to extend the Gram matrices.
        """
        grams = (
            {
                layer: solvers[layer]
                .extend(
                    gram.to(keys[layer].device),
                    self.keys[layer].to(keys[layer].device),
                    keys[layer],
                )
                .cpu()
                for layer, gram in self.grams.items()
            }
            if solvers
            else self.grams
        )
        return replace(
            self,
            grams=grams,
            keys={
                layer: torch.cat([old, keys[layer].cpu()], dim=1)
                for layer, old in self.keys.items()
            },
        )

    def recalling(self, memory: dict[str, Tensor]) -> "EditState":
        """The state with another memory."""
        return replace(self, memory=memory)

    def owing(self, carry: dict[int, Tensor]) -> "EditState":
        """The state with what a compensated restraint owes."""
        return replace(self, carry=carry)


@dataclass(frozen=True)
class Outcome:
    """What became of one request; "already satisfied": no target step was needed, and greedy decoding was right."""

    case_id: int | str
    status: Literal["edited", "already satisfied", "refused"]
    reason: str
    target_loss: float
    target_updates: int
    clamped: bool  # ‖δ‖ ended on its limit


@dataclass(frozen=True)
class LayerObservation:
    """Measurements of one layer after a round; Δ is the round's update, W the weight after it, W₀ the original."""

    layer: int
    update_norm: float  # ‖Δ‖
    update_sigma_max: float  # σ₁(Δ)
    total_norm: float  # ‖W − W₀‖
    sigma_max: float  # σ₁(W)
    condition_number: float  # κ(W)
    condition_number_read: (
        float  # κ of what the norms behind the layer read of its output; see `removes_mean`
    )
    drift: float  # tr((W − W₀) C (W − W₀)ᵀ)


@dataclass(frozen=True)
class Round:
    """What one round did: returned, never printed.

    Attributes:
        residual_before: mean ‖z* − h‖ over the requests, before the round; residual_after: after it.
        target_norm: mean ‖z*‖; NaN, like the residuals, for a method without targets.
        seconds: of each stage.
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


class UpdateRefused(Exception):
    """An update that must not reach the model; the message says why."""


@dataclass(frozen=True)
class Written:
    """What became of requests that were written together.

    Attributes:
        targets: those that were found, for a method that has targets.
        state: what is remembered now.
    """

    outcomes: list[Outcome]
    state: EditState
    targets: Targets | None = None


class Writer(ABC):
    """Writes requests into one model by one method; prepared once for a run."""

    @abstractmethod
    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        """Change the model's matrices so that it answers the requests.

        Raises:
            UpdateRefused: the update is not finite or too large; the caller puts the matrices back.
        """


@dataclass(frozen=True, kw_only=True)
class EditMethod(ABC):
    """How requests become updates.

    Attributes:
        name: as the field writes it.
        one_at_a_time: edit the requests of a round one after the other, at one layer (ROME).
        restrain_update: (W₀, W, Δ) → what is kept of a round's update, after all layers were swept (RECT).
        compensate: make good in the next round what `restrain_update` took (OTE-SE); for methods that solve least
            squares, whose writer knows what it owes.
        restrain_total: (W₀, W_T − W₀) → what is kept of all updates when the model is handed over (PRUNE).
    """

    name: str
    one_at_a_time: bool = False
    restrain_update: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    compensate: bool = False
    restrain_total: Callable[[Tensor, Tensor], Tensor] | None = None

    @abstractmethod
    def writer(self, lm: LanguageModel, plan: EditPlan) -> Writer:
        """What writes rounds into `lm`, which is unedited now.

        Raises:
            ValueError: the plan does not suit the method.
        """

    def beside(self, lm: LanguageModel, state: EditState) -> AbstractContextManager:
        """Inside, what the method keeps beside the weights is at work in `lm` (GRACE's codebook); mostly nothing."""
        return nullcontext()


def guard(update: Tensor, layer: int, original: Tensor, limit: float) -> None:
    """Lets pass an update that is finite and not larger than `limit` times the original matrix.

    Raises:
        UpdateRefused: it is not.
    """
    if not update.isfinite().all():
        raise UpdateRefused(f"the update of layer {layer} is not finite")
    ratio = update.norm().item() / original.norm().item()
    if ratio > limit:
        raise UpdateRefused(
            f"the update of layer {layer} is {ratio:.3g} times as large as the original matrix "
            f"(max_update_ratio {limit:g})"
        )
