"""The formula that the closed-form methods share: what movement costs, what the past counts, where an update may go."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.compact import CompactMoment, whole
from ..algebra.solver import Solver
from ..algebra.subspace import Subspace
from ..editing.contract import EditMethod, EditPlan, EditState, Writer
from ..lm.model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class LeastSquares(EditMethod):
    """Δ = argmin ‖ΔK − R‖² + μ tr(Δ(M₀ + ωK_pK_pᵀ)Δᵀ) over updates with rows in a subspace.

    Attributes:
        price: a number c for the metric M₀ = cI, or C → M₀ for one that needs the whole C.
        history: weight ω of the keys of all earlier edits in the price; 0 for none, ``inf`` to keep them where they
            are.
        directions: C → the subspace of key directions that an update may use; None allows all.
        mu: 0 for an exact fit, 1 for MEMIT's balance of fit and price.
    """

    price: float | Callable[[Tensor], Tensor]
    history: float = 0.0
    directions: Callable[[Tensor], Subspace] | None = None
    mu: float = 1.0

    def metric(self, C: Tensor | CompactMoment) -> Tensor | float:
        """M₀ of a layer with second moment C, (d_ff, d_ff), or c for cI.

        Raises:
            ValueError: C is compact, and the price needs all of it.
        """
        return self.price(whole(C)) if callable(self.price) else self.price

    def solver(self, C: Tensor | CompactMoment) -> Solver:
        """The one solver, prepared for a layer with second moment C.

        Raises:
            ValueError: C is compact, and the price needs all of it.
        """
        C = C.to(torch.float64)
        return Solver(
            self.metric(C),
            self.directions(C) if self.directions else None,
            self.mu,
            self.history or 1.0,
        )


class LeastSquaresWriter(Writer):
    """Holds the solver of every layer and keeps the history."""

    def __init__(self, lm: LanguageModel, method: LeastSquares, plan: EditPlan):
        self.lm, self.method, self.plan = lm, method, plan
        self.solvers = {layer: self._solver(layer) for layer in plan.layers}

    def _solver(self, layer: int) -> Solver:
        try:
            return self.method.solver(self.plan.moments[layer].to(self.lm.device))
        except torch.linalg.LinAlgError as error:
            raise ValueError(f"moments: layer {layer}: {error}") from error

    def past(self, state: EditState, layer: int) -> tuple[Tensor, ...]:
        """Keys of earlier edits and their Gram matrix, for a method with history."""
        where = self.lm.device
        return (
            (state.keys[layer].to(where), state.grams[layer].to(where))
            if self.method.history
            else ()
        )

    def remember(self, state: EditState, keys: dict[int, Tensor]) -> EditState:
        return state.remember(keys, self.solvers if self.method.history else None)

    def owe(self, state: EditState, taken: dict[int, Tensor]) -> EditState:
        """The state in which what a restraint took from each layer's update, (d_model, d_ff), is to be made good."""
        return state.owing(
            {
                layer: self.solvers[layer].error(-lost, state.keys[layer].to(lost)).cpu()
                for layer, lost in taken.items()
            }
        )
