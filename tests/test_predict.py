"""What keys alone predict, and how records are compared."""

import math

import pandas as pd
import pytest
import torch

from seqedit.algebra.diagnostics import drift
from seqedit.methods.catalogue import METHODS
from seqedit.study import compare, plots
from seqedit.study.interference import reaches
from seqedit.study.studies import LIFELONG, STUDIES

D, M, ROUNDS, SIZE = 40, 24, 4, 5


@pytest.fixture
def keys():
    g = torch.Generator().manual_seed(0)
    K = torch.randn(D, ROUNDS * SIZE, generator=g, dtype=torch.float64)
    X = torch.randn(D, 200, generator=g, dtype=torch.float64)
    return (
        list(K.split(SIZE, dim=1)),
        X @ X.T / 200,
        torch.randn(D, 7, generator=g, dtype=torch.float64),
    )


@pytest.mark.parametrize("name", ["memit", "memit_seq", "encore", "alphaedit", "evoedit"])
def test_thm_interference(keys, name):
    """For orthogonal residuals the sum over rounds is exact; for random ones it is the mean."""
    rounds, C, probes = keys
    method = METHODS[name](
        **({"threshold": 0.6} if name in ("alphaedit", "evoedit") else {"lam": 1.0})
    )
    solver, remembers = method.solver(C), bool(method.history)
    found = list(reaches(solver, rounds, C, probes, remembers=remembers))

    def total(R):
        return sum(
            solver.update(
                K,
                R[:, i * SIZE : (i + 1) * SIZE],
                torch.cat(rounds[:i], dim=1) if remembers and i else None,
            )
            for i, K in enumerate(rounds)
        )

    own = total(
        torch.linalg.qr(
            torch.randn(
                M, ROUNDS * SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
            )
        ).Q
    )
    torch.testing.assert_close((own @ probes).square().sum(dim=0), sum(one.probes for one in found))
    assert drift(own, C) == pytest.approx(sum(one.drift for one in found))
    assert own.square().sum().item() == pytest.approx(sum(one.cost for one in found))
    g = torch.Generator().manual_seed(2)
    draws = [
        drift(total(torch.randn(M, ROUNDS * SIZE, generator=g, dtype=torch.float64) / M**0.5), C)
        for _ in range(300)
    ]
    mean, error = compare.interval(draws, level=0.999)  # one in a thousand seeds would miss
    assert abs(mean - sum(one.drift for one in found)) < error


def test_thm_interference_needs_residuals_that_share_nothing(keys):
    """The converse: with keys that share a direction, equal residuals add up.

    Their sum grows in proportion to the number of rounds, not to its root.
    """
    rounds, C, _ = keys
    rounds, common = [K + 2 for K in rounds], torch.full((D, 1), 2.0, dtype=torch.float64)
    solver = METHODS["memit"](lam=1.0).solver(C)
    expected = sum(one.probes for one in reaches(solver, rounds, C, common, remembers=False))
    equal = torch.ones(M, SIZE, dtype=torch.float64) / M**0.5
    assert (sum(solver.update(K, equal) for K in rounds) @ common).square().sum() > 2 * expected


def test_a_memory_makes_later_edits_smaller_and_dearer(keys):
    """With remembered keys, less of a new residual is written, and at a higher norm.

    Without remembered keys nothing changes. The keys of a round resemble those of the others.
    """
    rounds, C, probes = keys
    alike = [rounds[0] + 0.1 * K for K in rounds]
    for name in ("memit_seq", "memit"):
        found = list(
            reaches(
                METHODS[name](lam=0.1).solver(C), alike, C, probes, remembers=name == "memit_seq"
            )
        )
        first, last = found[0], found[-1]
        dearer = (last.cost / last.written**2) / (first.cost / first.written**2)
        if name == "memit_seq":
            assert last.written < 0.8 * first.written and dearer > 1.2
        else:
            assert last.written == pytest.approx(
                first.written, rel=0.1
            ) and dearer == pytest.approx(1, rel=0.3)


def test_intervals_and_differences():
    """Student's interval by hand; differences are paired; no minus before a zero."""
    mean, half = compare.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.302652729696 / math.sqrt(3))
    assert math.isnan(compare.interval([1.0])[1]) and compare.interval_ends([1.0, 2.0, 3.0]) == (
        mean - half,
        mean + half,
    )
    frame = pd.DataFrame({"label": list("aabb"), "seed": [1, 2, 2, 1], "x": [1.0, 5.0, 4.0, 2.0]})
    assert compare.paired_change(frame, "b", "a", "x") == (
        0.0,
        pytest.approx(12.706204736 * math.sqrt(2) / math.sqrt(2)),
    )
    shown = compare.means_table(frame, {"a": "A", "b": "B"}, {"x": "X"}, base="a", digits=0)
    assert list(shown["X"]) == ["3 ±\xa025", "0 ±\xa013"]
    assert (
        compare.plus_minus((-0.04, 0.2)) == "0.0 ±\xa00.2"
        and compare.plus_minus((-1.0, float("nan"))) == "−1.0"
    )
    with pytest.raises(ValueError, match="label: 'c'; there are a, b"):
        compare.values_by_seed(frame, "c", "x")


def test_published_numbers_have_their_source():
    frame = compare.published_numbers(
        model="Llama 3 8B", method="alphaedit", dataset="CounterFact", n_edits=2000
    )
    assert {"fang2025alphaedit, Table 1"} < {*frame["source"]} and frame["source"].notna().all()
    assert frame.loc[frame["status"] == "primary", "efficacy"].item() == 98.9


def test_figures_name_every_method_of_the_lifelong_study():
    """Each in one family, no colour twice in a panel."""
    grouped = [name for names in plots.FAMILIES.values() for name in names]
    planned = {one.method for one in STUDIES["lifelong"]()}
    assert len(grouped) == len(planned) and {*grouped} == planned >= {*LIFELONG}
    for names in plots.FAMILIES.values():
        assert len({*plots.colours(names).values()}) == len(names)
