"""Systems of the literature that are a method with something after it."""

import math

from ..editing.contract import EditMethod
from .alphaedit import alphaedit
from .combinators import (
    compensated,
    curvature,
    prune_rounds,
    revive,
    robust_keys,
    sphere,
    with_history,
)
from .entry import method
from .memit import ALPHA, memit_rect, memit_seq
from .ranges import Choice, Range

ORACLE = "test_restrain.py::test_composed_systems_are_their_equations"


@method(
    name="alphaedit+sphere",
    source="SPHERE (2510.01172), from a secondary description",
    search={
        "share": Range(
            0.05,
            0.95,
            log=False,
            low_may_stay="hardly any direction is damped",
            high_may_stay="nearly every direction is damped",
        ),
        "strength": Range(
            0.02, 1.0, low_may_stay="hardly damped", high_may_stay="the directions are removed"
        ),
    },
    test={"threshold": 0.9, "l2": 0.5, "share": 0.5, "strength": 0.5},
    colour="#31a354",
    oracle=ORACLE,
)
def alphaedit_sphere(
    threshold: float = 2e-2, l2: float = 10.0, share: float = 0.5, strength: float = 0.5
) -> EditMethod:
    """AlphaEdit whose updates are damped along the principal directions of the matrix's rows.

    Args:
        threshold: see `alphaedit`.
        l2: see `alphaedit`.
        share: see `sphere`.
        strength: see `sphere`.
    """
    return sphere(alphaedit(threshold, l2), share, strength)


@method(
    name="memit_seq+curvature",
    source="ours, after the curvature of CrispEdit (2602.15823)",
    search={"damping": Range(1e-3, 1.0, high_may_stay="all outputs then cost the same")},
    test={"lam": 0.5, "damping": 0.2},
    colour="#0057d9",
    oracle="test_curvature.py::test_thm_curvature_price",
)
def memit_seq_curvature(lam: float = 15_000.0, damping: float = 0.1) -> EditMethod:
    r"""MEMIT-seq that also prices outputs, by how much the loss of a text minds their change.

    .. math::
        \Delta = \arg\min \lVert \Delta K - R \rVert^2 + \lVert \Delta K_p \rVert^2
        + \lambda \operatorname{tr}(S \Delta C \Delta^\top)

    Args:
        lam: see `memit_seq`.
        damping: see `curvature`.
    """
    return curvature(memit_seq(lam), damping)


@method(
    name="memit_seq+revive",
    source="REVIVE (2601.11042), from a secondary description",
    search={
        "share": Range(1e-3, 0.9, low_may_stay="hardly any direction is left out"),
    },
    test={"lam": 0.5, "share": 0.5},
    colour="#5254a3",
    oracle=ORACLE,
)
def memit_seq_revive(lam: float = 15_000.0, share: float = 0.9) -> EditMethod:
    """MEMIT-seq whose updates leave out the leading singular subspaces of the original matrix.

    Args:
        lam: see `memit_seq`.
        share: see `revive`.
    """
    return revive(memit_seq(lam), share)


@method(
    name="memit_rect+with_history+compensated",
    source="OTE-SE (2605.26670), from a secondary description",
    search={"share": Range(0.02, 1.0, log=False, high_may_stay="every entry is kept")},
    test={"lam": 0.5, "share": 0.4},
    colour="#a55194",
    label="RECT, compensated",
    oracle=ORACLE,
)
def rect_compensated(lam: float = 15_000.0, share: float = 0.4) -> EditMethod:
    """RECT with history that makes good in each round what it removed in the one before.

    Args:
        lam: see `memit_rect`.
        share: see `memit_rect`.
    """
    return compensated(with_history(memit_rect(lam, share)))


@method(
    name="memit_seq+prune_rounds+compensated",
    source="the comparison in OTE-SE (2605.26670), from a secondary description",
    search={"alpha": ALPHA},
    test={"lam": 0.5, "alpha": 1.5},
    colour="#c2185b",
    label="PRUNE, compensated",
    oracle=ORACLE,
)
def prune_compensated(lam: float = 15_000.0, alpha: float = math.e) -> EditMethod:
    """PRUNE per round that makes good in each round what it removed in the one before.

    Args:
        lam: see `memit_seq`.
        alpha: see `prune_rounds`.
    """
    return compensated(prune_rounds(memit_seq(lam), alpha))


@method(
    name="memit_seq+robust_keys",
    source="REP (2410.09338)",
    search={
        "adaptor_steps": 100,
        "adaptor_lr": Range(1e-4, 0.1, low_may_stay="the adaptor then does nothing"),
        "rank": Choice((8, 32)),
    },
    test={"lam": 0.5},
    colour="#3182bd",
    oracle="test_key_adaptor.py::test_training_is_adam_on_the_losses",
)
def memit_seq_rep(
    lam: float = 15_000.0, rank: int = 32, adaptor_steps: int = 100, adaptor_lr: float = 1e-3
) -> EditMethod:
    """MEMIT-seq with an adaptor that leads keys of perturbed subjects to the edited keys.

    Args:
        lam: see `memit_seq`.
        rank: see `robust_keys`.
        adaptor_steps: see `robust_keys`.
        adaptor_lr: see `robust_keys`.
    """
    return robust_keys(memit_seq(lam), rank, adaptor_steps, adaptor_lr)
