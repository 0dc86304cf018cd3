"""Estimates with intervals, families of comparisons and verdicts, from one value per order and
request.

A study edits nearly the same requests in several orders (seeds), so orders and requests are two
crossed sources of variation: a request that is hard is hard in every order, and an order that ends
badly ends badly for all its requests. An interval has to allow for both.

Requests are resampled once across all orders, whole columns of the table (orders, requests). Were
they drawn anew within each order, a hard request would count as three independent ones. Two methods
are compared by the differences of their values, cell by cell, so both meet the same draws.

Requests that share probes are not independent either: all that ask for one relation and had the
same object before draw their neighbours from one pool, and thousands of probes are a few hundred
facts. Such requests, a group, are drawn together.

Orders are not resampled. Owen's pigeonhole bootstrap draws them with replacement as well, but a
study has three, and resampled means of three values never leave their range: with orders that
differ, its 95 % intervals cover 75 to 85 % (a test measures it). The variance between orders is
taken from its generalised pivotal quantity instead (Weerahandi): the spread of order means, divided
by a draw of χ² over its degrees of freedom, less what the requests alone explain. Where orders
dominate, that is Student's t over orders; where they do not differ, the interval stays wider than
one that ignores them, because three orders cannot show that they do not. In simulations with two to
five orders 94 to 99 % of the intervals hold the truth.

Source: Owen, The pigeonhole bootstrap, Ann. Appl. Stat. 1 (2007); Weerahandi, Generalized
confidence intervals, J. Am. Stat. Assoc. 88 (1993).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap, ttest_1samp

Floats = NDArray[np.float64]

ERROR = 0.05
"""Rate of error; intervals cover 1 − ERROR."""

RESAMPLES = 9999


@dataclass(frozen=True)
class Estimate:
    """A mean of shares, or of differences of shares, in points of percent.

    Attributes:
        mean: over orders of the mean over requests.
        low, high: ends of the 95 % interval.
        inner_low, inner_high: ends of the 90 % interval, which decides about equivalence.
        p: two-sided, of the hypothesis that the mean is 0.
        orders: how many orders it is made of.
        requests: how many requests; None if only means of orders are known.
        covers: what the interval generalises to.
    """

    mean: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    p: float
    orders: int
    requests: int | None
    covers: Literal["orders and requests", "requests only", "orders only"]

    @property
    def half(self) -> float:
        """Half the length of the 95 % interval."""
        return (self.high - self.low) / 2


def outcome_values(
    probes: pd.DataFrame, kind: str, measure: Literal["success", "exact"]
) -> pd.Series:
    """Share of a request's probes that are right, indexed by round and case_id.

    Args:
        probes: one row per `round` and `case_id`, with one character per probe in the column of
            each kind: "0" neither, "1" success only, "2" exact only, "3" both, "." left out.
        kind: the column, such as "efficacy".
        measure: "success", the right target is the more probable one; "exact", every token of it
            is the greedy one.

    Returns:
        Values between 0 and 1; NaN where no probe is left.

    Raises:
        ValueError: there is no such kind, or a character that means nothing.
    """
    if kind not in probes:
        kinds = ", ".join(str(name) for name in probes if name not in ("round", "case_id"))
        raise ValueError(f"kind: the table of probes has no column {kind!r}; it has {kinds}")
    marks = probes.set_index(["round", "case_id"])[kind].fillna("").astype(str)
    if unknown := sorted(set("".join(marks)) - set("0123.")):
        raise ValueError(
            f"probes.{kind}: unknown marks {', '.join(map(repr, unknown))}; "
            "a mark is 0, 1, 2, 3 or a dot"
        )
    right = sum(marks.str.count(mark) for mark in ("13" if measure == "success" else "23"))
    asked = marks.str.count("[0-3]")
    return (right / asked.where(asked > 0)).rename(kind)


def end_outcomes(
    probes: Mapping[int, pd.DataFrame], kind: str, measure: Literal["success", "exact"]
) -> pd.DataFrame:
    """Values after the last evaluated round of each order, (orders, requests).

    Args:
        probes: seed of an order → its table of probes.
        kind, measure: as in `outcome_values`.
    """
    ends = {
        seed: outcome_values(own[own["round"] == own["round"].max()], kind, measure).droplevel(0)
        for seed, own in probes.items()
    }
    return pd.DataFrame(ends).T


def probe_groups(outcomes: pd.DataFrame) -> pd.Series:
    """case_id → group of requests that share probes, see `seqedit.runs.measure.pool_of`.

    Args:
        outcomes: of a run, see `seqedit.runs.records.Record`.

    Raises:
        ValueError: the run was made before groups were kept.
    """
    if "pool" not in outcomes:
        raise ValueError("outcomes: has no column 'pool'; make the run again with `seqedit study`")
    return outcomes.drop_duplicates("case_id").set_index("case_id")["pool"]


def mean_estimate(
    values: pd.DataFrame,
    groups: pd.Series | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The mean with its interval over orders and requests; over requests only for a single order.

    Requests are resampled, the variance between orders comes from its pivotal quantity; the
    module's text has the reasons. Where all values are equal nothing can be resampled, and the
    interval is as long as the exact binomial one for none of n.

    Args:
        values: shares or differences of shares, (orders, requests); NaN where an order lacks a
            request. Every order counts the same.
        groups: request → group of requests that are drawn together, see `probe_groups`; a request
            without one stands alone, as all do without `groups`.
        seed: of the resampling; the same seed gives the same interval.
        resamples: how many.

    Raises:
        ValueError: an order has fewer than two values, or all requests are one group.
    """
    known = values.dropna(axis=0, how="all").dropna(axis=1, how="all")
    if known.empty or (known.notna().sum(axis=1) < 2).any():
        raise ValueError(
            "values: every order needs two requests with a value; found "
            f"{ {k: int(n) for k, n in values.notna().sum(axis=1).items()} }"
        )
    cells = 100 * known.to_numpy(dtype=float)  # (orders, requests), points
    mean = float(np.nanmean(cells, axis=1).mean())
    codes = group_codes(known.columns, groups)
    draws = mean + _deviations(cells, codes, np.random.default_rng(seed), resamples)
    tails = np.array([ERROR / 2, ERROR])
    lows, highs = np.quantile(draws, tails), np.quantile(draws, 1 - tails)
    if np.nanmax(cells) == np.nanmin(cells):
        limit = 100 * (1 - tails ** (1 / (codes.max() + 1)))
        lows, highs = lows - limit, highs + limit
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    return Estimate(
        mean,
        low=float(lows[0]),
        high=float(highs[0]),
        inner_low=float(lows[1]),
        inner_high=float(highs[1]),
        p=min(1.0, 2 * (1 + float(beyond)) / (1 + len(draws))),
        orders=len(cells),
        requests=cells.shape[1],
        covers="orders and requests" if len(cells) > 1 else "requests only",
    )


