"""Editing from gradients: inputs of the edited matrices and gradients at their outputs."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from ...algebra.solver import Solver
from ...base.clock import Clock
from ...editing.contract import EditMethod, Writer, Written, guard
from ...editing.state import EditPlan, EditState, Outcome
from ...lm.likelihood import Features, read_features
from ...lm.model import LanguageModel
from ...lm.target_loss import learned_rows
from ...lm.weights import apply_update
from ...requests.request import EditRequest
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
    """UltraEdit and RLEdit: one pass forward and backward gives keys and residuals of all layers.

    There is no subject and no target search. The key is the matrix's input x at every token that
    predicts a token of the target. With g the gradient at the matrix's output there, UltraEdit's
    residual is −η‖x̂‖²ĝ. Hats stand for standardised features: minus the running mean, divided by
    the running deviation, of all edits so far. RLEdit's residual is −η(x·x̃)g̃, with x̃, g̃, η and the
    ridge from a trained network, whose statistics go on running.

    Attributes:
        eta: η, the step. A network brings its own.
        network: file of a trained `Hypernetwork`; None for UltraEdit.

    Source:
        UltraEdit (2505.14679), RLEdit (2502.05759). Departs from the released codes: each matrix
        has its own running statistics, where they share them between matrices of equal shape; and
        only down-projections are edited.
    """

    eta: float = 1.0
    network: str | None = None

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "GradientWriter":
        return GradientWriter(lm, self, plan)


class GradientWriter(LeastSquaresWriter):
    """Reads features, makes residuals of them, solves for every layer."""

    method: FromGradients

    def __init__(self, lm: LanguageModel, method: FromGradients, plan: EditPlan):
        self.network: Hypernetwork | None = None
        if method.network:
            self.network = load_hypernetwork(method.network, lm, plan.layers)
        super().__init__(lm, method, plan)

    def _solver(self, layer: int) -> Solver:
        if self.network is None:
            return super()._solver(layer)
        ridge = self.network.ridge(layer).item()
        method = replace(self.method, price=ridge)
        return method.solver(*self._moments(layer))

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        with clock.stage("targets"):
            rows = learned_rows(self.lm, requests, self.plan.target)
            features, said, _ = read_features(self.lm, rows, self.plan.layers)
        memory, keys = dict(state.memory), {}
        with clock.stage("solve"):
            for layer in self.plan.layers:
                keys[layer] = features[layer].x.T  # (d_ff, tokens)
                R = self._residuals(layer, features[layer], memory)  # (d_model, tokens)
                update = self.solvers[layer].update(keys[layer], R, *self.past(state, layer))
                guard(update, layer, state.original[layer], self.plan.max_update_ratio)
                apply_update(self.lm, layer, update)
            if self.method.history:
                state = self.remember(state, keys)
        return Written(one_step_outcomes(requests, said), state.with_memory(memory))

    def _residuals(
        self, layer: int, features: Features, memory: dict[str, Tensor]
    ) -> Float[Tensor, "d_model tokens"]:
        """Residuals to be written at the keys. The running statistics in `memory` are updated."""
        name, new = f"features.{layer}", both(features)
        before = memory.get(name)
        if before is None and self.network is not None:
            before = self.network.seen(layer)
        running = add_features(before, new)
        memory[name], hats = running.cpu(), standardised(running, new)
        if self.network is not None:
            return learned_residuals(self.network, layer, features.x, hats.float())
        x, g = hats.split([features.x.shape[1], features.g.shape[1]], dim=1)
        return -self.method.eta * ((x**2).sum(1, keepdim=True) * g).T


def learned_residuals(
    network: Hypernetwork,
    layer: int,
    inputs: Float[Tensor, "tokens d_ff"],
    hats: Float[Tensor, "tokens features"],
) -> Float[Tensor, "d_model tokens"]:
    """RLEdit's residuals −η(x·x̃)g̃, differentiable in the network.

    Args:
        inputs: x.
        hats: standardised features [x̂; ĝ].
    """
    x, g = network.transform(layer, hats)
    return -network.step(layer) * ((inputs * x).sum(1, keepdim=True) * g).T


@dataclass(frozen=True, kw_only=True)
class Mend(EditMethod):
    """MEND: Δ = −η Σ g̃x̃ᵀ over all tokens. Nothing is solved.

    x̃, g̃ and η come from a trained network.

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
        self.lm, self.plan = lm, plan
        self.network = load_hypernetwork(method.network, lm, plan.layers)

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        with clock.stage("targets"):
            rows = learned_rows(self.lm, requests, self.plan.target)
            features, said, _ = read_features(self.lm, rows, self.plan.layers, everywhere=True)
        with clock.stage("solve"):
            for layer in self.plan.layers:
                update = mend_update(self.network, layer, features[layer])
                guard(update, layer, state.original[layer], self.plan.max_update_ratio)
                apply_update(self.lm, layer, update)
        return Written(one_step_outcomes(requests, said), state)


def mend_update(
    network: Hypernetwork, layer: int, features: Features
) -> Float[Tensor, "d_model d_ff"]:
    """MEND's update, differentiable in the network, with features standardised as in training."""
    x, g = network.transform(layer, standardised(network.seen(layer), both(features)).float())
    return -network.step(layer) * g.T @ x


def one_step_outcomes(requests: list[EditRequest], said: Tensor) -> list[Outcome]:
    """Outcomes of requests that one step wrote.

    Args:
        said: mean log-likelihood of each target before the step, (n,).
    """
    return [
        Outcome(request.case_id, "edited", "one step", -value, 1, False)
        for request, value in zip(requests, said.tolist(), strict=True)
    ]
