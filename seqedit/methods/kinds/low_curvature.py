"""CrispEdit: fine-tuning confined to directions in which the loss of a text has low curvature."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...algebra.compact import whole
from ...algebra.curvature import low_curvature
from ...algebra.second_moment import SecondMoment
from ...base.clock import Clock
from ...editing.contract import Written
from ...editing.state import EditPlan, EditState
from ...lm.gradient_moments import read_text_features
from ...lm.model import LanguageModel
from ...lm.tokens import tokenise
from ...lm.weights import TrainableWeight, read_weight
from ...requests.request import EditRequest
from .epochs import EpochsWriter, FineTuningInEpochs

Projected = Literal["step", "gradient"]
Factors = Literal["both", "inputs"]
Moments = tuple[Float[Tensor, "d_ff d_ff"], Float[Tensor, "d_model d_model"]]
"""A, second moment of inputs, and S, that of output gradients."""

COUNT = "curvature.count"
"""Where a state keeps the number of edits that its factors count as, the text included."""


@dataclass(frozen=True, kw_only=True)
class LowCurvatureFineTuning(FineTuningInEpochs):
    """Fine-tuning in epochs whose updates leave out the sharpest directions of a text's loss.

    Attributes:
        share: γ, the share of the curvature that the directions hold which are left out, see
            `low_curvature`.
        project: "step" projects each step of Adam, so that the update stays among the allowed
            directions; "gradient" projects what Adam is given, whose element-wise division then
            leaves them, as in the released code.
        factors: "both" as published; "inputs" puts the identity in the place of S (Adam-NSCL).
        text_weight: n, the number of edits as which the text counts when a round's own curvature is
            merged into that of the text; None never merges it.

    Source:
        CrispEdit (2602.15823). Departs from the released code: the text's curvature is that of the
        unedited model throughout, where it is computed again once ‖W − W₀‖ exceeds ‖W₀‖/4; and Adam
        starts anew in every round.
    """

    share: float
    project: Projected = "step"
    factors: Factors = "both"
    text_weight: float | None = None

    @property
    def needs_gradients(self) -> bool:
        return self.factors == "both"

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "LowCurvatureWriter":
        return LowCurvatureWriter(lm, self, plan)


class LowCurvatureWriter(EpochsWriter):
    """Finds the allowed directions of each layer, and projects on them while it trains."""

    method: LowCurvatureFineTuning

    def __init__(self, lm: LanguageModel, method: LowCurvatureFineTuning, plan: EditPlan):
        super().__init__(lm, method, plan)
        text = {layer: self._text_moments(layer) for layer in plan.layers}
        self.text = text
        self.allowed = {layer: low_curvature(A, S, method.share) for layer, (A, S) in text.items()}

    def _text_moments(self, layer: int) -> Moments:
        """The factors of a layer over the text, in the number format in which they are kept."""
        A = whole(self.plan.moments[layer]).to(self.lm.device, torch.float32)
        if self.method.factors == "inputs":
            return A, torch.eye(len(read_weight(self.lm, layer)), device=self.lm.device)
        return A, self.plan.gradient_moment(self.lm, layer).float()

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        if self.method.text_weight is None:
            return super().write(requests, state, clock)
        with clock.stage("solve"):
            for layer in self.plan.layers:
                self.allowed[layer] = low_curvature(*self._factors(layer, state), self.method.share)
        written = super().write(requests, state, clock)
        with clock.stage("solve"):
            merged = self._merged(requests, self.method.text_weight, state)
        return replace(written, state=written.state.with_memory(written.state.memory | merged))

    def _step(self, optimizer: torch.optim.Optimizer, trained: Sequence[TrainableWeight]) -> None:
        if self.method.project == "gradient":
            for one in trained:
                one.take_gradient()
                assert one.value.grad is not None  # the loss depends on it
                gradient = one.out_by_in(one.value.grad)
                gradient.copy_(self.allowed[one.layer].project(gradient))
            super()._step(optimizer, trained)
            return
        before = [one.value.detach().clone() for one in trained]
        super()._step(optimizer, trained)
        for one, start in zip(trained, before, strict=True):
            W, W0 = one.out_by_in(one.value.data), one.out_by_in(start)
            W.copy_(W0 + self.allowed[one.layer].project(W - W0))
            one.write()

    def _factors(self, layer: int, state: EditState) -> Moments:
        """A and S of a layer, with the curvature of the rounds so far merged into them."""
        if _name("A", layer) not in state.memory:
            return self.text[layer]
        A, S = (state.memory[_name(one, layer)].to(self.lm.device) for one in "AS")
        return A, S

    def _merged(
        self, requests: list[EditRequest], text_weight: float, state: EditState
    ) -> dict[str, Tensor]:
        """What is remembered of the curvature: every edit counts one, the text `text_weight`."""
        found = self._round_moments(requests)
        seen = state.memory.get(COUNT, torch.tensor(text_weight, dtype=torch.float64))
        share = len(requests) / (seen.item() + len(requests))
        memory = {COUNT: seen + len(requests)}
        for layer in self.plan.layers:
            pairs = zip("AS", self._factors(layer, state), found[layer], strict=True)
            for one, old, new in pairs:
                memory[_name(one, layer)] = ((1 - share) * old + share * new.to(old)).cpu()
        return memory

    def _round_moments(self, requests: list[EditRequest]) -> dict[int, Moments]:
        """A′ and S′ of a round's edits, their prompts and new objects read as texts."""
        rows = tokenise(self.lm, [f"{one.text} {one.target_new}" for one in requests]).ids
        size, layers = self.method.batch, self.plan.layers
        parts = [
            read_text_features(self.lm, rows[i : i + size], layers)
            for i in range(0, len(rows), size)
        ]
        return {
            layer: (
                _mean_square(torch.cat([part[layer].x for part in parts])),
                self.text[layer][1]
                if self.method.factors == "inputs"
                else _mean_square(torch.cat([part[layer].g for part in parts])),
            )
            for layer in layers
        }


def _mean_square(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """The mean of vvᵀ over rows v."""
    moment = SecondMoment(rows.shape[1], rows.device)
    moment.update(rows)
    return moment.mean


def _name(factor: str, layer: int) -> str:
    """Under which name a state keeps a factor of the curvature."""
    return f"curvature.{factor}.{layer}"
