"""Systems of the literature that are a method with something after it."""

import math

from ..editing.contract import EditMethod
from .alphaedit import alphaedit
from .combinators import (
    averaged,
    compensated,
    curvature,
    prune_rounds,
    revive,
    robust_keys,
    sphere,
    with_history,
)
from .entry import method
from .fine_tuned import ft_m
from .from_gradients import mend
from .memit import ALPHA, memit, memit_rect, memit_seq
from .ranges import Choice, Range, Search
from .rerun import iterated, simie
from .rome import rome
from .searches import neighbour_assisted

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


@method(
    name="memit+iterated",
    source="iterative editing (2503.11895); code: bhimanbaghel/ResolveUnderOverEdit, MIT",
    search={"iterations": Choice((2, 3, 5))},
    test={"lam": 0.5, "iterations": 3},
    colour="#0b559f",
    label="MEMIT, iterated",
    oracle="test_rerun.py::test_iterated_is_its_steps",
)
def memit_iterated(lam: float = 15_000.0, iterations: int = 5) -> EditMethod:
    """MEMIT that searches targets and writes them several times in every round.

    Args:
        lam: see `memit`.
        iterations: see `iterated`.
    """
    return iterated(memit(lam), iterations)


@method(
    name="memit+neighbour_assisted+iterated",
    source="neighbour-assisted editing (2503.11895); bhimanbaghel/ResolveUnderOverEdit, MIT",
    search={"iterations": Choice((2, 3, 5)), "neighbours": 1},
    test={"lam": 0.5, "iterations": 2},
    colour="#5a7fa8",
    label="MEMIT, neighbours, iterated",
    oracle="test_joint_targets.py::test_neighbours_enter_the_loss",
)
def memit_neighbours(lam: float = 15_000.0, neighbours: int = 2, iterations: int = 5) -> EditMethod:
    """Iterated MEMIT whose targets also keep the objects of the subject's neighbours.

    Args:
        lam: see `memit`.
        neighbours: see `neighbour_assisted`.
        iterations: see `iterated`.
    """
    return iterated(neighbour_assisted(memit(lam), neighbours), iterations)


SIMIE: Search = {
    "simie_ridge": Range(
        1e-2,
        1e5,
        low_may_stay="the original weights then hold nothing back",
        high_may_stay="published order of magnitude",
    )
}
SIMIE_ORACLE = "test_rerun.py::test_simie_joins_single_edits"
SIMIE_SOURCE = "SimIE; code: YamingGuo98/SimIE, MIT"


@method(
    name="rome+simie",
    source=SIMIE_SOURCE,
    search=SIMIE,
    test={"simie_ridge": 3.0},
    colour="#8b1a1a",
    oracle=SIMIE_ORACLE,
)
def rome_simie(simie_ridge: float = 1e4) -> EditMethod:
    """ROME's single edits of the original model, joined by recursive least squares.

    Args:
        simie_ridge: see `simie`.
    """
    return simie(rome(), simie_ridge)


@method(
    name="ft_m+simie",
    source=SIMIE_SOURCE,
    search=SIMIE,
    test={"lr": 1e-2, "steps": 3, "simie_ridge": 3.0},
    colour="#22346e",
    oracle=SIMIE_ORACLE,
)
def ft_m_simie(
    lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2, simie_ridge: float = 1e4
) -> EditMethod:
    """FT-M's single edits of the original model, joined by recursive least squares.

    Args:
        lr: see `ft_m`.
        steps: see `ft_m`.
        stop_loss: see `ft_m`.
        simie_ridge: see `simie`.
    """
    return simie(ft_m(lr, steps, stop_loss), simie_ridge)


@method(
    name="mend+simie",
    source=SIMIE_SOURCE,
    search=SIMIE,
    test={"simie_ridge": 3.0},
    colour="#5f5f5f",
    oracle=SIMIE_ORACLE,
)
def mend_simie(network: str = "mend", simie_ridge: float = 1e4) -> EditMethod:
    """MEND's single edits of the original model, joined by recursive least squares.

    Args:
        network: see `mend`.
        simie_ridge: see `simie`.
    """
    return simie(mend(network), simie_ridge)


@method(
    name="ft_m+averaged",
    source="the merging baseline of WikiBigEdit (2503.05683), there for LoRA; code: MIT",
    search={"mix": Range(0.02, 1.0, log=False, high_may_stay="the new weights alone")},
    test={"lr": 1e-2, "steps": 3, "mix": 0.5},
    colour="#7b5ea7",
    oracle="test_rerun.py::test_averaged_weights_are_between_old_and_new",
)
def ft_m_averaged(
    lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2, mix: float = 0.5
) -> EditMethod:
    """FT-M of which the average with the original weights is handed over.

    Args:
        lr: see `ft_m`.
        steps: see `ft_m`.
        stop_loss: see `ft_m`.
        mix: see `averaged`.
    """
    return averaged(ft_m(lr, steps, stop_loss), mix)
