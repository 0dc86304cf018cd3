"""Intervals hold the truth as often as they say, families keep their error, verdicts theirs."""

import gc
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from seqedit.study.compare import interval
from seqedit.study.power import Spread, detectable_difference, spread, within_orders
from seqedit.study.statistics import (
    end_outcomes,
    mean_estimate,
    outcome_values,
    paired_estimate,
    student_estimate,
)
from seqedit.study.verdicts import change_family, holm, outcome_family, verdict

RUNS = 300


def table(rng, orders=3, requests=120, effect=0.0, by_order=0.0, by_request=0.3, rest=0.3):
    """Differences of shares with known sources of variation, (orders, requests)."""
    return pd.DataFrame(
        effect
        + by_order * rng.standard_normal((orders, 1))
        + by_request * rng.standard_normal((1, requests))
        + rest * rng.standard_normal((orders, requests))
    )


def pigeonhole(values, rng, resamples=499):
    """95 % interval of the bootstrap of orders and requests, each drawn with replacement."""
    x = values.to_numpy()
    orders, requests = (rng.multinomial(n, [1 / n] * n, size=resamples) / n for n in x.shape)
    return np.quantile(((orders @ x) * requests).sum(axis=1), [0.025, 0.975])


@pytest.mark.parametrize("orders, by_order", [(1, 0.0), (3, 0.0), (3, 0.03), (3, 0.2), (5, 0.03)])
def test_intervals_cover(orders, by_order):
    """95 % intervals hold a known effect in 93 % of simulations or more, less the noise of 300.

    Whether orders do not differ, differ as much as chance makes them (0.03) or dominate.
    """
    rng, held = np.random.default_rng(1), 0
    for i in range(RUNS):
        values = table(rng, orders, effect=0.05, by_order=by_order)
        found = mean_estimate(values, seed=i, resamples=499)
        held += found.low <= 5 <= found.high
        assert found.covers == ("requests only" if orders == 1 else "orders and requests")
        assert found.orders == orders and found.requests == 120
    # one in a hundred simulations of a method that covers 93 % would hold fewer
    assert binomtest(held, RUNS, 0.93, alternative="less").pvalue > 0.01, held / RUNS


def test_resampling_three_orders_covers_too_little():
    """The converse: with orders that differ, drawing three orders with replacement misses often."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(RUNS):
        low, high = pigeonhole(table(rng, effect=0.05, by_order=0.2), rng)
        held += low <= 0.05 <= high
    assert held / RUNS < 0.85


def test_resampling_requests_anew_in_each_order_covers_too_little():
    """Another converse: a hard request would count as three, were it drawn in each order anew."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(RUNS):
        x = table(rng, by_request=0.5, rest=0.1).to_numpy()
        drawn = rng.integers(x.shape[1], size=(299, *x.shape))
        means = np.take_along_axis(x[None], drawn, axis=2).mean(axis=(1, 2))
        low, high = np.quantile(means, [0.025, 0.975])
        held += low <= 0 <= high
    assert held / RUNS < 0.85


def test_pairing_makes_intervals_shorter():
    """What two methods share, hard requests and hard orders, leaves their difference alone."""
    rng = np.random.default_rng(3)
    shared = table(rng, by_order=0.2, by_request=0.5, rest=0.0)
    a, b = (shared + table(rng, by_request=0.0, rest=0.05) for _ in range(2))
    paired = paired_estimate(a + 0.1, b)
    assert paired.half < 0.2 * mean_estimate(a).half
    assert paired.mean == pytest.approx(100 * (a + 0.1 - b).to_numpy().mean())
    assert paired == paired_estimate(a + 0.1, b)  # seeded


def test_gaps_are_paired_by_label():
    """Requests are matched by case_id and orders by seed; what one of the two lacks is left out.

    Every order counts the same, whatever number of requests it has.
    """
    a = pd.DataFrame([[1.0, 0.0, 1.0], [1.0, 1.0, np.nan]], index=[1, 2], columns=[7, 8, 9])
    b = pd.DataFrame(
        [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], index=[2, 1, 3], columns=[9, 8, 7]
    )
    found = paired_estimate(a, b)  # order 1: 0, −1, 1; order 2: 1, 1
    assert found.mean == pytest.approx(50) and (found.orders, found.requests) == (2, 3)
    assert mean_estimate(a).mean == pytest.approx(100 * (2 / 3 + 1) / 2)
    with pytest.raises(ValueError, match="every order needs two requests with a value"):
        paired_estimate(a, b.rename(columns={7: 17, 8: 18}))


def test_none_of_forty_is_not_zero():
    """Equal values leave nothing to resample; the exact binomial limit stands in."""
    found = mean_estimate(pd.DataFrame(np.zeros((1, 40))))
    assert found.mean == 0 and found.p == 1
    exact = binomtest(0, 40).proportion_ci(0.95, method="exact").high
    assert found.high == pytest.approx(100 * exact) and found.low == -found.high
    assert verdict(found) == "undecided"
    assert verdict(mean_estimate(pd.DataFrame(np.zeros((1, 1000))))) == "equivalent"


