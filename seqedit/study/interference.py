"""Predicts from keys alone, before any residual is known, what a sequence of edits does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..algebra.diagnostics import drift
from ..algebra.solver import Solver


@dataclass(frozen=True)
class Reach:
    """What one round is expected to do if residuals have unit length and are uncorrelated between
    edits.

    Attributes:
        written: share of its own residual that an edit of the round gets, mean over its edits.
        drift: expected tr(ΔCΔᵀ).
        cost: expected ‖Δ‖²_F.
        probes: expected ‖Δk‖² at each probe key, (n,).
    """

    written: float
    drift: float
    cost: float
    probes: Float[Tensor, "n"]


def reaches(
    solver: Solver,
    rounds: Sequence[Float[Tensor, "d_ff b"]],
    C: Float[Tensor, "d_ff d_ff"],
    probes: Float[Tensor, "d_ff n"],
    *,
    remembers: bool,
) -> Iterator[Reach]:
    r"""Yield the reach of each round of a method whose updates are Δ = RA.

    A follows by `solver` from the keys of the round and, for a method with a history, those of
    earlier rounds. With uncorrelated residuals of mean square ρ², expectations are those of A times
    ρ²: E‖RAk‖² = ρ²‖Ak‖² and E tr(RACAᵀRᵀ) = ρ² tr(ACAᵀ). Rounds add up. Keys are taken as they are
    before the first edit.

    Args:
        solver: of the method, for one layer.
        rounds: keys of each round.
        C: second moment of preserved keys.
        probes: keys at which the interference is asked for.
        remembers: whether the method has a history of keys.
    """
    for i, K in enumerate(rounds):
        past = torch.cat(list(rounds[:i]), dim=1) if remembers and i else None
        A = solver.update(K, torch.eye(K.shape[1], dtype=torch.float64), past)  # (b, d_ff)
        yield Reach(
            (A @ K.double()).diag().mean().item(),
            drift(A, C),
            A.square().sum().item(),
            (A @ probes.double()).square().sum(dim=0),
        )
