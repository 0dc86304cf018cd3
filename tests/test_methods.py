"""The table of methods: names and parameters, parity with oracles, subspaces, composition.

Solves run in float64 on metrics of condition number below 1e3: 1e-9 leaves three digits to spare.
"""

import math
from functools import partial
from pathlib import Path

import oracles
import pytest
import torch
from conftest import relative

from seqedit.algebra.subspace import null_space as subspace_of
from seqedit.methods.catalogue import (
    COMBINATORS,
    METHODS,
    alphaedit,
    betaedit,
    compensated,
    make_method,
    memit,
    memit_seq,
    method_parameters,
    null_space,
    prune,
    r_rome,
    rome,
    with_history,
    without_history,
)
from seqedit.methods.locate_then_edit import LocateThenEdit, residuals
from seqedit.runs.config import RunConfig
from seqedit.runs.resolve import resolve

TAU, L2, LAM = 0.5, 0.3, 2.0
PARAMETERS = {
    "memit": {"lam": LAM},
    "memit_seq": {"lam": LAM},
    "r_rome": {},
    "rome": {},
    "alphaedit": {"threshold": TAU, "l2": L2},
    "evoedit": {"threshold": TAU, "l2": L2},
    "nas": {"threshold": TAU, "l2": L2},
    "betaedit": {"threshold": TAU, "lam": LAM, "l2": L2},
    "emmet": {"lam": LAM, "ridge": 0.7},
    "encore": {"lam": LAM, "gamma": 0.4},
    "rlsedit": {"lam": LAM, "gamma": 0.4},
    "lyaplock": {"lam": LAM, "budget": 2.0},
    "bird": {"lam": LAM},
    "nse_paper": {"lam": LAM, "mass": 0.6},
    "nse": {"lam": LAM, "mass": 0.6},
    "memit_rect": {"lam": LAM, "share": 0.3},
    "memit_prune": {"lam": LAM, "alpha": 1.5},
}
BASES = {name: partial(make_method, name, **parameters) for name, parameters in PARAMETERS.items()}
LOCATE = sorted(name for name in METHODS if isinstance(make_method(name), LocateThenEdit))
LINEAR = sorted(set(BASES) - {"memit_rect"})  # the update is R times something
SPANNED = sorted(
    set(BASES) - {"memit_rect", "nse_paper", "nse"}
)  # and its rows are not cut to some neurons
EXACT = 1e-9


