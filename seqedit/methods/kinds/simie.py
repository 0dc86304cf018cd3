"""SimIE: each edit is made alone on the original model; the edited matrices are then joined."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...algebra.solve import solve_update
from ...base.clock import Clock
from ...base.precision import at_least_float32
from ...editing.contract import EditMethod, Writer, Written, guard
from ...editing.sequential import write_all
from ...editing.state import EditPlan, EditState, Outcome
from ...lm.hooks import observe
from ...lm.model import LanguageModel
from ...lm.target_loss import learned_rows
from ...lm.tokens import padded
from ...lm.weights import apply_update, read_weight, rewound, write_weight
from ...requests.request import EditRequest


@dataclass(frozen=True, kw_only=True)
class SimIE(EditMethod):
    """Any editor of weights, joined by the recursive least squares of its single edits.

    With W̃ the matrix that the base leaves after one edit of the original model, and K the inputs of
    the original matrix at all tokens of that edit's prompt and target, the matrices after all edits
    are argmin_W Σ ‖(W − W̃ᵢ)Kᵢ‖² + ridge · ‖W − W₀‖².

    Attributes:
        base: the editor. It starts anew for every edit, so a history of its own is empty.
        ridge: λ, price of the distance from the original weights, activations squared.

    Source:
        SimIE (code: YamingGuo98/SimIE, MIT). Departs from it in that a round is solved for at once,
        which is the same by the theorem in the chapter on history.
    """

    supports: ClassVar[frozenset[str]] = frozenset()

    base: EditMethod
    ridge: float

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "SimIEWriter":
        return SimIEWriter(lm, self, plan)


class SimIEWriter(Writer):
    """Remembers for every layer P = λI + Σ KKᵀ, (d_ff, d_ff)."""

    def __init__(self, lm: LanguageModel, method: SimIE, plan: EditPlan):
        self.lm, self.method, self.plan = lm, method, plan
        self.base = method.base.writer(lm, plan)

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        before = {layer: read_weight(self.lm, layer) for layer in self.plan.layers}
        keys: dict[int, list[Tensor]] = {layer: [] for layer in before}
        residuals: dict[int, list[Tensor]] = {layer: [] for layer in before}
        outcomes = []
        with rewound(self.lm, state.original):
            for request in requests:
                with clock.stage("keys"):
                    K = token_keys(self.lm, request, self.plan)
                outcomes.append(self._edit_alone(request, clock))
                for layer, W in before.items():
                    ideal = read_weight(self.lm, layer)
                    keys[layer].append(K[layer])
                    residuals[layer].append((ideal - W) @ K[layer].to(W))
                    write_weight(self.lm, layer, state.original[layer].to(W))
        memory = dict(state.memory)
        with clock.stage("solve"):
            for layer in self.plan.layers:
                joined = torch.cat(keys[layer], dim=1).double()  # (d_ff, tokens)
                P = self._system(memory, layer, len(joined))
                update = solve_update(joined, torch.cat(residuals[layer], dim=1), P)
                guard(update, layer, state.original[layer], self.plan.max_update_ratio)
                apply_update(self.lm, layer, update)
                memory[_name(layer)] = (P + joined @ joined.T).cpu()
        return Written(outcomes, state.with_memory(memory))

    def _edit_alone(self, request: EditRequest, clock: Clock) -> Outcome:
        """Let the base edit the original model, which is in place, as if nothing were edited."""
        start = EditState.start(self.lm, self.plan.layers)
        outcomes, _, _ = write_all(
            self.lm, [request], self.method.base, self.plan, start, self.base, clock
        )
        return outcomes[0]

    def _system(
        self, memory: dict[str, Tensor], layer: int, d_ff: int
    ) -> Float[Tensor, "d_ff d_ff"]:
        """P of the edits so far; λI before the first round."""
        found = memory.get(_name(layer))
        if found is None:
            found = self.method.ridge * torch.eye(d_ff, dtype=torch.float64)
        return found.to(self.lm.device)


@torch.no_grad()
def token_keys(
    lm: LanguageModel, request: EditRequest, plan: EditPlan
) -> dict[int, Float[Tensor, "d_ff tokens"]]:
    """Layer → inputs of its matrix at all tokens of the request's prompt and of what it learns."""
    (row,) = learned_rows(lm, [request], plan.target)
    batch = padded(lm, [[*row.ids, row.continuation[-1]]])
    modules = {layer: lm.down_proj(layer) for layer in plan.layers}
    calls = observe(lm, batch, modules, last=plan.layers[-1])
    return {layer: at_least_float32(call.input[0]).T.to(lm.device) for layer, call in calls.items()}


def _name(layer: int) -> str:
    return f"simie.system.{layer}"
