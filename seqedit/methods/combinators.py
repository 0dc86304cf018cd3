"""What any method may be given: a subspace, a history, a restraint on each round or on the total, an adaptor."""

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..algebra import restrain, subspace
from ..editing.contract import EditMethod
from .key_adaptor import RobustKeys
from .least_squares import LeastSquares
from .locate_then_edit import LocateThenEdit
from .lyaplock import LyapLock


def null_space(base: LeastSquares, threshold: float = 2e-2) -> LeastSquares:
    """`base`, with updates confined to directions that preserved keys hardly use: the "one line of projection"."""
    _needs_a_solve(base, "null_space")
    return replace(
        base, name=f"{base.name}+projection", directions=lambda C: subspace.null_space(C, threshold)
    )


def with_history(base: LeastSquares, weight: float = 1.0) -> LeastSquares:
    """`base`, with the keys of all earlier edits priced like those of this round, or by another weight."""
    _needs_a_solve(base, "with_history")
    if isinstance(base, LyapLock):
        raise ValueError(
            f"with_history({base.name}): it solves for all earlier edits in every round already"
        )
    return replace(base, name=f"{base.name}+history", history=weight)


def without_history(base: LeastSquares) -> LeastSquares:
    """`base`, forgetting earlier edits when it prices movement; for comparison."""
    _needs_a_solve(base, "without_history")
    return replace(base, name=f"{base.name}−history", history=0.0)


def rewind(base: LocateThenEdit) -> LocateThenEdit:
    """`base`, its targets found on the original weights: NSE's weight rewinding alone."""
    if type(base) is not LocateThenEdit:
        raise ValueError(
            f"rewind({base.name}): the method finds no targets that could be found elsewhere"
        )
    return replace(base, name=f"{base.name}+rewinding", rewind=True)


def rect(base: EditMethod, share: float = 0.4) -> EditMethod:
    """`base`, keeping the entries of each round's update that are largest in proportion to the matrix's (RECT)."""
    restrain.check_share("share", share)
    return _restrained(
        base, "RECT", lambda W0, W, update: restrain.keep_largest_relative(W, update, share)
    )


def sphere(base: EditMethod, share: float = 0.5, strength: float = 0.5) -> EditMethod:
    """`base`, each update damped along the principal directions of the matrix's rows (SPHERE)."""
    restrain.check_share("share", share)
    return _restrained(
        base,
        "SPHERE",
        lambda W0, W, update: restrain.damp_principal_directions(W, update, share, strength),
    )


def revive(base: EditMethod, share: float = 0.9) -> EditMethod:
    """`base`, each update without its part in the leading singular subspaces of the original matrix (REVIVE)."""
    restrain.check_share("share", share)
    return _restrained(
        base, "REVIVE", lambda W0, W, update: restrain.outside_top_subspaces(W0, update, share)
    )


def prune_rounds(base: EditMethod, alpha: float = math.e) -> EditMethod:
    """`base`, PRUNE's restraint applied to every round's update instead of once to their sum (OTE-SE's comparison)."""
    restrain.check_alpha(alpha)
    return _restrained(
        base, "PRUNE per round", lambda W0, W, update: restrain.compress(W0, update, alpha)
    )


def compensated(base: LeastSquares) -> LeastSquares:
    """`base`, what its restraint takes from a round's normal equations made good in the next (OTE-SE, 2605.26670).

    Raises:
        ValueError: `base` has no restraint per round, or no history to be compensated against, or does not solve for
            whole updates at μ = 1, for which alone the compensation is exact.
    """
    _needs_a_solve(base, "compensated")
    if type(base) is not LocateThenEdit or base.neurons or base.mu != 1.0:
        raise ValueError(
            f"{base.name}: compensation is for methods that solve for whole updates with μ = 1 (MEMIT's)"
        )
    if base.restrain_update is None or base.history != 1.0:
        raise ValueError(
            f"{base.name}: compensation needs a restraint of each round's update, and history"
        )
    return replace(base, name=f"{base.name}+compensation", compensate=True)


def robust_keys(
    base: LocateThenEdit, rank: int = 32, adaptor_steps: int = 100, adaptor_lr: float = 1e-3
) -> RobustKeys:
    """`base` with an adaptor before its edited matrices that leads perturbed subjects to the edited keys (REP)."""
    if type(base) is not LocateThenEdit or base.restrain_total or base.restrain_update:
        raise ValueError(
            f"robust_keys({base.name}): give it a locate-then-edit method without restraints"
        )
    return RobustKeys(
        name=f"{base.name}+REP",
        one_at_a_time=base.one_at_a_time,
        base=base,
        rank=rank,
        steps=adaptor_steps,
        lr=adaptor_lr,
    )


def norm_anchor(base: LocateThenEdit) -> LocateThenEdit:
    """`base`, its values v* rescaled to the mean norm that they have on the original model (NAS, 2602.02543).

    Raises:
        ValueError: `base` finds no targets, or writes its requests one by one, which leaves no mean to scale to.
    """
    if type(base) is not LocateThenEdit or base.one_at_a_time:
        raise ValueError(
            f"norm_anchor({base.name}): give it a locate-then-edit method that writes whole rounds"
        )
    return replace(base, name=f"{base.name}+norm anchor", anchored=True)


def prune(base: EditMethod, alpha: float = math.e, mode: restrain.Mode = "log") -> EditMethod:
    """`base`, the singular values of its total update restrained when the model is handed over: W₀ + F(W_T − W₀)."""
    restrain.check_alpha(alpha)
    return replace(
        base,
        name=f"{base.name}+PRUNE",
        restrain_total=lambda W0, total: restrain.compress(W0, total, alpha, mode),
    )


def prune_added_twice(base: EditMethod, alpha: float = math.e) -> EditMethod:
    """`base` with W_T + F(W_T − W₀): not PRUNE, but what several repositories run under its name; for comparison."""
    restrain.check_alpha(alpha)
    return replace(
        base,
        name=f"{base.name}+PRUNE added twice",
        restrain_total=lambda W0, total: total + restrain.compress(W0, total, alpha),
    )


def _needs_a_solve(base: EditMethod, combinator: str) -> None:
    if not isinstance(base, LeastSquares):
        raise ValueError(
            f"{combinator}({base.name}): the method solves no least squares that this could act on"
        )


def _restrained(
    base: EditMethod, name: str, restraint: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> EditMethod:
    before = base.restrain_update
    combined = (
        restraint
        if before is None
        else lambda W0, W, update: restraint(W0, W, before(W0, W, update))
    )
    return replace(base, name=f"{base.name}+{name}", restrain_update=combined)