class Case:
    """Random keys, residuals, a second moment with half of its spectrum below τ, and three past keys."""

    def __init__(self, n: int = 2, d_ff: int = 10, d_model: int = 4, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def random(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.K, self.R, self.W, self.bare = (
            random(d_ff, n),
            random(d_model, n),
            random(d_model, d_ff),
            random(d_ff, n),
        )
        self.past_keys = random(d_ff, 3)
        self.W = 0.1 * self.W  # small enough for PRUNE to bite
        Q = torch.linalg.qr(random(d_ff, d_ff))[0]
        self.C = (Q * torch.linspace(0.02, 1.2, d_ff, dtype=torch.float64)) @ Q.T

    def solve(self, method):
        """What one round adds to W, which is also W₀ here."""
        solver, past = method.solver(self.C), self.past_keys if method.history else None
        update = (
            solver.update_neurons(self.K, self.R, method.neurons(self.K), past)
            if method.neurons
            else solver.update(self.K, self.R, past)
        )
        if method.restrain_update:
            update = method.restrain_update(self.W, self.W, update)
        return method.restrain_total(self.W, update) if method.restrain_total else update


@pytest.fixture
def case():
    return Case()


def test_oracle_parity(case, errors):
    """Every method's update is the one its paper prints."""
    keys, values, past = (oracles.columns(A) for A in (case.K, case.R, case.past_keys))
    P = oracles.projection(case.C, TAU)
    expected = {
        "memit": oracles.memit(keys, values, LAM, case.C),
        "memit_seq": oracles.memit_seq(keys, values, LAM, case.C, past),
        "alphaedit": oracles.alphaedit(keys, values, P, L2, past),
        "rome": oracles.emmet(keys, values, case.C),
        "r_rome": oracles.emmet(keys, values, case.C),
        "emmet": oracles.emmet(keys, values, LAM * case.C, 0.7),
        "encore": oracles.memit_seq(
            keys, values, 1.0, LAM * case.C + 0.4 * torch.eye(10, dtype=torch.float64), past
        ),
        "lyaplock": oracles.memit(
            keys, values, LAM, case.C
        ),  # its first round; tests/test_lyaplock.py
        "bird": oracles.memit(keys, values, LAM, case.C),  # its targets: tests/test_robustness.py
        "rlsedit": oracles.rlsedit(keys, values, LAM, 0.4, case.C, past),
        "evoedit": oracles.evoedit(keys, values, P, L2, past),
        "nas": oracles.alphaedit(
            keys, values, P, L2, past
        ),  # its targets: tests/test_loop_of_methods.py
        "betaedit": oracles.betaedit(keys, values, P, LAM, L2, case.C, past),
        "nse_paper": oracles.nse(keys, values, LAM, case.C, past, 0.6),
        "nse": oracles.nse(keys, values, LAM, case.C, past, 0.6, released=True),
        "memit_rect": oracles.rect(case.W, oracles.memit(keys, values, LAM, case.C), 0.3),
        "memit_prune": oracles.prune(case.W, oracles.memit(keys, values, LAM, case.C), 1.5),
    }
    assert relative(expected["memit_prune"], expected["memit"]) > 0.1  # the restraint acts here
    assert set(expected) == set(BASES) == set(LOCATE)
    for name, update in expected.items():
        if name not in ("rome", "r_rome", "lyaplock", "nas"):  # more than a solve: tested elsewhere
            errors(name, "oracle", relative(case.solve(BASES[name]()), update))
        assert relative(case.solve(BASES[name]()), update) < EXACT, name


@pytest.mark.parametrize("name", LOCATE)
def test_order_of_requests_does_not_matter(case, name):
    method = BASES[name]()
    update = case.solve(method)
    case.K, case.R = case.K.flip(1), case.R.flip(1)
    assert relative(case.solve(method), update) < EXACT


@pytest.mark.parametrize("name", LINEAR)
def test_one_request_gives_rank_one(name):
    values = torch.linalg.svdvals(Case(n=1).solve(BASES[name]()))
    assert values[1] < 1e-12 * values[0]


@pytest.mark.parametrize("name", SPANNED)
def test_null_space_of_any_base_stays_in_the_subspace(case, name):
    """One line of projection: nothing is written outside the span of B, and drift obeys its bound."""
    method = null_space(BASES[name](), TAU)
    update, P = case.solve(method), oracles.projection(case.C, TAU)
    assert (update @ P - update).norm() < 1e-12 * update.norm()
    assert torch.trace(update @ case.C @ update.T) <= TAU * update.norm() ** 2
    assert method.name == f"{BASES[name]().name}+projection"
    if name not in ("alphaedit", "evoedit", "nas", "betaedit"):  # which are projected already
        outside = case.solve(BASES[name]())
        assert (outside @ P - outside).norm() > 1e-2 * outside.norm()


def test_composition(case):
    """AlphaEdit is ridge, with history, projected, in either order; MEMIT with history is MEMIT-seq."""
    seen = with_history(memit(LAM))
    assert (
        torch.equal(case.solve(seen), case.solve(memit_seq(LAM))) and seen.name == "MEMIT+history"
    )
    one, other = (
        null_space(with_history(memit(LAM)), TAU),
        with_history(null_space(memit(LAM), TAU)),
    )
    assert torch.equal(case.solve(one), case.solve(other))
    assert (one.name, other.name) == ("MEMIT+history+projection", "MEMIT+projection+history")
    everything = alphaedit(threshold=1e9, l2=L2)  # a threshold that removes nothing:
    keys, values, past = (oracles.columns(A) for A in (case.K, case.R, case.past_keys))
    eye = torch.eye(10, dtype=torch.float64)  # … ridge with history
    assert relative(case.solve(betaedit(TAU, 0.0, L2)), case.solve(alphaedit(TAU, L2))) < EXACT
    assert relative(case.solve(everything), oracles.memit_seq(keys, values, L2, eye, past)) < EXACT


def test_switches_for_comparison(case):
    """Without history MEMIT-seq is MEMIT; rewinding is a field of the method, for methods that find targets."""
    assert torch.equal(case.solve(without_history(memit_seq(LAM))), case.solve(memit(LAM)))
    assert (
        make_method("memit_seq+rewind").rewind
        and make_method("memit_seq+rewind").name == "MEMIT-seq+rewinding"
    )
    with pytest.raises(ValueError, match=r"rewind\(FT\): the method finds no targets"):
        make_method("ft+rewind")
    with pytest.raises(
        ValueError, match=r"without_history\(GRACE\): the method solves no least squares"
    ):
        make_method("grace+without_history")


def test_history_changes_methods_that_have_it(case):
    """Past keys matter to the methods with history, and to no other."""
    with_past = {name: case.solve(make()) for name, make in BASES.items()}
    case.past_keys = torch.zeros_like(case.past_keys)
    changed = {
        name for name, make in BASES.items() if relative(case.solve(make()), with_past[name]) > 1e-3
    }
    assert changed == {
        "memit_seq",
        "alphaedit",
        "evoedit",
        "nas",
        "betaedit",
        "encore",
        "rlsedit",
        "nse_paper",
        "nse",
    }


def test_r_rome_interpolates_at_its_averaged_key(errors):
    """W + Δ maps the averaged key exactly to v*: the residual is measured where the update reads."""
    case = Case(n=1)
    target = case.W @ case.bare + case.R  # v* − (bias), defined at the bare prompt
    method = r_rome()
    written = residuals(method, case.R, case.K, case.bare, case.W, method.solver(case.C))
    update = method.solver(case.C).update(case.K, written)
    assert relative((case.W + update) @ case.K, target) < EXACT
    expected = oracles.rome(case.K[:, 0], (target - case.W @ case.K)[:, 0], case.C)
    assert errors("r_rome", "oracle", relative(update, expected)) < EXACT


def test_rome_scale_is_the_released_one(errors):
    """Direction from the averaged key, scale from the bare one: the released formula, exact at the bare key only."""
    case = Case(n=1)
    method = rome()
    written = residuals(method, case.R, case.K, case.bare, case.W, method.solver(case.C))
    update = method.solver(case.C).update(case.K, written)
    expected = oracles.rome_released(case.K[:, 0], case.bare[:, 0], case.R[:, 0], case.C)
    assert errors("rome", "oracle", relative(update, expected)) < EXACT
    assert (
        relative(update @ case.bare, case.R) < EXACT
    )  # exact at the bare key, where it was measured
    assert relative(update @ case.K, case.R) > 1e-2  # and off at the key it reads along


def test_rome_and_r_rome_agree_when_the_keys_do():
    """With the bare prompt as the only context both are the paper's ROME."""
    case = Case(n=1)
    expected = oracles.rome(case.K[:, 0], case.R[:, 0], case.C)
    for method in (rome(), r_rome()):
        written = residuals(method, case.R, case.K, case.K, case.W, method.solver(case.C))
        assert relative(method.solver(case.C).update(case.K, written), expected) < EXACT


def test_table():
    """The names of the command line, their parameters and defaults, and what each method needs."""
    assert {name: method_parameters(name) for name in METHODS} == {
        "rome": {},
        "r_rome": {},
        "memit": {"lam": 15_000.0},
        "memit_seq": {"lam": 15_000.0},
        "alphaedit": {"threshold": 2e-2, "l2": 10.0},
        "evoedit": {"threshold": 2e-2, "l2": 1.0},
        "nas": {"threshold": 2e-2, "l2": 10.0},
        "betaedit": {"threshold": 2e-2, "lam": 3_000.0, "l2": 10.0},
        "emmet": {"lam": 10_000.0, "ridge": 0.1},
        "encore": {"lam": 15_000.0, "gamma": 10.0, "patience": 3},
        "rlsedit": {"lam": 15_000.0, "gamma": 10.0},
        "bird": {"lam": 15_000.0, "alpha": 2e-4, "beta": 1.0},
        "lyaplock": {"lam": 15_000.0, "budget": 60.0},
        "ultraedit": {"eta": 1e-6, "ridge": 1.0},
        "rledit": {"network": "rledit"},
        "rledit_released": {"network": "rledit_released"},
        "mend": {"network": "mend"},
        "ft": {"lr": 5e-4, "steps": 25, "stop_loss": 1e-2},
        "ft_m": {"lr": 5e-4, "steps": 25, "stop_loss": 1e-2},
        "ft_l": {"lr": 5e-4, "steps": 25, "stop_loss": 1e-2, "epsilon": 5e-4},
        "grace": {"radius": 1.0},
        "nse_paper": {"lam": 15_000.0, "mass": 0.8, "done_below": 15.0, "hopeless_from": 100.0},
        "nse": {"lam": 15_000.0, "mass": 0.8, "done_below": 15.0, "hopeless_from": 100.0},
        "memit_rect": {"lam": 15_000.0, "share": 0.4},
        "memit_prune": {"lam": 15_000.0, "alpha": math.e},
    }
    made = {name: make_method(name) for name in METHODS}
    assert [m.name for m in made.values()] == [
        "ROME",
        "r-ROME",
        "MEMIT",
        "MEMIT-seq",
        "EMMET",
        "ENCORE",
        "RLSEdit",
        "LyapLock",
        "BIRD",
        "AlphaEdit",
        "EvoEdit",
        "BetaEdit",
        "NAS",
        "NSE",
        "NSE (paper)",
        "MEMIT+RECT",
        "MEMIT+PRUNE",
        "UltraEdit",
        "RLEdit",
        "RLEdit (released)",
        "MEND",
        "FT",
        "FT-L",
        "FT-M",
        "GRACE",
    ]
    assert {name for name, m in made.items() if m.one_at_a_time} == {"rome", "r_rome"}
    made = {name: made[name] for name in LOCATE}
    assert {name for name, m in made.items() if m.mu == 0} == {"rome", "r_rome"}
    assert {name for name, m in made.items() if m.directions} == {
        "alphaedit",
        "evoedit",
        "betaedit",
        "nas",
    }
    assert {name for name, m in made.items() if m.history} == {
        "memit_seq",
        "alphaedit",
        "evoedit",
        "betaedit",
        "nas",
        "encore",
        "rlsedit",
        "nse_paper",
        "nse",
    }
    assert {name for name, m in made.items() if m.anchored} == {"nas"}
    assert {name for name, m in made.items() if m.patience} == {"encore"}
    assert {(m.site, m.average) for m in made.values()} == {("mlp", "uniform"), ("block", "groups")}


@pytest.mark.parametrize("combine", [null_space, with_history, compensated])
@pytest.mark.parametrize("name", ["ft", "grace"])
def test_combinators_that_need_a_solve(combine, name):
    method = make_method(name)
    with pytest.raises(
        ValueError,
        match=f"{combine.__name__}\\({method.name}\\): the method solves no least squares",
    ):
        combine(method)


def test_parameters_reach_the_method(case):
    method = make_method("alphaedit", threshold=0.7, l2=3.0)
    spaces = [method.directions(case.C), subspace_of(case.C, 0.7), subspace_of(case.C, 0.3)]
    ranks = [space.basis.shape[1] for space in spaces]
    assert ranks[0] == ranks[1] != ranks[2]
    assert method.history and method.price(case.C) == 3.0
    assert torch.equal(make_method("memit", lam=4.0).price(case.C), 4.0 * case.C)


@pytest.mark.parametrize("call", [make_method, method_parameters])
def test_unknown_method(call):
    with pytest.raises(
        ValueError,
        match="no method named 'nosuch'; known are rome, r_rome, memit, memit_seq, emmet",
    ):
        call("nosuch")


def test_unknown_parameter():
    with pytest.raises(
        ValueError, match="alphaedit has no parameter 'lam'; it takes threshold, l2"
    ):
        make_method("alphaedit", lam=1.0)
    with pytest.raises(ValueError, match="rome has no parameter 'lam'; it takes none"):
        make_method("rome", lam=1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nse+rect+compensated",
            "NSE.RECT: compensation is for methods that solve for whole updates",
        ),
        (
            "ultraedit+with_history+rect+compensated",
            "compensation is for methods that solve for whole updates",
        ),
        ("emmet+with_history+rect+compensated", "with μ = 1"),
        ("rome+with_history+rect+compensated", "with μ = 1"),
        (
            "lyaplock+with_history",
            r"with_history\(LyapLock\): it solves for all earlier edits in every round already",
        ),
    ],
)
def test_compositions_that_would_do_nothing(name, message):
    """What a writer would not act on is refused, not carried along in the name."""
    with pytest.raises(ValueError, match=message):
        make_method(name)


