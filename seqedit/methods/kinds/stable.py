"""StableEdit: UltraEdit with whitened gradients, its ablations, and a warm-up on other edits."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...base.clock import Clock
from ...editing.contract import Written
from ...editing.state import EditPlan, EditState
from ...lm.likelihood import Features, read_features
from ...lm.model import LanguageModel
from ...lm.target_loss import learned_rows
from ...lm.validation import validate_requests
from ...requests.published import load_requests
from ...requests.request import EditRequest
from .gradients import FromGradients, GradientWriter
from .hypernetwork import add_features, both, standardised

Normalisation = Literal["whitened", "standardised", "none"]
Statistics = Literal["running", "frozen"]
WarmUp = Literal["statistics", "edits"]

WARM_UP_ROUNDS, WARM_UP_SIZE = 20, 100
"""The released warm-up: as many rounds of as many edits, or all that there are."""

FLOOR = 1e-6
"""The smallest eigenvalue of a covariance of gradients that counts, as released."""


@dataclass(frozen=True, kw_only=True)
class StableGradients(FromGradients):
    """UltraEdit whose gradients are whitened by their running covariance.

    Attributes:
        normalisation: "whitened" (StableEdit); "standardised", each component by itself, which is
            UltraEdit; "none", keys and gradients as they are.
        statistics: "running" over all edits; "frozen" after the warm-up, or after the first round
            where there is none.
        warm_up: file of other edits, as `load_requests` takes it, which pass through before the
            first round; "" for none.
        warm_up_effect: what a warm-up leaves: "statistics" alone, or "edits", which are written.

    Source:
        StableEdit (2605.11836) and its released code, commit 6ea8eae3. Departs from the latter in
        that a warm-up leaves no edits unless asked to; the departures of `FromGradients` hold too.
    """

    normalisation: Normalisation = "whitened"
    statistics: Statistics = "running"
    warm_up: str = ""
    warm_up_effect: WarmUp = "statistics"

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "StableWriter":
        return StableWriter(lm, self, plan)


class StableWriter(GradientWriter):
    """Remembers of each layer the statistics of its features and the scatter of its gradients."""

    method: StableGradients

    def __init__(self, lm: LanguageModel, method: StableGradients, plan: EditPlan):
        super().__init__(lm, method, plan)
        self.others: list[EditRequest] = []
        self.warming_up = False
        if method.warm_up:
            self.others = load_requests(method.warm_up)[: WARM_UP_ROUNDS * WARM_UP_SIZE]
            validate_requests(lm, self.others, plan.contexts)

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        if self.others and _features_name(self.plan.layers[0]) not in state.memory:
            self.warming_up = True
            try:
                for start in range(0, len(self.others), WARM_UP_SIZE):
                    part = self.others[start : start + WARM_UP_SIZE]
                    state = self._passed_through(part, state, clock)
            finally:
                self.warming_up = False
        return super().write(requests, state, clock)

    def _passed_through(
        self, requests: list[EditRequest], state: EditState, clock: Clock
    ) -> EditState:
        """The state after some edits of the warm-up."""
        if self.method.warm_up_effect == "edits":
            return super().write(requests, state, clock).state
        with clock.stage("targets"):
            rows = learned_rows(self.lm, requests, self.plan.target)
            features, _, _ = read_features(self.lm, rows, self.plan.layers)
        memory = dict(state.memory)
        for layer in self.plan.layers:
            self._see(layer, features[layer], memory)
        return state.with_memory(memory)

    def _residuals(
        self, layer: int, features: Features, memory: dict[str, Tensor]
    ) -> Float[Tensor, "d_model tokens"]:
        grows = self.method.statistics == "running" or self.warming_up
        if grows or _features_name(layer) not in memory:
            self._see(layer, features, memory)
        x, g = features.x.double(), features.g.double()
        if self.method.normalisation != "none":
            running = memory[_features_name(layer)].to(g)
            varied = running[2] > 0  # statistics that are frozen may not know of others
            hats = torch.where(varied, standardised(running, both(features)), 0.0)
            count, mean = int(running[0, 0]), running[1, x.shape[1] :]
            x, standard = hats.split([x.shape[1], g.shape[1]], dim=1)
            if self.method.normalisation == "whitened" and count > g.shape[1] + 1:
                g = whitened(g - mean, memory[_scatter_name(layer)].to(g), count)
            else:
                g = standard
        return -self.method.eta * ((x**2).sum(1, keepdim=True) * g).T

    def _see(self, layer: int, features: Features, memory: dict[str, Tensor]) -> None:
        """Take features into the statistics of a layer."""
        before = memory.get(_features_name(layer))
        scatter = memory.get(_scatter_name(layer))
        memory[_scatter_name(layer)] = add_scatter(before, scatter, features.g.double()).cpu()
        memory[_features_name(layer)] = add_features(before, both(features)).cpu()


def add_scatter(
    running: Float[Tensor, "3 features"] | None,
    scatter: Float[Tensor, "d d"] | None,
    new: Float[Tensor, "tokens d"],
) -> Float[Tensor, "d d"]:
    """The sum of (g − mean)(g − mean)ᵀ over more gradients than before.

    Args:
        running: statistics of the features before, see `add_features`; the last d are gradients.
        scatter: the sum before; None, like `running`, at the start.
        new: gradients.
    """
    mean = new.mean(dim=0)
    own = (new - mean).T @ (new - mean)
    if running is None or scatter is None:
        return own
    step = mean - running[1, -len(mean) :].to(mean)
    before = running[0, 0].item()
    weight = before * len(new) / (before + len(new))
    return scatter.to(own) + own + weight * torch.outer(step, step)


def whitened(
    centred: Float[Tensor, "tokens d"], scatter: Float[Tensor, "d d"], count: int
) -> Float[Tensor, "tokens d"]:
    """Gradients times Σ^(−½), Σ = scatter / (count − d − 1), its eigenvalues at least `FLOOR`."""
    values, vectors = torch.linalg.eigh(scatter / (count - len(scatter) - 1))
    return (centred @ vectors / values.clamp(min=FLOOR).sqrt()) @ vectors.T


def _features_name(layer: int) -> str:
    return f"features.{layer}"


def _scatter_name(layer: int) -> str:
    return f"scatter.{layer}"
