"""How small a difference a study of given size can show."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from .statistics import ERROR, group_codes

STUDIES, DRAWS = 400, 40_000
"""Simulated studies, and draws of the error that each of them computes its p from."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of differences by source, in points of percent.

    Attributes:
        orders: between orders, beyond what their requests explain.
        requests: between requests, the same in all orders.
        rest: of a request in one order, neither of the two.
    """

    orders: float
    requests: float
    rest: float

    def of_total(self, within: float) -> "Spread":
        """The same where differences scatter otherwise within an order, `within_orders`; shared
        between requests and rest as here.
        """
        factor = within / np.hypot(self.requests, self.rest)
        return replace(self, requests=self.requests * factor, rest=self.rest * factor)


def within_orders(differences: pd.DataFrame, groups: pd.Series | None = None) -> float:
    """The standard deviation of the requests of an order; squared and divided by their number, it
    is the variance of their mean.

    Requests of one group vary together, so that with groups it is larger than that of single
    requests.

    Args:
        differences: shares, (orders, requests), with gaps.
        groups: see `seqedit.study.statistics.probe_groups`.

    Raises:
        ValueError: an order has fewer than two requests.

    Source: the variance of a mean that allows for clusters (Liang and Zeger, Biometrika 73 (1986)).
    """
    cells = 100 * differences.astype(float)
    counts = cells.count(axis=1)
    if (counts < 2).any():
        raise ValueError(f"differences: an order with {counts.min()} requests; two are needed")
    codes = group_codes(cells.columns, groups)
    squares, orders = 0.0, cells.sub(cells.mean(axis=1), axis=0).to_numpy()
    for own in orders:
        known = np.isfinite(own)
        sums = np.bincount(codes[known], weights=own[known])
        drawn = len(np.unique(codes[known]))
        squares += (sums**2).sum() / known.sum() * drawn / (drawn - 1)
    return float(np.sqrt(squares / len(orders)))


def spread(differences: pd.DataFrame, groups: pd.Series | None = None) -> Spread:
    """Components of the variance of differences; a negative one counts as 0.

    What a request contributes in every order is seen in those that two orders have in common.

    Args:
        differences: shares, (orders, requests), with gaps.
        groups: see `seqedit.study.statistics.probe_groups`.

    Raises:
        ValueError: fewer than two orders, or no two of them have a request in common.
    """
    cells = (100 * differences.astype(float)).to_numpy()
    known = np.isfinite(cells)
    pairs = [*combinations(range(len(cells)), 2)]
    shared = [int((known[a] & known[b]).sum()) for a, b in pairs]
    if not sum(shared):
        raise ValueError(f"differences: {len(cells)} orders, and no two share a request")
    means, counts = np.nanmean(cells, axis=1), known.sum(axis=1)
    apart = np.nan_to_num(cells - means[:, None])
    products = sum(float(apart[a] @ apart[b]) for a, b in pairs)
    alike = products / sum(shared) / ((apart**2).sum() / known.sum())
    alike = min(1.0, max(0.0, alike))
    total = within_orders(differences, groups) ** 2
    common = [n / (counts[a] * counts[b]) for n, (a, b) in zip(shared, pairs, strict=True)]
    explained = total * ((1 / counts).mean() - alike * np.mean(common))
    orders = max(0.0, float(means.var(ddof=1) - explained))
    parts = np.sqrt([orders, alike * total, (1 - alike) * total])
    return Spread(*map(float, parts))


def detectable_difference(
    found: Spread, orders: int, requests: int, *, power: float = 0.8, comparisons: int = 1
) -> float:
    """The smallest difference that a study shows with the given probability, in points.

    Studies are simulated, and each is judged as `seqedit.study.statistics.mean_estimate` does. With
    three orders the variance between them is known so badly that in a large family hardly any
    difference is shown. With one order it is about that order alone.

    Args:
        found: standard deviations of a comparable difference, see `spread`.
        orders, requests: size of the study.
        power: probability of showing the difference.
        comparisons: size of the family; the first step of Holm's correction.
    """
    tail = ERROR / comparisons / 2
    by_request, rest = found.requests**2 / requests, found.rest**2 / requests
    if orders == 1:
        return float(np.sqrt(by_request + rest) * (norm.isf(tail) + norm.ppf(power)))
    rng = np.random.default_rng(0)
    common = np.sqrt(by_request) * rng.standard_normal(STUDIES)
    means = np.sqrt(found.orders**2 + rest) * rng.standard_normal((STUDIES, orders))
    errors, between = common + means.mean(axis=1), means.var(axis=1, ddof=1)
    needed = [
        _largest_error(spread_of, by_request, rest, orders, tail, rng) - error
        for spread_of, error in zip(between, errors, strict=True)
    ]
    return float(np.quantile(needed, power))


def _largest_error(
    between: float,
    by_request: float,
    rest: float,
    orders: int,
    tail: float,
    rng: np.random.Generator,
) -> float:
    """The error that the draws of one study exceed with the probability `tail`.

    Args:
        between: variance of the means of its orders.
        by_request, rest: variance of the mean of one order by these sources.
    """
    z: NDArray[np.float64] = rng.standard_normal((2, DRAWS))
    pivot = between * (orders - 1) / rng.chisquare(orders - 1, DRAWS) - rest
    by_orders = z[0] * np.sqrt(np.clip(pivot, 0, None) / orders)
    return float(np.quantile(by_orders + z[1] * np.sqrt(by_request + rest / orders), 1 - tail))