def test_names_compose(case):
    """`memit+with_history+prune` is prune(with_history(memit(…))), each part taking its own parameters."""
    named = make_method("memit+with_history+null_space+prune", lam=LAM, threshold=TAU, alpha=1.5)
    built = prune(null_space(with_history(memit(LAM)), TAU), 1.5)
    assert named.name == built.name == "MEMIT+history+projection+PRUNE"
    assert torch.equal(case.solve(named), case.solve(built))
    assert method_parameters("memit+rect") == {"lam": 15_000.0, "share": 0.4}
    for name in METHODS:
        for combine in COMBINATORS:
            if not method_parameters(name).keys() & method_parameters(f"memit+{combine}").keys() - {
                "lam"
            }:
                assert set(method_parameters(f"{name}+{combine}")) >= set(method_parameters(name))


def test_short_names(tiny_lm):
    """`rect` and `prune` alone are those of MEMIT, and a run is recorded under the registered name."""
    assert (
        make_method("rect").name == "MEMIT+RECT"
        and make_method("prune", alpha=2.0).name == "MEMIT+PRUNE"
    )
    assert make_method("rect+with_history").name == make_method("memit_rect+with_history").name
    assert method_parameters("prune") == method_parameters("memit_prune")
    config = RunConfig(model="", requests=Path(), method="rect+with_history", settings={"layers": [1]})
    assert resolve(config, tiny_lm()).method == "memit_rect+with_history"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "memit+nosuch",
            r"memit\+nosuch: nothing named 'nosuch' follows a method; known are null_space, with_history",
        ),
        ("nosuch+rect", "no method named 'nosuch'"),
        (
            "alphaedit+null_space",
            "null_space takes threshold, as another part does; compose them in Python",
        ),
        ("memit+rect+revive", "revive takes share, as another part does"),
    ],
)
def test_names_that_do_not_compose(name, message):
    with pytest.raises(ValueError, match=message):
        make_method(name)
