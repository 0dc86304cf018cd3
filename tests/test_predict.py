"""What keys alone predict, and how records are compared."""

import math

import pandas as pd
import pytest
import torch

from seqedit.algebra.diagnostics import drift
from seqedit.methods import METHODS
from seqedit.study import compare, plots
from seqedit.study.predict import reaches
from seqedit.study.studies import LIFELONG, STUDIES

D, M, ROUNDS, SIZE = 40, 24, 4, 5


@pytest.fixture
def keys():
    g = torch.Generator().manual_seed(0)
    K = torch.randn(D, ROUNDS * SIZE, generator=g, dtype=torch.float64)
    X = torch.randn(D, 200, generator=g, dtype=torch.float64)
    return list(K.split(SIZE, dim=1)), X @ X.T / 200, torch.randn(D, 7, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("name", ["memit", "memit_seq", "encore", "alphaedit", "evoedit"])
def test_thm_interference(keys, name):
    """For residuals that are orthogonal, the sum over rounds is exact; for random ones it is the mean."""
    rounds, C, probes = keys
    method = METHODS[name](**({"threshold": 0.6} if name in ("alphaedit", "evoedit") else {"lam": 1.0}))
    solver, remembers = method.solver(C), bool(method.history)
    found = list(reaches(solver, rounds, C, probes, remembers=remembers))

    def total(R):
        return sum(solver.update(K, R[:, i * SIZE:(i + 1) * SIZE],
                                 torch.cat(rounds[:i], dim=1) if remembers and i else None)
                   for i, K in enumerate(rounds))

    own = total(torch.linalg.qr(torch.randn(M, ROUNDS * SIZE, dtype=torch.float64,
                                            generator=torch.Generator().manual_seed(1))).Q)
    torch.testing.assert_close((own @ probes).square().sum(dim=0), sum(one.probes for one in found))
    assert drift(own, C) == pytest.approx(sum(one.drift for one in found))
    assert own.square().sum().item() == pytest.approx(sum(one.cost for one in found))
    g = torch.Generator().manual_seed(2)
    draws = [drift(total(torch.randn(M, ROUNDS * SIZE, generator=g, dtype=torch.float64) / M**0.5), C)
             for _ in range(300)]
    mean, error = compare.interval(draws, level=0.999)                    # one in a thousand seeds would miss
    assert abs(mean - sum(one.drift for one in found)) < error
    alike = total(torch.ones(M, ROUNDS * SIZE, dtype=torch.float64) / M**0.5)         # the converse: one direction
    assert drift(alike, C) != pytest.approx(sum(one.drift for one in found), rel=0.05)


def test_a_memory_makes_later_edits_smaller_and_dearer(keys):
    """What is written of a residual falls with remembered keys, and stays without them."""
    rounds, C, probes = keys
    for name, falls in (("memit_seq", True), ("memit", False)):
        method = METHODS[name](lam=1.0)
        found = list(reaches(method.solver(C), [rounds[0]] * 3, C, probes, remembers=falls))   # the same keys again
        assert (found[2].written < found[0].written - 1e-3) == falls
        assert falls or found[2].written == pytest.approx(found[0].written)


def test_intervals_and_differences():
    """Student's interval by hand; differences are paired; no minus before a zero."""
    mean, half = compare.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.302652729696 / math.sqrt(3))
    assert math.isnan(compare.interval([1.0])[1]) and compare.band([1.0, 2.0, 3.0]) == (mean - half, mean + half)
    frame = pd.DataFrame({"label": list("aabb"), "seed": [1, 2, 2, 1], "x": [1.0, 5.0, 4.0, 2.0]})
    assert compare.change(frame, "b", "a", "x") == (0.0, pytest.approx(12.706204736 * math.sqrt(2) / math.sqrt(2)))
    shown = compare.table(frame, {"a": "A", "b": "B"}, {"x": "X"}, base="a", digits=0)
    assert list(shown["X"]) == ["3 ± 25", "0 ± 13"]
    assert compare.plus_minus((-0.04, 0.2)) == "0.0 ± 0.2" and compare.plus_minus((-1.0, float("nan"))) == "−1.0"
    with pytest.raises(ValueError, match="label: 'c'; there are a, b"):
        compare.of_label(frame, "c", "x")


def test_published_numbers_have_their_source():
    frame = compare.published(model="Llama 3 8B", method="alphaedit", dataset="CounterFact", n_edits=2000)
    assert {"fang2025alphaedit, Table 1"} < {*frame["source"]} and frame["source"].notna().all()
    assert frame.loc[frame["status"] == "primary", "efficacy"].item() == 98.9


def test_figures_name_every_method_of_the_lifelong_study():
    """Each in one family, no colour twice in a panel."""
    grouped = [name for names in plots.FAMILIES.values() for name in names]
    planned = {one.method for one in STUDIES["lifelong"]()}
    assert len(grouped) == len(planned) and {*grouped} == planned >= {*LIFELONG}
    for names in plots.FAMILIES.values():
        assert len({*plots.colours(names).values()}) == len(names)
