"""Fine-tuning as an editor: a few steps of Adam on the edited matrices."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...base.clock import Clock
from ...editing.contract import EditMethod, Writer, Written, guard
from ...editing.state import EditPlan, EditState, Outcome
from ...lm.likelihood import log_likelihood
from ...lm.model import LanguageModel
from ...lm.target_loss import learned_rows
from ...lm.tokens import ContinuationRow, chunks
from ...lm.weights import TrainableWeight, read_weight
from ...requests.request import EditRequest


@dataclass(frozen=True, kw_only=True)
class FineTuning(EditMethod):
    """Adam on −log p(target | prompt), all requests of a round in one batch, no context templates.

    Attributes:
        lr: Adam's step, in entries of the matrix.
        steps: largest number of updates.
        stop_loss: a round ends when the loss of each of its requests is below this.
        epsilon: entries stay within ±ε of what they were before the round (FT-L); None lets them
            go anywhere.
        objective: "every token" predicts each target token from the tokens before it; "end of
            prompt" predicts all of them from the end of the prompt, as the released FT does, which
            is wrong for targets of several tokens.
    """

    lr: float
    steps: int
    stop_loss: float
    epsilon: float | None = None
    objective: Literal["every token", "end of prompt"] = "every token"

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "FineTuningWriter":
        return FineTuningWriter(lm, self, plan)


class FineTuningWriter(Writer):
    """Trains the down-projections of the plan's layers in place."""

    def __init__(
        self, lm: LanguageModel, method: FineTuning, plan: EditPlan, batch_tokens: int = 16_384
    ):
        self.lm, self.method, self.plan, self.batch_tokens = lm, method, plan, batch_tokens

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        before = {layer: read_weight(self.lm, layer) for layer in self.plan.layers}
        rows = learned_rows(self.lm, requests, self.plan.target)
        with gradients_on(self.lm, self.plan.layers), clock.stage("targets"):
            updates, loss, right_before = self._train(rows)
        for layer, W in before.items():
            update = read_weight(self.lm, layer) - W
            guard(update, layer, state.original[layer], self.plan.max_update_ratio)
        reason = f"loss below {self.method.stop_loss:g}"
        if updates == self.method.steps:
            reason = f"used all {self.method.steps} steps"
        return Written(trained_outcomes(requests, reason, updates, loss, right_before), state)

    def _train(
        self, rows: Sequence[ContinuationRow]
    ) -> tuple[int, Float[Tensor, "n"], Bool[Tensor, "n"]]:
        """Number of updates, last loss of each request, and whether it was right before them."""
        method = self.method
        parts = list(chunks([len(row.ids) for row in rows], self.batch_tokens))
        trained = [TrainableWeight(self.lm, layer) for layer in self.plan.layers]
        centres = [one.value.detach().clone() for one in trained]
        optimizer = torch.optim.Adam([one.value for one in trained], lr=method.lr)
        loss, right_before = self._loss(rows, parts, measure_only=method.steps == 0)
        for updates in range(method.steps):
            if (loss < method.stop_loss).all():
                return updates, loss, right_before
            for one in trained:
                one.take_gradient()
            optimizer.step()
            for one, centre in zip(trained, centres, strict=True):
                if method.epsilon is not None:
                    one.value.data.clamp_(centre - method.epsilon, centre + method.epsilon)
                one.write()
            optimizer.zero_grad()
            loss, _ = self._loss(rows, parts, measure_only=updates + 1 == method.steps)
        return method.steps, loss, right_before

    def _loss(
        self, rows: Sequence[ContinuationRow], parts: list[slice], measure_only: bool
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
        """Loss of each request, and whether it is right.

        The gradient of the mean loss goes to the weights, unless `measure_only`.
        """
        losses, rights = [], []
        for part in parts:
            with torch.set_grad_enabled(not measure_only):
                said, right = log_likelihood(
                    self.lm, rows[part], at_prompt=self.method.objective == "end of prompt"
                )
                if not measure_only:
                    (-said.sum() / len(rows)).backward()
            losses.append(-said.detach())
            rights.append(right)
        return torch.cat(losses), torch.cat(rights)


@contextmanager
def gradients_on(lm: LanguageModel, layers: Sequence[int]) -> Iterator[None]:
    """Inside, the edited matrices take gradients; afterwards they do not, and hold none."""
    weights = [lm.down_proj(layer).weight for layer in layers]
    try:
        for weight in weights:
            weight.requires_grad_()
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None


def trained_outcomes(
    requests: Sequence[EditRequest],
    reason: str,
    updates: int,
    loss: Float[Tensor, "n"],
    right_before: Bool[Tensor, "n"],
) -> list[Outcome]:
    """Outcomes of requests that were trained together.

    Args:
        requests: those of the round.
        reason: why training ended.
        updates: number of the optimiser's steps.
        loss: last loss of each request.
        right_before: whether each was right before the first step.
    """
    outcomes = []
    for i, request in enumerate(requests):
        status: Literal["edited", "already satisfied"] = "edited"
        if updates == 0 and bool(right_before[i]):
            status = "already satisfied"
        outcomes.append(Outcome(request.case_id, status, reason, loss[i].item(), updates, False))
    return outcomes
