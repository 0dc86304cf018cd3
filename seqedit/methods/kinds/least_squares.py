"""The formula that closed-form methods share: price of movement, weight of the past, subspace."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...algebra.compact import CompactMoment, whole
from ...algebra.curvature import CurvatureSolver, damped
from ...algebra.solver import Solver
from ...algebra.subspace import Subspace
from ...editing.contract import EditMethod, Writer
from ...editing.state import EditPlan, EditState
from ...lm.model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class LeastSquares(EditMethod):
    """Δ = argmin ‖ΔK − R‖² + μ tr(Δ(M₀ + ωK_pK_pᵀ)Δᵀ) over updates with rows in a subspace.

    Attributes:
        price: a number c for the metric M₀ = cI, or C → M₀, (d_ff, d_ff), for one that needs C.
        history: weight ω of the keys of all earlier edits in the price. 0 ignores them; ``inf``
            forbids all movement at earlier keys.
        directions: C → subspace of key directions that an update may use. None allows all.
        mu: 0 for an exact fit, 1 for MEMIT's balance of fit and price.
        compensate: make good in the next round what `restrain_update` removed (OTE-SE). This is
            exact for whole updates at μ = 1 only, see `methods.combinators.compensated`.
        output_damping: ρ; the price is then μ tr(SΔM₀Δᵀ), with S the damped second moment of
            gradients, see `CurvatureSolver`. None prices all outputs alike.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"weights", "subspace", "history", "outputs"})

    price: float | Callable[[Tensor], Tensor]
    history: float = 0.0
    directions: Callable[[Tensor | CompactMoment], Subspace] | None = None
    mu: float = 1.0
    compensate: bool = False
    output_damping: float | None = None

    @property
    def needs_gradients(self) -> bool:
        return self.output_damping is not None

    def metric(self, C: Tensor | CompactMoment) -> Tensor | float:
        """M₀ of a layer with second moment C, (d_ff, d_ff), or c for cI.

        Raises:
            ValueError: C is compact, and the price needs all of it.
        """
        return self.price(whole(C)) if callable(self.price) else self.price

    def solver(
        self,
        C: Float[Tensor, "d_ff d_ff"] | CompactMoment,
        S: Float[Tensor, "d_model d_model"] | None = None,
    ) -> Solver:
        """The solver for a layer with second moment C.

        Args:
            C: second moment of keys.
            S: that of gradients, for a method with a price of outputs.

        Raises:
            ValueError: C is compact, and the price needs all of it; or S is missing.
        """
        C = C.to(torch.float64)
        subspace = self.directions(C) if self.directions else None
        weight = self.history if self.history else 1.0  # not used without a history
        if self.output_damping is None:
            return Solver(self.metric(C), subspace, self.mu, weight)
        if S is None:
            raise ValueError(f"{self.name} prices outputs: give the second moment of gradients, S")
        price = damped(S, self.output_damping)
        return CurvatureSolver(self.metric(C), price, subspace, self.mu, weight)


class LeastSquaresWriter(Writer):
    """Holds the solver of every layer and keeps the history."""

    def __init__(self, lm: LanguageModel, method: LeastSquares, plan: EditPlan):
        self.lm, self.method, self.plan = lm, method, plan
        self.solvers = {layer: self._solver(layer) for layer in plan.layers}

    def _solver(self, layer: int) -> Solver:
        try:
            return self.method.solver(*self._moments(layer))
        except torch.linalg.LinAlgError as error:
            raise ValueError(f"moments: layer {layer}: {error}") from error

    def _moments(self, layer: int) -> tuple[Tensor | CompactMoment, Tensor | None]:
        """C of a layer, and S for a method with a price of outputs."""
        S = self.plan.gradient_moment(self.lm, layer) if self.method.needs_gradients else None
        return self.plan.moments[layer].to(self.lm.device), S

    def past(self, state: EditState, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """Keys of earlier edits, (d_ff, N), and their Gram matrix, (N, N).

        Both are None for a method without history.
        """
        if not self.method.history:
            return None, None
        where = self.lm.device
        return state.keys[layer].to(where), state.grams[layer].to(where)

    def remember(self, state: EditState, keys: dict[int, Tensor]) -> EditState:
        """The state after edits with these keys, (d_ff, n) by layer."""
        return state.remember(keys, self.solvers if self.method.history else None)

    def after_restraint(self, state: EditState, removed: dict[int, Tensor]) -> EditState:
        """Note the error that the removed parts leave in the normal equations, if it is wanted."""
        if not self.method.compensate:
            return state
        return state.with_carry(
            {
                layer: self.solvers[layer].error(-lost, state.keys[layer].to(lost)).cpu()
                for layer, lost in removed.items()
            }
        )
