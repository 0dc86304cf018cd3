"""MEMIT and what is one step away from it: MEMIT with history, PMET, BIRD, RECT, PRUNE."""

import math
from dataclasses import replace

from ..editing.contract import EditMethod
from . import ranges
from .entry import method
from .kinds.locate_then_edit import LocateThenEdit
from .restraints import prune, rect
from .searches import merge_subjects

ALPHA = ranges.Range(1.005, math.e, above=1.0, high_may_stay="published")
"""Where PRUNE's base of the logarithm is searched: towards 1 the restraint becomes an amplifier."""


@method(
    source="MEMIT (2210.07229); code: kmeng01/memit, MIT",
    search=ranges.MEMIT,
    test={"lam": 0.5},
    colour="#1f77b4",
)
def memit(lam: float = 15_000.0) -> LocateThenEdit:
    r"""Ridge least squares that prices movement by λC, and forgets earlier edits.

    .. math::
        \Delta = R K^\top (\lambda C + K K^\top)^{-1}

    Each edited layer writes its share :math:`R = (z^* - h) / (\text{layers left})` of what is
    missing at the last one.

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless (published: 15,000
            for GPT-J, 20,000 for GPT2-XL).

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(memit(lam=1.0))
        [0.02, 1.961]
    """
    return LocateThenEdit(name="MEMIT", price=lambda C: lam * C)


@method(
    source="AlphaEdit (2410.02355) eq. 15; code: jianghoucheng/AlphaEdit, no licence",
    search=ranges.MEMIT,
    test={"lam": 0.5},
    colour="#1490ad",
)
def memit_seq(lam: float = 15_000.0) -> LocateThenEdit:
    r"""MEMIT with the keys of all earlier edits in the price: recursive least squares.

    .. math::
        \Delta = R K^\top (\lambda C + K_p K_p^\top + K K^\top)^{-1}

    :math:`K_p` holds the keys of all edits written so far.

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless (published: 15,000
            for GPT-J).

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(memit_seq(lam=1.0))
        [0.669, 0.662]
    """
    return replace(memit(lam), name="MEMIT-seq", history=1.0)


@method(
    source="PMET (2308.08742); code: xpq-tech/PMET, no licence",
    search=ranges.MEMIT,
    test={"lam": 0.5},
    colour="#008b8b",
    oracle="test_loop_of_methods.py::test_pmet_spreads_by_the_square_root",
)
def pmet(lam: float = 15_000.0) -> LocateThenEdit:
    r"""MEMIT that gives every layer but the last more of the residual: 1/√(layers left) of it.

    .. math::
        \Delta = R K^\top (\lambda C + K K^\top)^{-1}, \quad
        R = (z^* - h) / \sqrt{\text{layers left}}

    Departs from the paper, which finds targets for the outputs of attention and MLP together and
    writes those of the MLP. Here targets are those of MEMIT, so that the spread is what differs.

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless (published: 6,000 for
            GPT-J).

    Example:
        >>> pmet().residual_divisor(layers_left=4), memit().residual_divisor(layers_left=4)
        (2.0, 4.0)
    """
    return replace(memit(lam), name="PMET", spread="square root")


@method(
    source="BIRD (2310.10322); code: mjy1111/BAKE",
    search=ranges.MEMIT
    | {"alpha": ranges.Range(1e-5, 1.0, low_may_stay="the term then does nothing")},
    test={"lam": 0.5},
    colour="#4a7ebb",
    oracle="test_robustness.py::test_inverse_anchors",
)
def bird(lam: float = 15_000.0, alpha: float = 2e-4, beta: float = 1.0) -> LocateThenEdit:
    r"""MEMIT with targets that are also drawn to where the new object would find the subject.

    .. math::
        \Delta = R K^\top (\lambda C + K K^\top)^{-1}

    The target's loss gains a term for both directions of the relation, see `inverse_anchors`.

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless.
        alpha: α, weight of the term, per unit of residual-stream activation (published: 2e-4).
        beta: β, weight of moving away from the old object, dimensionless (published: 1).

    Example:
        >>> bird(alpha=2e-3).both_ways
        (0.002, 1.0)
    """
    return replace(memit(lam), name="BIRD", both_ways=(alpha, beta))


@method(
    source="RECT (2401.04700); code: JasonForJoy/Model-Editing-Hurt, no licence",
    search=ranges.MEMIT
    | {"share": ranges.Range(0.02, 1.0, log=False, high_may_stay="every entry is kept")},
    test={"lam": 0.5, "share": 0.4},
    colour="#9467bd",
    label="RECT",
)
def memit_rect(lam: float = 15_000.0, share: float = 0.4) -> EditMethod:
    r"""MEMIT that keeps the relatively largest entries of each update.

    .. math::
        \Delta = \text{the } share \text{ of entries of } R K^\top (\lambda C + K K^\top)^{-1}
        \text{ with the largest } |\Delta_{ij} / W_{ij}|

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless.
        share: share of the entries that are kept (published: 0.4).

    Example:
        >>> memit_rect().name
        'MEMIT+RECT'
    """
    return rect(memit(lam), share)


@method(
    source="PRUNE (2405.16821); code: mjy1111/PRUNE, no licence",
    search=ranges.MEMIT | {"alpha": ALPHA},
    test={"lam": 0.5, "alpha": 1.5},
    colour="#5e3c99",
    label="PRUNE",
)
def memit_prune(lam: float = 15_000.0, alpha: float = math.e) -> EditMethod:
    r"""MEMIT whose total update has its singular values restrained when the model is handed over.

    .. math::
        W_0 + F(W_T - W_0), \quad F(\sigma) = \log_\alpha \sigma - \log_\alpha \sigma_1(W_0)
        + \sigma_1(W_0) \text{ above } \sigma_1(W_0)

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless.
        alpha: α, base of the logarithm, above 1 (published: e).

    Example:
        >>> memit_prune().name
        'MEMIT+PRUNE'
    """
    return prune(memit(lam), alpha)


@method(
    source="MEMIT-Merge (2502.07322); code: NUSTM/MEMIT-Merge, not there yet",
    search=ranges.MEMIT,
    test={"lam": 0.5},
    colour="#2f6f9f",
    oracle="test_joint_targets.py::test_one_key_and_one_target_for_a_subject",
)
def memit_merge(lam: float = 15_000.0) -> EditMethod:
    r"""MEMIT with one key and one target for all edits of a round that share their subject.

    .. math::
        \Delta = R K^\top (\lambda C + K K^\top)^{-1}, \quad
        \delta_s = \arg\min_\delta \frac{1}{n_s} \sum_{i \text{ about } s} L_i(\delta)

    K and R have one column for each subject, the mean of those of its requests. Without shared
    subjects this is MEMIT.

    Args:
        lam: λ, weight of the preserved keys against one subject, dimensionless (published: 15,000
            for GPT-J, as for MEMIT).

    Example:
        >>> memit_merge().merged
        True
    """
    return replace(merge_subjects(memit(lam)), name="MEMIT-Merge")
