"""Recursive least squares with more in its price: ENCORE, RLSEdit, LyapLock."""

from dataclasses import replace

import torch

from . import ranges
from .entry import method
from .kinds.locate_then_edit import LocateThenEdit
from .kinds.lyaplock import LyapLock


@method(
    source="ENCORE (2502.01636); code: scalable-model-editing/encore, no licence",
    search=ranges.ENCORE,
    test={"lam": 0.5, "gamma": 0.1, "patience": 3},
    colour="#d1479f",
)
def encore(lam: float = 15_000.0, gamma: float = 10.0, patience: int = 3) -> LocateThenEdit:
    r"""MEMIT-seq with a price on the norm, and targets that stop once they are most probable.

    .. math::
        \Delta = R K^\top (\lambda C + \gamma I + K_p K_p^\top + K K^\top)^{-1}

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless (published: 15,000).
        gamma: γ, price of the squared norm of the update, activations squared (published: 10 for
            GPT-J).
        patience: forward passes in which all tokens of a target must have been most probable in
            all contexts before its search stops (published: 3); 0 never stops it early.

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(encore(lam=1.0, gamma=1.0))
        [0.501, 0.498]
    """
    return LocateThenEdit(
        name="ENCORE",
        price=lambda C: lam * C + gamma * torch.eye(len(C)).to(C),
        history=1.0,
        patience=patience,
    )


@method(
    source="RLSEdit (2601.15686), from a secondary description",
    search=ranges.ENCORE,
    test={"lam": 0.5, "gamma": 0.1},
    colour="#b03a8c",
)
def rlsedit(lam: float = 15_000.0, gamma: float = 10.0) -> LocateThenEdit:
    r"""Recursive least squares anchored at preserved keys and at the original weights.

    .. math::
        \Delta = R K^\top (\lambda C + \gamma I + K_p K_p^\top + K K^\top)^{-1}

    This is ENCORE with the usual target search.

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless.
        gamma: γ, price of the distance from the original weights, activations squared.

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(rlsedit(lam=1.0, gamma=1.0))
        [0.501, 0.498]
    """
    return replace(encore(lam, gamma), name="RLSEdit", patience=0)


@method(
    source="LyapLock (2505.15702) and its released code",
    search=ranges.MEMIT
    | {
        "budget": ranges.Range(
            1.01,
            1e3,
            above=1.0,
            low_may_stay="hardly more than the first round's drift is then allowed",
            high_may_stay="the constraint then never binds",
        )
    },
    test={"lam": 0.5, "budget": 1.2},
    colour="#808000",
    oracle="test_lyaplock.py::test_each_round_is_the_weighted_least_squares_solution",
)
def lyaplock(lam: float = 15_000.0, budget: float = 60.0) -> LyapLock:
    r"""MEMIT-seq whose price of movement rises when the drift exceeds its budget.

    .. math::
        \Delta_{0:t} = \arg\min \sum_{i \le t} \lVert \Delta K_i - R_i \rVert^2
        + Z_t\, \lambda \operatorname{tr}(\Delta C \Delta^\top)

    Every round solves for all edits so far, from the original weights. The virtual queue
    :math:`Z_t` grows when the drift exceeds `budget` times that of the first round, see `LyapLock`.

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless.
        budget: α, allowed drift in multiples of that of the first round (published: 60).

    Example:
        >>> lyaplock(budget=5.0).budget
        5.0
    """
    return LyapLock(name="LyapLock", price=lambda C: lam * C, budget=budget)
