"""Editing from gradients: what the matrices saw, and what the loss asks of their outputs, from one pass."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from ..algebra.solver import Solver
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
from ..lm.likelihood import Features, read_features, told
from ..lm.model import LanguageModel
from ..lm.weights import apply_update
from ..requests.request import EditRequest
from .hypernetwork import (
    Hypernetwork,
    add_features,
    both,
    load_hypernetwork,
    standardised,
)
from .least_squares import LeastSquares, LeastSquaresWriter


@dataclass(frozen=True, kw_only=True)
class FromGradients(LeastSquares):
    """UltraEdit and RLEdit: no subject, no target optimisation; every layer from the same pass forward and backward.

    At every token that tells the target the matrix's input x is the key. UltraEdit's residual is −η‖x̂‖²ĝ, g the
    gradient at the matrix's output; hats are standardised by the running mean and deviation of all edits so far.
    RLEdit's is −η(x·x̃)g̃, with x̃, g̃, η and the ridge from a trained network, whose statistics run on.

    Attributes:
        eta: η, the step; a network brings its own.
        network: file of a trained `Hypernetwork`; None for UltraEdit.

    Source:
        UltraEdit (2505.14679), RLEdit (2502.05759). One standardiser for each matrix, where the released codes share
        it between matrices of equal shape; down-projections only.
    """

    eta: float = 1.0
    network: str | None = None

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "GradientWriter":
        return GradientWriter(lm, self, plan)


class GradientWriter(LeastSquaresWriter):
    """Reads features, makes residuals of them, solves for every layer."""

    method: FromGradients

    def __init__(self, lm: LanguageModel, method: FromGradients, plan: EditPlan):
        self.network = (
            load_hypernetwork(method.network, lm, plan.layers) if method.network else None
        )
        super().__init__(lm, method, plan)

    def _solver(self, layer: int) -> Solver:
        if self.network is None:
            return super()._solver(layer)
        ridge = self.network.ridge(layer).item()
        return replace(self.method, price=ridge).solver(
            self.plan.moments[layer].to(self.lm.device)
        )

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        with clock.stage("targets"):
            rows = told(self.lm, [r.text for r in requests], [r.target_new for r in requests])
            features, said, _ = read_features(self.lm, rows, self.plan.layers)
        memory, keys = dict(state.memory), {}
        with clock.stage("solve"):
            for layer in self.plan.layers:
                keys[layer] = features[layer].x.T  # (d_ff, tokens)
                R = self._residuals(layer, features[layer], memory)  # (d_model, tokens)
                update = self.solvers[layer].update(keys[layer], R, *self.past(state, layer))
                guard(update, layer, state.original[layer], self.plan.max_update_ratio)
                apply_update(self.lm, layer, update)
            state = self.remember(state, keys) if self.method.history else state
        return Written(one_step(requests, said), state.recalling(memory))

    def _residuals(self, layer: int, features: Features, memory: dict[str, Tensor]) -> Tensor:
        """What is to be written at the keys; running statistics in `memory` go on."""
        seen, name = both(features), f"features.{layer}"
        running = add_features(
            memory.get(name, self.network.seen(layer) if self.network else None), seen
        )
        memory[name], hats = running.cpu(), standardised(running, seen)
        if self.network:
            return learned_residuals(self.network, layer, features.x, hats.float())
        x, g = hats.split([features.x.shape[1], features.g.shape[1]], dim=1)
        return -self.method.eta * ((x**2).sum(1, keepdim=True) * g).T


def learned_residuals(
    network: Hypernetwork, layer: int, inputs: Float[Tensor, "tokens d_ff"], hats: Tensor
) -> Float[Tensor, "d_model tokens"]:
    """RLEdit's residuals −η(x·x̃)g̃, differentiable in the network."""
    x, g = network.transform(layer, hats)
    return -network.step(layer) * ((inputs * x).sum(1, keepdim=True) * g).T


@dataclass(frozen=True, kw_only=True)
class Mend(EditMethod):
    """MEND: Δ = −η Σ g̃x̃ᵀ over all tokens, x̃, g̃ and η from a trained network; nothing is solved.

    Attributes:
        network: file of a trained `Hypernetwork`.

    Source: MEND (2110.11309).
    """

    network: str

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "MendWriter":
        return MendWriter(lm, self, plan)


class MendWriter(Writer):
    """Writes the sum of the requests' updates."""

    def __init__(self, lm: LanguageModel, method: Mend, plan: EditPlan):
        self.lm, self.plan, self.network = (
            lm,
            plan,
            load_hypernetwork(method.network, lm, plan.layers),
        )

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        with clock.stage("targets"):
            rows = told(self.lm, [r.text for r in requests], [r.target_new for r in requests])
            features, said, _ = read_features(self.lm, rows, self.plan.layers, everywhere=True)
        with clock.stage("solve"):
            for layer in self.plan.layers:
                update = mend_update(self.network, layer, features[layer])
                guard(update, layer, state.original[layer], self.plan.max_update_ratio)
                apply_update(self.lm, layer, update)
        return Written(one_step(requests, said), state)


def mend_update(
    network: Hypernetwork, layer: int, features: Features
) -> Float[Tensor, "d_model d_ff"]:
    """MEND's update, differentiable in the network; standardised as in training."""
    x, g = network.transform(layer, standardised(network.seen(layer), both(features)).float())
    return -network.step(layer) * g.T @ x


def one_step(requests: list[EditRequest], said: Tensor) -> list[Outcome]:
    """Outcomes of requests that one step wrote; the loss is that before it."""
    return [
        Outcome(request.case_id, "edited", "one step", -value, 1, False)
        for request, value in zip(requests, said.tolist(), strict=True)
    ]
