"""LyapLock: recursive least squares whose price of movement follows a virtual queue of damage done."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.diagnostics import drift
from ..editing.contract import EditPlan, EditState
from ..lm.model import LanguageModel
from ..lm.weights import read_weight
from .locate_then_edit import LocateThenEdit, TargetWriter


@dataclass(frozen=True, kw_only=True)
class LyapLock(LocateThenEdit):
    """Each round solves for all edits so far, from the original weights, at a price that rises when damage does.

    After the first round the budget is D = α·drift. From then on Z ← max(Z + drift/D − 1, 1), and movement costs Z·λC.
    While the drift stays within budget this is MEMIT-seq, exactly.

    Attributes:
        budget: α.

    Source:
        LyapLock (2505.15702) and its released code, with their V = 1, b = 0, a = 1/√D and Z₀ = Z_max = √D; Z here is
        their a·Z. Preservation loss is measured by C instead of by stored preserved values.
    """

    budget: float

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "LyapLockWriter":
        return LyapLockWriter(lm, self, plan)


class LyapLockWriter(TargetWriter):
    """Remembers, for every layer, what each edit was to write on top of the original weights, and the queue."""

    method: LyapLock

    def _update(self, layer: int, K: Tensor, R: Tensor, state: EditState) -> Tensor:
        total = read_weight(self.lm, layer) - state.original[layer].to(R)
        R0 = R + total.to(R) @ K.to(R)  # v* − W₀k of this round
        self._wanted[layer] = R0
        earlier = state.memory.get(f"lyaplock.residuals.{layer}", R0[:, :0].cpu()).to(R)
        scale = self._queue(state, layer)[0] ** -0.5  # a price of Z·λC is λC at keys of size Z^-½
        keys = torch.cat([state.keys[layer].to(K), K], dim=1)
        return self.solvers[layer].update(
            scale * keys, scale * torch.cat([earlier, R0], dim=1)
        ) - total.to(R)

    def write(self, requests, state: EditState, clock):
        self._wanted: dict[int, Tensor] = {}
        return super().write(requests, state, clock)

    def remember(self, state: EditState, keys: dict[int, Tensor]) -> EditState:
        memory = dict(state.memory)
        for layer in self.plan.layers:
            now = drift(
                read_weight(self.lm, layer) - state.original[layer].to(self.lm.device),
                self.plan.moments[layer].to(self.lm.device),
            )
            z, budget = self._queue(state, layer)
            budget = budget or self.method.budget * now  # the first round sets it
            name = f"lyaplock.residuals.{layer}"
            wanted = self._wanted[layer].cpu()
            memory[name] = torch.cat([memory.get(name, wanted[:, :0]), wanted], dim=1)
            memory[f"lyaplock.queue.{layer}"] = torch.tensor(
                [max(z + now / budget - 1, 1.0), budget], dtype=torch.float64
            )
        return super().remember(state, keys).recalling(memory)

    @staticmethod
    def _queue(state: EditState, layer: int) -> tuple[float, float]:
        """Z and D; 1 and 0 before the first round."""
        queue = state.memory.get(f"lyaplock.queue.{layer}")
        return (1.0, 0.0) if queue is None else tuple(queue.tolist())
