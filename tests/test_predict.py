"""What keys alone predict, and how records are compared."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from seqedit.algebra.diagnostics import drift
from seqedit.methods.catalogue import METHODS
from seqedit.study import compare, plots
from seqedit.study.growth import fit_growth, growth_fits
from seqedit.study.interference import later_reach, rank_broken, rank_broken_within, reaches
from seqedit.study.predictors import (
    DAMAGE,
    QUANTITIES,
    compare_predictors,
    damage_points,
    left_out_errors,
)
from seqedit.study.small_world import LIFELONG
from seqedit.study.studies import STUDIES

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


SOLVING = ["memit", "memit_seq", "encore", "alphaedit", "evoedit"]


class Updates:
    """What a method makes of given rounds of keys: updates are residuals times gains, Δ_t = R_tG_t.

    Attributes:
        reach: `reaches` of every round.
        gain: G, all rounds' gains below each other, (edits, D).
        felt: Γ, (edits, edits); column t,j holds what unit residuals of earlier rounds add at key
            t,j; 0 for edits of the same round and of later ones.
    """

    def __init__(self, name, rounds, C, probes):
        settings = {"threshold": 0.6} if name in ("alphaedit", "evoedit") else {"lam": 1.0}
        method = METHODS[name](**settings)
        self.rounds, self.remembers = rounds, bool(method.history)
        self.solver = method.solver(C)
        self.reach = list(reaches(self.solver, rounds, C, probes, remembers=self.remembers))
        unit = torch.eye(SIZE, dtype=torch.float64)
        self.gain = torch.cat([self.round(i, unit) for i in range(ROUNDS)])
        self.felt = self.gain @ torch.cat(rounds, dim=1)
        number = torch.arange(ROUNDS).repeat_interleave(SIZE)
        self.felt[number[:, None] >= number] = 0

    def round(self, i, R):
        """The update of one round."""
        past = torch.cat(self.rounds[:i], dim=1) if self.remembers and i else None
        return self.solver.update(self.rounds[i], R, past)

    def drawn(self, R):
        """W_T − W₀ for residuals that are given."""
        return sum(self.round(i, part) for i, part in enumerate(R.split(SIZE, dim=1)))

    def run(self, Y):
        """W_T − W₀ and all residuals, for residuals measured on the weights as they are by then.

        Args:
            Y: targets minus what the unedited matrix says, V − W₀K.
        """
        total, residuals = torch.zeros(len(Y), D, dtype=torch.float64), []
        for i, part in enumerate(Y.split(SIZE, dim=1)):
            residuals.append(part - total @ self.rounds[i])
            total = total + self.round(i, residuals[-1])
        return total, torch.cat(residuals, dim=1)


def orthogonal(seed=1):
    """Residuals of all edits, orthonormal, (M, edits)."""
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(M, ROUNDS * SIZE, dtype=torch.float64, generator=g)).Q


@pytest.mark.parametrize("name", SOLVING)
def test_thm_interference(keys, name):
    """For orthogonal residuals the sum over rounds is exact; for random ones it is the mean.

    In a run residuals are measured on weights that earlier rounds have moved; with Y in their place
    and (I + Γ)⁻¹G in place of G it is exact again, and the plain sum is wrong.
    """
    rounds, C, probes = keys
    case = Updates(name, rounds, C, probes)
    own = case.drawn(orthogonal())
    expected = sum(one.drift for one in case.reach)
    at_probes = sum(one.probes for one in case.reach)
    torch.testing.assert_close((own @ probes).square().sum(dim=0), at_probes)
    assert drift(own, C) == pytest.approx(expected)
    assert own.square().sum().item() == pytest.approx(sum(one.cost for one in case.reach))

    effective = torch.linalg.solve(torch.eye(ROUNDS * SIZE) + case.felt, case.gain)
    run, residuals = case.run(orthogonal())
    torch.testing.assert_close(
        (run @ probes).square().sum(dim=0), (effective @ probes).square().sum(dim=0)
    )
    assert drift(run, C) == pytest.approx(drift(effective, C))
    overlap = residuals.T @ residuals
    assert (overlap - overlap.diag().diag()).abs().max() > 1e-2  # not uncorrelated any more
    lengths = overlap.diag().reshape(ROUNDS, SIZE).mean(dim=1)
    measured = sum(rho.item() * one.drift for rho, one in zip(lengths, case.reach, strict=True))
    assert abs(measured / drift(run, C) - 1) > 1e-3

    g = torch.Generator().manual_seed(2)

    def draw():
        return torch.randn(M, ROUNDS * SIZE, generator=g, dtype=torch.float64) / M**0.5

    for total, mean in (
        (case.drawn, expected),
        (lambda Y: case.run(Y)[0], drift(effective, C)),
    ):
        found, error = compare.interval([drift(total(draw()), C) for _ in range(300)], level=0.999)
        assert abs(found - mean) < error  # one in a thousand seeds would miss


@pytest.mark.parametrize("name", ["memit", "memit_seq"])
def test_interference_of_a_run_where_rounds_do_not_meet(name):
    """If no round reaches the keys of a later one, residuals stay as drawn and the sum is exact."""
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64)).Q
    rounds, C = list((3 * Q[:, : ROUNDS * SIZE]).split(SIZE, dim=1)), torch.eye(D).double()
    case = Updates(name, rounds, C, Q[:, :7])
    run, residuals = case.run(orthogonal())
    torch.testing.assert_close(residuals, orthogonal())
    assert drift(run, C) == pytest.approx(sum(one.drift for one in case.reach))


@pytest.mark.parametrize("name", ["memit_seq", "evoedit"])
def test_interference_of_a_run_with_history(keys, name):
    """With a history the effective gain is that of one round with all edits.

    With one of unlimited weight (EvoEdit) it is not.
    """
    rounds, C, probes = keys
    case = Updates(name, rounds, C, probes)
    effective = torch.linalg.solve(torch.eye(ROUNDS * SIZE) + case.felt, case.gain)
    unit = torch.eye(ROUNDS * SIZE, dtype=torch.float64)
    joint = case.solver.update(torch.cat(rounds, dim=1), unit)
    apart = ((effective - joint).norm() / joint.norm()).item()
    assert apart < 1e-9 if name == "memit_seq" else apart > 1e-2


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


def test_later_reach(keys):
    """By hand for MEMIT: the later rounds alone, each by its whitened similarity."""
    rounds, C, _ = keys
    found = later_reach(METHODS["memit"](lam=2.0).solver(C), rounds, C, remembers=False)
    for s, i in ((0, 0), (1, 3), (ROUNDS - 1, 2)):
        k = rounds[s][:, i]
        total = sum(
            (K.T @ torch.linalg.solve(2.0 * C + K @ K.T, k)).square().sum() for K in rounds[s + 1 :]
        )
        assert found[s * SIZE + i].item() == pytest.approx(float(total) ** 0.5)
    assert (found[-SIZE:] == 0).all()  # nothing comes after the last round


def test_broken_facts_are_ranked_by_what_reaches_them(keys):
    """Values at edited keys are moved by later residuals; those moved most count as broken.

    The score ranks them well, within a round as well; a shuffled score does not.
    """
    _, C, _ = keys
    g = torch.Generator().manual_seed(3)
    K = torch.randn(D, 240, generator=g, dtype=torch.float64)
    K[:, ::2] *= 0.3  # near nothing that later rounds write to
    rounds, owner = list(K.split(20, dim=1)), np.arange(240) // 20
    solver = METHODS["memit"](lam=1.0).solver(C)
    moved = torch.zeros(M, 240, dtype=torch.float64)
    for t, own in enumerate(rounds):
        R = torch.randn(M, own.shape[1], generator=g, dtype=torch.float64)
        moved += torch.where(torch.from_numpy(owner) < t, solver.update(own, R) @ K, 0.0)
    kept = (moved.norm(dim=0) < moved.norm(dim=0)[:-20].median()).numpy()
    scores = later_reach(solver, rounds, C, remembers=False).numpy()
    for found in (rank_broken(scores, kept), rank_broken_within(scores, kept, owner)):
        assert found.auc > 0.8 and found.low > 0.7 and found.low < found.auc < found.high
    shuffled = np.random.default_rng(0).permutation(scores)
    for found in (rank_broken(shuffled, kept), rank_broken_within(shuffled, kept, owner)):
        assert found.low < 0.5 < found.high


def test_ranking_within_rounds_takes_age_out():
    """A score that knows the age alone ranks well over a run and says nothing within a round."""
    rng = np.random.default_rng(0)
    rounds = np.repeat(np.arange(10), 30)
    kept = rng.random(300) < rounds / 10
    age = 10.0 - rounds
    assert rank_broken(age, kept).low > 0.7
    assert rank_broken(age, kept).auc == pytest.approx(roc_auc_score(~kept, age))
    assert rank_broken_within(age, kept, rounds).auc == 0.5
    with pytest.raises(ValueError, match="300 of 300 facts are kept"):
        rank_broken(age, np.ones(300, dtype=bool))
    with pytest.raises(ValueError, match="0 of 10 rounds hold both"):
        rank_broken_within(age, rounds > 4, rounds)


@pytest.mark.parametrize("shape", ["exponential", "linear", "root"])
def test_growth_is_recognised(shape):
    """Each curve is told from the two others, and the exponential rate is found."""
    n = np.arange(50, 1001, 50)
    curve = {"exponential": 2 * np.exp(0.002 * n), "linear": 1 + n / 50, "root": 1 + n**0.5}[shape]
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(20))
    found = fit_growth(n.tolist(), (curve * noise).tolist())
    assert found.shape == shape and getattr(found, shape) > 0.99
    if shape == "exponential":
        assert found.rate == pytest.approx(0.2, rel=0.05) and found.r2_log > 0.99
    frame = pd.DataFrame({"label": "a", "seed": 1, "layer": 0, "edits": n, "x": curve})[::-1]
    row = growth_fits(frame, ["x"]).iloc[0]
    assert row["shape"] == shape and row["ratio"] == pytest.approx(curve[-1] / curve[0])
    with pytest.raises(ValueError, match="found 3 of which 2 are positive"):
        fit_growth([1, 2, 3], [1.0, 0.0, 2.0])


@pytest.fixture(scope="module")
def lifelong():
    rounds = compare.rounds("lifelong")
    return damage_points(compare.evaluations("lifelong"), rounds), rounds


def test_points_have_quantities_and_group(lifelong):
    """One group holds the nine solvers at the first three layers; PRUNE and GRACE have no points.

    Quantities are those of the layer that is worst.
    """
    points, rounds = lifelong
    solvers = points.loc[points["editors"] == "solvers, layers 0, 1, 2", "label"].unique()
    assert len(solvers) == 9 and {"memit", "nse", "evoedit"} <= {*solvers}
    assert not {"rome", "ultraedit", "mend", "ft_m"} & {*solvers}
    assert not {"memit_prune", "grace"} & {*points["label"]}
    row = points[(points["label"] == "memit") & (points["seed"] == 1)].iloc[0]
    own = rounds[(rounds["label"] == "memit") & (rounds["seed"] == 1)]
    own = own[own["edits"] == row["edits"]]
    assert len(own) == 3 and row["sigma"] == own["sigma"].max()
    assert row[DAMAGE[0]] == 100 - row["unrelated_facts"]


def test_within_a_group_and_pooled_are_different_questions(lifelong):
    """A quantity that orders one kind of editor need not order several, and is told from those that
    do.

    Synthetic: in each group damage rises with sigma, at scales that differ a hundredfold.
    """
    points, _ = lifelong
    family = {name: title for title, names in plots.FAMILIES.items() for name in names}
    solvers = points.loc[points["editors"] == "solvers, layers 0, 1, 2", "label"].unique()
    rng = np.random.default_rng(0)
    made = points.assign(**{q: rng.random(len(points)) for q in QUANTITIES})
    scale = np.where(made["label"].isin(solvers), 1, 0.01)
    made["sigma"] = scale * (1 + made[DAMAGE[0]])
    groups = {"pooled": points["label"].unique(), "solvers": solvers}
    found = compare_predictors(made, groups, family).set_index(["group", "damage", "quantity"])
    within, pooled = (found.loc[(group, DAMAGE[0], "sigma")] for group in ("solvers", "pooled"))
    assert within["all_points"] == pytest.approx(1) and within["end_means"] == pytest.approx(1)
    assert pooled["all_points"] < 0.8
    assert within["error"] < 0.5 * pooled["error"] and within["error"] < 0.3 * within["baseline"]
    assert within["editors"] == 9 and set(within["changes"]) == {*solvers}
    assert found.loc[("solvers", DAMAGE[0], "kappa"), "error"] > 0.8 * within["baseline"]
    with pytest.raises(ValueError, match="predictions need two families"):
        left_out_errors(made, "sigma", DAMAGE[0], dict.fromkeys(points["label"], "one"))
    with pytest.raises(ValueError, match="'alphaedit', .* have no family"):
        left_out_errors(made, "sigma", DAMAGE[0], {"memit": "one", "nse": "two"})


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
    assert list(shown["X"]) == ["3\xa0±\xa025", "0\xa0±\xa013"]
    assert (
        compare.plus_minus((-0.04, 0.2)) == "0.0\xa0±\xa00.2"
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
    every = compare.published_numbers()
    assert {*every["metric"]} == {"success", "exact", "tokens", "wild"}
    assert every["protocol"].str.len().min() > 0 and every["n_edits"].notna().all()
    kinds = ["efficacy", "paraphrase", "neighborhood"]
    shares = every[kinds].to_numpy(dtype=float)
    assert every["efficacy"].notna().all() and 0 <= np.nanmin(shares) <= np.nanmax(shares) <= 100
    told = every.drop(columns=kinds)
    assert not told.duplicated().any()  # no number twice


def test_figures_name_every_method_of_the_lifelong_study():
    """Each in one family, no colour twice in a panel."""
    grouped = [name for names in plots.FAMILIES.values() for name in names]
    planned = {one.method for one in STUDIES["lifelong"]()}
    assert len(grouped) == len(planned) and {*grouped} == planned >= {*LIFELONG}
    for names in plots.FAMILIES.values():
        assert len({*plots.colours(names).values()}) == len(names)