def test_student_is_the_interval_of_the_book():
    """The fallback agrees with `compare.interval`; its p is below 5 % when 0 lies outside."""
    points = [4.0, 5.5, 3.0]
    mean, half = interval(points)
    found = student_estimate(points)
    assert found.mean == mean and found.low == pytest.approx(mean - half)
    assert found.high == pytest.approx(mean + half) and found.covers == "orders only"
    assert (found.p < 0.05) == (found.low > 0)
    for nothing in ([3.0], [0.0, 0.0, 0.0]):  # no spread to judge by
        assert math.isnan(student_estimate(nothing).half)
        assert verdict(student_estimate(nothing)) == "undecided"


def test_holm_by_hand():
    """p times the tests that are left, never falling; NaN is no test."""
    assert holm([0.01, 0.04, np.nan, 0.03]) == pytest.approx(
        [0.03, 0.06, np.nan, 0.06], nan_ok=True
    )
    assert math.isnan(holm([np.nan])[0])


@pytest.fixture
def quick_collections():
    """multipletests calls the garbage collector each time, which need not see what lives anyway."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collections")
def test_families_keep_their_error():
    """Six comparisons without any difference: the family has a false one in 5 % of cases.

    Without the correction it is several times that.
    """
    rng, false, alone = np.random.default_rng(4), 0, 0
    for i in range(RUNS):
        p = [mean_estimate(table(rng, 1, requests=80), seed=i, resamples=499).p for _ in range(6)]
        if min(p) < 0.05:  # a correction makes no p smaller
            alone += 1
            false += holm(p).min() < 0.05
    assert binomtest(false, RUNS, 0.07, alternative="greater").pvalue > 0.01, false / RUNS
    assert alone / RUNS > 0.15


@pytest.mark.parametrize("orders", [1, 3, 5])
def test_equivalence_at_the_margin_is_rare(orders):
    """A difference as large as the margin is called equivalent in 5 % of cases, 7 at most."""
    rng, equivalent, inside = np.random.default_rng(5), 0, 0
    for i in range(RUNS):
        at, zero = (
            table(rng, orders, effect=effect, by_request=0.1, rest=0.1) for effect in (0.05, 0.0)
        )
        equivalent += verdict(mean_estimate(at, seed=i, resamples=499), margin=5) == "equivalent"
        inside += verdict(mean_estimate(zero, seed=i, resamples=499), margin=5) == "equivalent"
    assert binomtest(equivalent, RUNS, 0.05, alternative="greater").pvalue > 0.01
    assert inside / RUNS > 0.9  # and it is said where it is true


def test_verdicts():
    """Each of the four, the margin, and a difference that is real and too small to matter."""
    rng = np.random.default_rng(6)

    def sure(effect):
        return mean_estimate(table(rng, 1, 4000, effect, by_request=0.0, rest=0.2))

    assert verdict(sure(0.05)) == "higher" and verdict(sure(-0.05)) == "lower"
    small = sure(0.01)
    assert small.p < 0.05 and verdict(small) == "equivalent"
    assert verdict(small, margin=0.5) == "higher" and verdict(small, 0.5, p=0.2) == "undecided"
    assert verdict(mean_estimate(table(rng, 1, 20))) == "undecided"


def test_families_of_changes():
    """Records give Student's p, tables of outcomes the bootstrap's; both are judged alike."""
    frame = pd.DataFrame(
        {"label": list("aaabbb"), "seed": [1, 2, 3] * 2, "x": [10, 11, 12, 20, 21.5, 21.5]}
    ).assign(y=50.0)
    found = change_family(frame, [("b", "a")], ["x", "y"])
    row = found.loc["b", "a", "x"]
    assert row["mean"] == 10 and row["verdict"] == "higher" and row["p_holm"] == row["p"]
    assert found.loc[("b", "a", "y"), "verdict"] == "undecided"  # no spread, no test
    rng = np.random.default_rng(7)
    a = table(rng, by_request=0.1)
    better = outcome_family({"a": a, "b": a + 0.2, "c": a}, [("b", "a"), ("c", "a")])
    assert list(better["verdict"]) == ["higher", "undecided"]  # equal on 120 requests: limit 3 %
    assert better.loc[("b", "a"), "p_holm"] == 2 * better.loc[("b", "a"), "p"]
    with pytest.raises(ValueError, match="label: 'd'; there are a"):
        outcome_family({"a": a}, [("d", "a")])


def test_outcome_values():
    """Marks are read as documented; what is left out counts neither way."""
    probes = pd.DataFrame(
        {
            "round": [0, 0, 1, 1],
            "case_id": [5, 6, 5, 6],
            "efficacy": ["3", "1", "0", "2"],
            "neighborhood": ["01", "..", "3.2", "1."],
        }
    )
    success = outcome_values(probes, "neighborhood", "success")
    assert success.loc[0, 5] == 0.5 and math.isnan(success.loc[0, 6])
    assert success.loc[1, 5] == 0.5 and success.loc[1, 6] == 1
    assert outcome_values(probes, "neighborhood", "exact").loc[1, 5] == 1
    ends = end_outcomes({1: probes, 2: probes[probes["round"] == 0]}, "efficacy", "exact")
    pd.testing.assert_frame_equal(
        ends, pd.DataFrame([[0.0, 1.0], [1.0, 0.0]], [1, 2], [5, 6]), check_names=False
    )
    with pytest.raises(ValueError, match="no column 'portability'; it has efficacy, neighborhood"):
        outcome_values(probes, "portability", "exact")
    with pytest.raises(ValueError, match="unknown marks 'x'"):
        outcome_values(probes.assign(efficacy="x"), "efficacy", "exact")


def test_spread_finds_its_components():
    """Mean over many tables of the squared components; three orders alone say little."""
    rng = np.random.default_rng(8)
    found = [spread(table(rng, 6, by_order=0.1, by_request=0.2, rest=0.3)) for _ in range(RUNS)]
    for name, value in (("orders", 10), ("requests", 20), ("rest", 30)):
        mean = np.mean([getattr(one, name) ** 2 for one in found])
        assert mean == pytest.approx(value**2, rel=0.1)  # 300 draws: 4 % for the orders
    with pytest.raises(ValueError, match="1 orders, and no two share a request"):
        spread(table(rng, 1))
    with pytest.raises(ValueError, match="an order with 1 requests"):
        within_orders(table(rng, 2, requests=1))


def test_spread_of_orders_that_share_some_requests():
    """The same components where each order has half of the requests."""
    rng = np.random.default_rng(8)
    found = []
    for _ in range(RUNS):
        whole = table(rng, 6, requests=240, by_order=0.1, by_request=0.2, rest=0.3)
        found.append(spread(whole.where(rng.random(whole.shape) < 0.5)))
    for name, value in (("orders", 10), ("requests", 20), ("rest", 30)):
        assert np.mean([getattr(one, name) ** 2 for one in found]) == pytest.approx(
            value**2, rel=0.1
        )
    scaled = Spread(1, 3, 4).of_total(10)
    assert (scaled.orders, scaled.requests, scaled.rest) == pytest.approx((1, 6, 8))


def grouped(rng, by_group=0.3, groups=24):
    """One order of 120 requests in groups that share what is hard about them."""
    own = pd.Series(np.arange(120) % groups)
    return table(rng, 1) + by_group * rng.standard_normal(groups)[own], own


def test_intervals_cover_where_requests_share_probes():
    """Drawn by groups they hold the truth; drawn one by one they do not: the converse."""
    rng, held = np.random.default_rng(4), {True: 0, False: 0}
    for i in range(RUNS):
        values, groups = grouped(rng)
        for by_group in held:
            found = mean_estimate(values, groups if by_group else None, seed=i, resamples=499)
            held[by_group] += found.low <= 0 <= found.high
    # 24 groups: a percentile interval covers a point or two less than it says
    assert binomtest(held[True], RUNS, 0.92, alternative="less").pvalue > 0.01, held
    assert held[False] / RUNS < 0.85
    alone = mean_estimate(values, pd.Series(dtype=object))  # requests without a group
    assert alone == mean_estimate(values)
    with pytest.raises(ValueError, match="all requests are in one group"):
        mean_estimate(values, groups * 0)


def test_scatter_of_groups():
    """`within_orders` is what the mean scatters by, over simulations."""
    rng = np.random.default_rng(5)
    made = [grouped(rng) for _ in range(RUNS)]
    means = np.array([100 * values.to_numpy().mean() for values, _ in made])
    within = np.mean([within_orders(*one) ** 2 for one in made])
    assert within / 120 == pytest.approx(means.var(), rel=0.25)  # 300 draws: 8 % twice
    assert within_orders(made[0][0]) < 0.8 * np.sqrt(within)


@pytest.mark.parametrize("orders, by_order", [(1, 0.0), (3, 0.0), (3, 0.1), (5, 0.1)])
def test_detectable_difference_is_detected(orders, by_order):
    """In about four of five studies, as asked."""
    rng, seen = np.random.default_rng(9), 0
    smallest = detectable_difference(Spread(100 * by_order, 30, 30), orders, 120)
    for i in range(RUNS):
        values = table(rng, orders, effect=smallest / 100, by_order=by_order)
        seen += mean_estimate(values, seed=i, resamples=499).p < 0.05
    assert 0.72 < seen / RUNS < 0.88  # three standard errors of 300 draws
    more = [detectable_difference(Spread(10, 30, 30), m, 120) for m in (2, 3, 5, 10)]
    assert more == sorted(more, reverse=True)
    assert (
        detectable_difference(Spread(0, 30, 0), 5, 400, comparisons=10)
        > (detectable_difference(Spread(0, 30, 0), 5, 400))
        == pytest.approx(2 * detectable_difference(Spread(0, 30, 0), 5, 1600), rel=0.02)
    )
