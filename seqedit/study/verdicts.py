"""The verdicts of the book: families of paired differences, with one rule for all chapters."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from .compare import ACCURACY, values_by_seed
from .statistics import ERROR, Estimate, Floats, paired_estimate, student_estimate

Verdict = Literal["higher", "lower", "equivalent", "undecided"]

MARGIN = 2.0
"""Differences below this many points are of no practical importance: twenty of a thousand facts."""


def verdict(estimate: Estimate, margin: float = MARGIN, p: float | None = None) -> Verdict:
    """What may be said of a difference.

    * equivalent: the 90 % interval lies inside ± `margin`, two one-sided tests at 5 % (TOST). It
      comes first: a difference that is shown to be smaller than the margin does not matter, also if
      it is shown not to be 0.
    * higher, lower: p is below 5 %.
    * undecided: neither. That a difference is not significant is no reason to say that there is
      none.

    Args:
        estimate: the difference, in points.
        margin: of equivalence, in points.
        p: corrected for the family; the estimate's own if there is no family.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987), for the two one-sided tests.
    """
    if -margin < estimate.inner_low and estimate.inner_high < margin:
        return "equivalent"
    if (estimate.p if p is None else p) < ERROR:
        return "higher" if estimate.mean > 0 else "lower"
    return "undecided"


def holm(p: Sequence[float] | Floats) -> Floats:
    """p corrected for the family by Holm, so that 5 % bounds the rate of any false rejection.

    NaN, a test that could not be made, stays NaN and does not count.
    """
    found = np.asarray(p, dtype=float).copy()
    tested = np.isfinite(found)
    if tested.any():
        found[tested] = multipletests(found[tested], ERROR, method="holm")[1]
    return found


def judge(estimates: Mapping[Hashable, Estimate], margin: float = MARGIN) -> pd.DataFrame:
    """A family of differences with corrected p and verdicts.

    All that is read together is one family: all differences of a table, or all of a chapter.
    Equivalence is not corrected; its 5 % hold for each difference alone.

    Args:
        estimates: name → difference.
        margin: of equivalence, in points.

    Returns:
        One row per name: the fields of `Estimate`, `p_holm`, `verdict`.
    """
    frame = pd.DataFrame([asdict(one) for one in estimates.values()], index=pd.Index(estimates))
    corrected = holm(frame["p"].to_numpy(dtype=float))
    verdicts = [
        verdict(one, margin, p) for one, p in zip(estimates.values(), corrected, strict=True)
    ]
    return frame.assign(p_holm=corrected, verdict=verdicts)


def change_family(
    frame: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    columns: Iterable[str] = tuple(ACCURACY),
    margin: float = MARGIN,
) -> pd.DataFrame:
    """The differences label − base of columns of evaluations, paired by seed, as one family.

    For records without a table of probes: intervals and p are Student's, over seeds.

    Args:
        frame: as `seqedit.study.compare.ends` returns it.
        pairs: (label, base) of each comparison.
        columns: of `frame`, in percent.
        margin: of equivalence, in points.

    Returns:
        As `judge`, indexed by label, base and column.
    """
    found: dict[Hashable, Estimate] = {}
    for label, base in pairs:
        for column in columns:
            change = values_by_seed(frame, label, column) - values_by_seed(frame, base, column)
            found[label, base, column] = student_estimate(change.dropna())
    return judge(found, margin).rename_axis(["label", "base", "column"])


def outcome_family(
    outcomes: Mapping[str, pd.DataFrame],
    pairs: Iterable[tuple[str, str]],
    margin: float = MARGIN,
    groups: pd.Series | None = None,
) -> pd.DataFrame:
    """The differences label − base of outcomes, paired by order and request, as one family.

    Args:
        outcomes: label → `seqedit.study.statistics.end_outcomes` of its runs.
        pairs: (label, base) of each comparison.
        margin: of equivalence, in points.
        groups: of requests that share probes, see `seqedit.study.statistics.probe_groups`.

    Returns:
        As `judge`, indexed by label and base.

    Raises:
        ValueError: there is no such label, or two labels have no requests in common.
    """
    pairs = [*pairs]
    if missing := sorted({name for pair in pairs for name in pair} - {*outcomes}):
        raise ValueError(f"label: {', '.join(map(repr, missing))}; there are {', '.join(outcomes)}")
    found: dict[Hashable, Estimate] = {
        pair: paired_estimate(outcomes[pair[0]], outcomes[pair[1]], groups) for pair in pairs
    }
    return judge(found, margin).rename_axis(["label", "base"])
