"""Fine-tuning as an editor: a few steps of Adam on the edited matrices."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..base.clock import Clock
from ..editing.contract import (
    EditMethod,
    EditPlan,
    EditState,
    Outcome,
    Writer,
    Written,
    guard,
)
from ..lm.likelihood import log_likelihood
from ..lm.model import LanguageModel
from ..lm.tokens import chunks, continuation_rows
from ..lm.weights import TrainableWeight, read_weight
from ..requests.request import EditRequest


@dataclass(frozen=True, kw_only=True)
class FineTuning(EditMethod):
    """Adam on −log p(target | prompt), all requests of a round in one batch; no context templates.

    Attributes:
        lr: Adam's step, in entries of the matrix.
        steps: updates at most.
        stop_loss: a round ends when the loss of each of its requests is below this.
        epsilon: entries stay within ±ε of what they were before the round (FT-L); None lets them go.
        objective: whether each target token is predicted from the tokens before it, or all of them from the end of the
            prompt, which mistrains targets of several tokens (the released FT).
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
        method, lm = self.method, self.lm
        rows = continuation_rows(lm, [r.text for r in requests], [r.target_new for r in requests])
        parts = list(chunks([len(row.ids) for row in rows], self.batch_tokens))
        before = {layer: read_weight(lm, layer) for layer in self.plan.layers}
        weights = [lm.down_proj(layer).weight for layer in self.plan.layers]
        masters = [TrainableWeight(lm, layer) for layer in self.plan.layers]
        limits = [master.value.detach().clone() for master in masters]
        optimizer = torch.optim.Adam([master.value for master in masters], lr=method.lr)
        updates, first_right = 0, None
        try:
            for weight in weights:
                weight.requires_grad_()
            with clock.stage("targets"):
                for step in range(method.steps + 1):  # the last pass only measures
                    optimizer.zero_grad()
                    loss, right = self._loss(rows, parts, last=step == method.steps)
                    first_right = right if first_right is None else first_right
                    if step == method.steps or (loss < method.stop_loss).all():
                        break
                    for master in masters:
                        master.take_gradient()
                    optimizer.step()
                    updates += 1
                    for master, limit in zip(masters, limits, strict=True):
                        if method.epsilon is not None:
                            master.value.data.clamp_(limit - method.epsilon, limit + method.epsilon)
                        master.write()
        finally:
            for weight in weights:
                weight.requires_grad_(False)
                weight.grad = None
        for layer, W in before.items():
            guard(
                read_weight(lm, layer) - W, layer, state.original[layer], self.plan.max_update_ratio
            )
        reason = (
            f"loss below {method.stop_loss:g}"
            if updates < method.steps
            else f"used all {method.steps} steps"
        )
        return Written(
            [
                Outcome(
                    request.case_id,
                    "already satisfied" if updates == 0 and was_right else "edited",
                    reason,
                    value,
                    updates,
                    False,
                )
                for request, value, was_right in zip(
                    requests, loss.tolist(), first_right.tolist(), strict=True
                )
            ],
            state,
        )

    def _loss(self, rows, parts: list[slice], last: bool) -> tuple[Tensor, Tensor]:
        """Loss of each request and whether it is right; gradients of the mean go to the weights, unless `last`."""
        losses, rights = [], []
        for part in parts:
            with torch.set_grad_enabled(not last):
                said, right = log_likelihood(
                    self.lm, rows[part], at_prompt=self.method.objective == "end of prompt"
                )
                if not last:
                    (-said.sum() / len(rows)).backward()
            losses.append(-said.detach())
            rights.append(right)
        return torch.cat(losses), torch.cat(rights)
