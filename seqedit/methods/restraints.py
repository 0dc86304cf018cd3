"""Combinators that restrain updates: those of every round, or their sum."""

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..algebra import restrain
from ..editing.contract import EditMethod

Restraint = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(W₀, W, Δ) → what is kept of Δ, (d_model, d_ff) each."""


def rect(base: EditMethod, share: float = 0.4) -> EditMethod:
    """`base` with only the entries of an update kept that are largest relative to the matrix's.

    Args:
        share: share of the entries that are kept (published: 0.4).

    Source: RECT (2401.04700).
    """
    restrain.check_share("share", share)
    return _restrained(
        base, "RECT", lambda W0, W, update: restrain.keep_largest_relative(W, update, share)
    )


def sphere(base: EditMethod, share: float = 0.5, strength: float = 0.5) -> EditMethod:
    """`base` with updates damped along the principal directions of the matrix's rows.

    Args:
        share: share of the trace that the damped directions hold.
        strength: 1 removes the update along them, 0 leaves it.

    Source: SPHERE (2510.01172), from a secondary description.
    """
    restrain.check_share("share", share)
    return _restrained(
        base,
        "SPHERE",
        lambda W0, W, update: restrain.damp_principal_directions(W, update, share, strength),
    )


def revive(base: EditMethod, share: float = 0.9) -> EditMethod:
    """`base` with updates that leave out the leading singular subspaces of the original matrix.

    Args:
        share: share of Σσ that the leading triplets hold (published: 0.9).

    Source: REVIVE (2601.11042), from a secondary description.
    """
    restrain.check_share("share", share)
    return _restrained(
        base, "REVIVE", lambda W0, W, update: restrain.outside_top_subspaces(W0, update, share)
    )


def prune_rounds(base: EditMethod, alpha: float = math.e) -> EditMethod:
    """`base` with PRUNE's restraint on every round's update instead of once on their sum.

    Args:
        alpha: base of the logarithm, above 1.

    Source: the comparison in OTE-SE (2605.26670).
    """
    restrain.check_alpha(alpha)
    return _restrained(
        base, "PRUNE per round", lambda W0, W, update: restrain.compress(W0, update, alpha)
    )


def prune(base: EditMethod, alpha: float = math.e, mode: str = "log") -> EditMethod:
    """`base` with W₀ + F(W_T − W₀) handed over; F compresses singular values above σ₁(W₀).

    Args:
        alpha: base of the logarithm, above 1 (published: e).
        mode: how singular values are compressed, see `restrain.compress`.

    Source: PRUNE (2405.16821).
    """
    restrain.check_alpha(alpha)
    form = restrain.check_mode(mode)
    return replace(
        base,
        name=f"{base.name}+PRUNE",
        restrain_total=lambda W0, total: restrain.compress(W0, total, alpha, form),
    )


def prune_added_twice(base: EditMethod, alpha: float = math.e) -> EditMethod:
    """`base` with W_T + F(W_T − W₀) handed over; for comparison.

    This is not PRUNE, but what several repositories run under its name.

    Args:
        alpha: base of the logarithm, above 1.
    """
    restrain.check_alpha(alpha)
    return replace(
        base,
        name=f"{base.name}+PRUNE added twice",
        restrain_total=lambda W0, total: total + restrain.compress(W0, total, alpha),
    )


def averaged(base: EditMethod, mix: float = 0.5) -> EditMethod:
    """`base` with W₀ + mix · (W_T − W₀) handed over: the average of old and new weights.

    It acts after a restraint of the total update that `base` has.

    Args:
        mix: α, share of the new weights; 1 is `base` itself (published for LoRA: 0.5).

    Source: the merging baseline of WikiBigEdit (2503.05683).
    """
    restrain.check_share("mix", mix)
    before = base.restrain_total

    def scaled(W0: Tensor, total: Tensor) -> Tensor:
        return mix * (total if before is None else before(W0, total))

    return replace(base, name=f"{base.name}+averaged", restrain_total=scaled)


def _restrained(base: EditMethod, name: str, restraint: Restraint) -> EditMethod:
    """`base` with one more restraint of its updates, after those that it has."""
    before = base.restrain_update

    def both(W0: Tensor, W: Tensor, update: Tensor) -> Tensor:
        kept = update if before is None else before(W0, W, update)
        return restraint(W0, W, kept)

    return replace(base, name=f"{base.name}+{name}", restrain_update=both)
