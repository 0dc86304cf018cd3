"""How small a difference a study of given size can show."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.power import TTestPower

from .statistics import ERROR


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


def spread(differences: pd.DataFrame) -> Spread:
    """Components of variance of a table without gaps, from its mean squares.

    Args:
        differences: shares, (orders, requests); requests that an order lacks are left out.

    Raises:
        ValueError: fewer than two orders or two requests are left.

    Source: two-way crossed random effects without replication (Searle, Casella, McCulloch, Variance
    Components, 1992, ch. 4); a negative component counts as 0.
    """
    cells = 100 * differences.dropna(axis=1).to_numpy(dtype=float)
    m, n = cells.shape
    if min(m, n) < 2:
        raise ValueError(
            f"differences: {m} orders with {n} requests in common; components of variance "
            "need two of each"
        )
    by_order, by_request = cells.mean(axis=1), cells.mean(axis=0)
    rest = cells - by_order[:, None] - by_request + cells.mean()
    error = (rest**2).sum() / ((m - 1) * (n - 1))
    order = max(0.0, by_order.var(ddof=1) - error / n)
    request = max(0.0, by_request.var(ddof=1) - error / m)
    return Spread(*(float(np.sqrt(one)) for one in (order, request, error)))


def nested_spread(differences: pd.DataFrame) -> Spread:
    """Components of variance where each order has requests of its own.

    How alike the outcomes of one request are in two orders is then unknown. All that varies within
    an order is counted as the requests' own, as if they were alike, which more orders of the same
    requests do not average out: the cautious reading.

    Args:
        differences: shares, (orders, requests), with gaps.

    Raises:
        ValueError: there are fewer than two orders, or one has fewer than two requests.

    Source: one-way random effects (Searle, Casella, McCulloch, Variance Components, 1992, ch. 3); a
    negative component counts as 0.
    """
    cells = 100 * differences.astype(float)
    counts, within = cells.count(axis=1), cells.var(axis=1)
    if len(cells) < 2 or (counts < 2).any():
        raise ValueError(
            f"differences: {len(cells)} orders with at least {counts.min()} requests; components "
            "of variance need two of each"
        )
    freedom = counts - 1
    pooled = float((within * freedom).sum() / freedom.sum())
    between = float(cells.mean(axis=1).var()) - pooled * float((1 / counts).mean())
    return Spread(orders=max(0.0, between) ** 0.5, requests=pooled**0.5, rest=0.0)


def detectable_difference(
    found: Spread, orders: int, requests: int, *, power: float = 0.8, comparisons: int = 1
) -> float:
    """The smallest difference that a study shows with the given probability, in points.

    The t-test of a mean whose variance is orders² / m + requests² / n + rest² / mn, with the
    degrees of freedom of Satterthwaite. With one order it is about that order alone.

    Args:
        found: standard deviations of a comparable difference, see `spread`.
        orders, requests: size of the study.
        power: probability of showing the difference.
        comparisons: size of the family; the first step of Holm's correction.
    """
    by_requests = found.requests**2 / requests
    by_orders = (found.orders**2 + found.rest**2 / requests) / orders
    if orders == 1:
        by_requests, by_orders = by_requests + found.rest**2 / requests, 0.0
    variance = by_orders + by_requests
    freedom = variance**2 / (
        by_orders**2 / max(1, orders - 1) + by_requests**2 / max(1, requests - 1)
    )
    effect = TTestPower().solve_power(  # in units of the deviation of one of freedom + 1 values
        nobs=freedom + 1, alpha=ERROR / comparisons, power=power, alternative="two-sided"
    )
    return float(np.squeeze(effect) * np.sqrt((freedom + 1) * variance))