def group_codes(requests: pd.Index, groups: pd.Series | None) -> NDArray[np.int64]:
    """The number of each request's group, from 0 on."""
    if groups is None:
        return np.arange(len(requests))
    own = groups.reindex(requests)
    alone = pd.Series([("", one) for one in requests], index=own.index)
    codes = pd.factorize(own.where(own.notna(), alone))[0]
    if codes.max() == 0:
        raise ValueError("groups: all requests are in one group, which leaves nothing to resample")
    return codes


def _deviations(
    cells: Floats, codes: NDArray[np.int64], rng: np.random.Generator, resamples: int
) -> Floats:
    """Draws of the estimate's error.

    Args:
        cells: (orders, requests); NaN where an order lacks a request.
        codes: number of each request's group.
    """
    orders, is_in = len(cells), np.eye(codes.max() + 1)[codes]  # (requests, groups)
    sums, counts = np.nan_to_num(cells) @ is_in, np.isfinite(cells) @ is_in  # (orders, groups)
    found = bootstrap(
        (*sums, *counts),
        lambda *parts, axis: np.stack([part.sum(axis=axis) for part in parts]),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // sums.size),  # bounds memory
        method="percentile",
        rng=rng,
    )
    total, known = np.split(found.bootstrap_distribution, 2)  # (orders, resamples) each
    whole = (known > 0).all(axis=0)  # a resample may hold none of a short order's requests
    drawn, means = total[:, whole] / known[:, whole], np.nanmean(cells, axis=1)
    by_requests = drawn.mean(axis=0) - means.mean()
    if orders == 1:
        return np.asarray(by_requests)
    between = means.var(ddof=1)
    explained = max(0.0, drawn.var(axis=0, ddof=1).mean() - between)
    pivot = between * (orders - 1) / rng.chisquare(orders - 1, whole.sum()) - explained
    by_orders = rng.standard_normal(len(pivot)) * np.sqrt(np.clip(pivot, 0, None) / orders)
    return np.asarray(by_requests + by_orders)


def paired_estimate(
    values: pd.DataFrame,
    base: pd.DataFrame,
    groups: pd.Series | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """`mean_estimate` of the difference, paired by order and request; what only one of the two
    tables has is left out.

    Args:
        values, base: (orders, requests), labelled by seed and case_id.
        groups: as for `mean_estimate`.

    Raises:
        ValueError: an order has fewer than two requests in common.
    """
    orders = values.index.intersection(base.index)
    requests = values.columns.intersection(base.columns)
    difference = values.loc[orders, requests] - base.loc[orders, requests]
    return mean_estimate(difference, groups, seed=seed, resamples=resamples)


def student_estimate(points: Iterable[float]) -> Estimate:
    """Student's interval and p for a mean over orders whose requests are not known one by one.

    It generalises to other orders of these requests. A single order has neither interval nor p, and
    neither have orders that are all equal: their spread says nothing then.

    Args:
        points: one value per order, in points of percent.
    """
    x = np.asarray([*points], dtype=float)
    p, wide, narrow = np.nan, (np.nan, np.nan), (np.nan, np.nan)
    if len(x) > 1 and np.ptp(x) > 0:
        test = ttest_1samp(x, 0)
        p, wide = test.pvalue, test.confidence_interval(1 - ERROR)
        narrow = test.confidence_interval(1 - 2 * ERROR)
    return Estimate(
        float(x.mean()),
        low=float(wide[0]),
        high=float(wide[1]),
        inner_low=float(narrow[0]),
        inner_high=float(narrow[1]),
        p=float(p),
        orders=len(x),
        requests=None,
        covers="orders only",
    )
