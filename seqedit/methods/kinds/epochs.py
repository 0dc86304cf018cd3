"""Fine-tuning in epochs: mini-batches of all requests of a round, and of earlier ones if asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...base.clock import Clock
from ...editing.contract import EditMethod, Writer, Written, guard
from ...editing.state import EditPlan, EditState
from ...lm.likelihood import log_likelihood
from ...lm.model import LanguageModel
from ...lm.target_loss import learned_rows
from ...lm.tokens import ContinuationRow
from ...lm.weights import TrainableWeight, read_weight
from ...requests.request import EditRequest
from .fine_tuning import gradients_on, trained_outcomes

Order = Literal["breadth", "depth"]

IDS, LENGTHS, TARGETS = "replay.ids", "replay.lengths", "replay.targets"
"""Where the state keeps the rows that may be learned again: their tokens one row after the other,
and the length of each row and of its target."""


@dataclass(frozen=True, kw_only=True)
class FineTuningInEpochs(EditMethod):
    """Adam on −log p(target | prompt) in mini-batches, for several passes over a round's requests.

    The order of the requests and the choice of earlier ones are drawn anew in every round, from a
    generator that starts at the number of the round.

    Attributes:
        lr: Adam's step, in entries of the matrix.
        epochs: largest number of passes.
        batch: requests of a mini-batch.
        stop_loss: a step whose batch has a mean loss below this is left out, and passes end when
            the mean loss of one is below it.
        order: "breadth" passes over all requests again and again, in another order each time;
            "depth" makes all passes over one mini-batch before it goes on to the next, with a new
            optimiser.
        replay: so many edits of earlier rounds are learned again in each round; 0 for none, any
            number that is not below theirs for all. An edit whose prompt was edited again later
            has been replaced.
    """

    lr: float
    epochs: int
    batch: int
    stop_loss: float
    order: Order = "breadth"
    replay: int = 0

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "EpochsWriter":
        return EpochsWriter(lm, self, plan)


class EpochsWriter(Writer):
    """Trains the down-projections of the plan's layers in place, mini-batch by mini-batch."""

    def __init__(self, lm: LanguageModel, method: FineTuningInEpochs, plan: EditPlan):
        self.lm, self.method, self.plan = lm, method, plan

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        before = {layer: read_weight(self.lm, layer) for layer in self.plan.layers}
        new = learned_rows(self.lm, requests, self.plan.target)
        earlier = without_prompts(recall_rows(state.memory), new)
        generator = torch.Generator().manual_seed(state.round)
        drawn = torch.randperm(len(earlier), generator=generator)[: self.method.replay].tolist()
        with clock.stage("targets"):
            with gradients_on(self.lm, self.plan.layers):
                updates, told = self._train([*new, *(earlier[i] for i in drawn)], generator)
            loss, right = self._measured(new)
        for layer, W in before.items():
            update = read_weight(self.lm, layer) - W
            guard(update, layer, state.original[layer], self.plan.max_update_ratio)
        reason = f"used all {self.method.epochs} epochs"
        if told:
            reason = f"mean loss below {self.method.stop_loss:g}"
        if self.method.replay:
            state = state.with_memory(state.memory | keep_rows(earlier + new))
        return Written(trained_outcomes(requests, reason, updates, loss, right), state)

    def _train(
        self, rows: Sequence[ContinuationRow], generator: torch.Generator
    ) -> tuple[int, bool]:
        """Number of steps, and whether the mean loss fell below the limit everywhere."""
        method, updates, told = self.method, 0, True
        order = torch.randperm(len(rows), generator=generator)
        groups = [order] if method.order == "breadth" else order.split(method.batch)
        for group in groups:
            trained = [TrainableWeight(self.lm, layer) for layer in self.plan.layers]
            optimizer = torch.optim.Adam([one.value for one in trained], lr=method.lr)
            for _ in range(method.epochs):
                group = group[torch.randperm(len(group), generator=generator)]
                total = 0.0
                for part in group.split(method.batch):
                    loss = self._loss([rows[i] for i in part.tolist()])
                    if loss.item() >= method.stop_loss:
                        loss.backward()
                        self._step(optimizer, trained)
                        updates += 1
                    total += loss.item() * len(part)
                if total < method.stop_loss * len(group):
                    break
            else:
                told = False
        return updates, told

    def _loss(self, rows: Sequence[ContinuationRow]) -> Tensor:
        """The mean loss of a mini-batch, a scalar that asks for its gradient."""
        with torch.enable_grad():
            return -log_likelihood(self.lm, rows)[0].mean()

    def _measured(
        self, rows: Sequence[ContinuationRow]
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
        """Loss of each row, and whether it is right."""
        starts = range(0, len(rows), self.method.batch)
        parts = [log_likelihood(self.lm, rows[i : i + self.method.batch]) for i in starts]
        said, right = (torch.cat(one) for one in zip(*parts, strict=True))
        return -said, right

    def _step(self, optimizer: torch.optim.Optimizer, trained: Sequence[TrainableWeight]) -> None:
        """One step of the optimiser from the gradients that the matrices hold."""
        for one in trained:
            one.take_gradient()
        optimizer.step()
        for one in trained:
            one.write()
        optimizer.zero_grad()


def keep_rows(rows: Sequence[ContinuationRow]) -> dict[str, Tensor]:
    """Rows as the tensors that a state keeps; `recall_rows` makes them rows again."""
    texts = [[*row.ids, row.continuation[-1]] for row in rows]
    return {
        IDS: torch.tensor([token for text in texts for token in text]),
        LENGTHS: torch.tensor([len(text) for text in texts]),
        TARGETS: torch.tensor([len(row.continuation) for row in rows]),
    }


def recall_rows(memory: dict[str, Tensor]) -> list[ContinuationRow]:
    """The rows that a state keeps; none if it keeps none."""
    if IDS not in memory:
        return []
    texts = memory[IDS].split(memory[LENGTHS].tolist())
    return [
        ContinuationRow(text[:-1].tolist(), text[-n:].tolist())
        for text, n in zip(texts, memory[TARGETS].tolist(), strict=True)
    ]


def without_prompts(
    rows: Sequence[ContinuationRow], newer: Sequence[ContinuationRow]
) -> list[ContinuationRow]:
    """Those of the rows whose prompt is none of the newer rows'."""
    prompts = {_prompt(row) for row in newer}
    return [row for row in rows if _prompt(row) not in prompts]


def _prompt(row: ContinuationRow) -> tuple[int, ...]:
    return tuple(row.ids[: row.positions[0] + 1])
