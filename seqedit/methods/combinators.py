"""What a method may be given besides its own parts: a subspace, a history, a restraint …

A combinator takes a method and returns another. Which ones have an effect on a method is said by
its kind, in `EditMethod.supports`; the others refuse it.
"""

import math
from collections.abc import Callable

from ..algebra import restrain, subspace
from ..editing.contract import EditMethod
from .composing import changed, needs
from .kinds.key_adaptor import RobustKeys
from .kinds.locate_then_edit import LocateThenEdit
from .rerun import iterated, simie
from .restraints import averaged, prune, prune_added_twice, prune_rounds, rect, revive, sphere
from .searches import merge_subjects, neighbour_assisted


def null_space(base: EditMethod, threshold: float = 2e-2) -> EditMethod:
    """`base` with updates confined to directions that preserved keys hardly use (AlphaEdit).

    Args:
        threshold: τ; eigenvectors of C with an eigenvalue below τ are allowed (published: 0.02).

    Source: AlphaEdit (2410.02355), its "one line of projection".
    """
    needs(base, "subspace", "null_space")
    return changed(base, "+projection", directions=lambda C: subspace.null_space(C, threshold))


def with_history(base: EditMethod, weight: float = 1.0) -> EditMethod:
    """`base` with the keys of all earlier edits in the price of movement.

    Args:
        weight: ω, what an earlier key counts against one of the round; ``inf`` forbids all
            movement at earlier keys.

    Source: recursive least squares; AlphaEdit (2410.02355) eq. 15.
    """
    needs(base, "history", "with_history")
    return changed(base, "+history", history=weight)


def without_history(base: EditMethod) -> EditMethod:
    """`base` with a price of movement that ignores earlier edits; for comparison."""
    needs(base, "history", "without_history")
    return changed(base, "−history", history=0.0)


def curvature(base: EditMethod, damping: float = 0.1) -> EditMethod:
    """`base` with a price of outputs too: of how much the loss of a text minds their movement.

    The price tr(ΔMΔᵀ) becomes tr(SΔMΔᵀ), with S the second moment of the text's gradients at the
    outputs of the matrix, scaled to a mean eigenvalue of 1, see `algebra.curvature.damped`.

    Args:
        damping: ρ, what every output costs at least, as a share of the mean price, above 0; with 1
            all outputs cost the same, and this is `base`.

    Raises:
        ValueError: `base` fits its keys exactly or forbids movement at earlier ones, which leaves a
            price of outputs nothing to choose; or it solves in another way than by `Solver.update`.

    Source: ours, after the curvature of CrispEdit (2602.15823).
    """
    needs(base, "outputs", "curvature")
    restrain.check_share("damping", damping)
    if getattr(base, "mu", 1.0) == 0 or getattr(base, "history", 0.0) == math.inf:
        raise ValueError(
            f"curvature({base.name}): an exact fit leaves a price of outputs nothing to choose; "
            "give it a method with μ > 0 and a finite weight of earlier keys"
        )
    if getattr(base, "compensate", False) or getattr(base, "neurons", None):
        raise ValueError(
            f"curvature({base.name}): give it a method that writes all neurons and makes good no "
            "restraint"
        )
    return changed(base, "+curvature", output_damping=damping)


def rewind(base: EditMethod) -> EditMethod:
    """`base` with targets found on the original weights: NSE's rewinding alone (2410.04045)."""
    needs(base, "targets", "rewind")
    return changed(base, "+rewinding", rewind=True)


def norm_anchor(base: EditMethod) -> EditMethod:
    """`base` with values v* rescaled to their mean norm on the original model (NAS, 2602.02543).

    Raises:
        ValueError: `base` finds no targets, or writes its requests one at a time, which leaves no
            mean to scale to.
    """
    needs(base, "targets", "norm_anchor")
    if base.one_at_a_time:
        raise ValueError(
            f"norm_anchor({base.name}): give it a method that writes whole rounds, not one "
            "request at a time"
        )
    return changed(base, "+norm anchor", anchored=True)


def robust_keys(
    base: EditMethod, rank: int = 32, adaptor_steps: int = 100, adaptor_lr: float = 1e-3
) -> RobustKeys:
    """`base` with an adaptor that leads keys of perturbed subjects to the edited keys (REP).

    Args:
        rank: rank of the adaptor.
        adaptor_steps: Adam steps in every round.
        adaptor_lr: Adam's step.

    Source: REP (2410.09338), see `RobustKeys` for the departures.
    """
    needs(base, "targets", "robust_keys")
    restrained = base.restrain_total or base.restrain_update
    if restrained or not isinstance(base, LocateThenEdit) or base.merged:
        raise ValueError(
            f"robust_keys({base.name}): give it a locate-then-edit method with a key for each "
            "request, without restraints"
        )
    return RobustKeys(
        name=f"{base.name}+REP",
        one_at_a_time=base.one_at_a_time,
        base=base,
        rank=rank,
        steps=adaptor_steps,
        lr=adaptor_lr,
    )


def compensated(base: EditMethod) -> EditMethod:
    """`base` that makes good in each round what its restraint removed in the one before (OTE-SE).

    The error that the removed part leaves in the normal equations enters those of the next round.

    Raises:
        ValueError: `base` has no restraint per round, has no history to be compensated against, or
            does not solve for whole updates at μ = 1, for which alone the compensation is exact.

    Source: OTE-SE (2605.26670), from a secondary description.
    """
    needs(base, "compensation", "compensated")
    whole = isinstance(base, LocateThenEdit) and base.mu == 1.0 and base.neurons is None
    if not whole or base.needs_gradients:
        raise ValueError(
            f"compensated({base.name}): compensation is for methods that solve for whole updates "
            "with μ = 1 (MEMIT's) and price all outputs alike"
        )
    if base.restrain_update is None or getattr(base, "history", 0.0) != 1.0:
        raise ValueError(
            f"compensated({base.name}): compensation needs a restraint of each round's update, "
            "and history"
        )
    return changed(base, "+compensation", compensate=True)


COMBINATORS: dict[str, Callable[..., EditMethod]] = {
    combine.__name__: combine
    for combine in (
        null_space,
        with_history,
        without_history,
        curvature,
        rewind,
        rect,
        sphere,
        revive,
        prune_rounds,
        compensated,
        norm_anchor,
        prune,
        prune_added_twice,
        averaged,
        simie,
        iterated,
        neighbour_assisted,
        merge_subjects,
        robust_keys,
    )
}
"""What may follow a method's name, joined by "+": ``memit+with_history+prune``."""
