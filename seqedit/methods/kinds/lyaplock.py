"""LyapLock: recursive least squares whose price of movement follows the damage done so far."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...algebra.diagnostics import drift
from ...base.clock import Clock
from ...editing.contract import Written
from ...editing.state import EditPlan, EditState
from ...lm.model import LanguageModel
from ...lm.weights import read_weight
from ...requests.request import EditRequest
from .locate_then_edit import LocateThenEdit, TargetWriter


@dataclass(frozen=True, kw_only=True)
class LyapLock(LocateThenEdit):
    """Solves in each round for all edits so far, from the original weights.

    The price of movement rises with the damage. After the first round the budget is D = α·drift.
    From then on a virtual queue follows Z ← max(Z + drift/D − 1, 1), and movement costs Z·λC. While
    the drift stays within the budget, this is MEMIT-seq, exactly.

    Attributes:
        budget: α, the allowed drift in multiples of that of the first round.

    Source:
        LyapLock (2505.15702) and its released code, with V = 1, b = 0, a = 1/√D and
        Z₀ = Z_max = √D; Z here is a·Z there. Departs from it in that C measures the preservation
        loss, not stored preserved values.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"weights", "subspace"})

    budget: float

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "LyapLockWriter":
        return LyapLockWriter(lm, self, plan)


class LyapLockWriter(TargetWriter):
    """Remembers for every layer the queue, and what edits were to add to the original weights."""

    method: LyapLock

    def _update(self, layer: int, K: Tensor, R: Tensor, state: EditState) -> Tensor:
        total = read_weight(self.lm, layer) - state.original[layer].to(R)
        R0 = R + total.to(R) @ K.to(R)  # v* − W₀k of this round's edits, (d_model, n)
        self._wanted[layer] = R0
        earlier = state.memory.get(_residuals_name(layer), R0[:, :0].cpu()).to(R)
        queue, _ = _queue(state, layer)
        scale = queue**-0.5  # the price Z·λC is λC for keys and residuals scaled by Z^-½
        keys = torch.cat([state.keys[layer].to(K), K], dim=1)
        residuals = torch.cat([earlier, R0], dim=1)
        return self.solvers[layer].update(scale * keys, scale * residuals) - total.to(R)

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        self._wanted: dict[int, Tensor] = {}
        return super().write(requests, state, clock)

    def remember(self, state: EditState, keys: dict[int, Tensor]) -> EditState:
        memory = dict(state.memory)
        for layer in self.plan.layers:
            C = self.plan.moments[layer].to(self.lm.device)
            total = read_weight(self.lm, layer) - state.original[layer].to(self.lm.device)
            now = drift(total, C)
            queue, budget = _queue(state, layer)
            if budget == 0:  # the first round that moves anything sets it
                budget = self.method.budget * now
            wanted = self._wanted[layer].cpu()
            earlier = memory.get(_residuals_name(layer), wanted[:, :0])
            memory[_residuals_name(layer)] = torch.cat([earlier, wanted], dim=1)
            longer = max(queue + now / budget - 1, 1.0) if budget else queue
            memory[_queue_name(layer)] = torch.tensor([longer, budget], dtype=torch.float64)
        return super().remember(state, keys).with_memory(memory)


def _residuals_name(layer: int) -> str:
    return f"lyaplock.residuals.{layer}"


def _queue_name(layer: int) -> str:
    return f"lyaplock.queue.{layer}"


def _queue(state: EditState, layer: int) -> tuple[float, float]:
    """Queue Z and budget D of a layer; 1 and 0 before the first round."""
    found = state.memory.get(_queue_name(layer))
    if found is None:
        return 1.0, 0.0
    queue, budget = found.tolist()
    return queue, budget
