"""The table of methods: names and parameters, parity with oracles, subspaces, composition.

Solves run in float64 on metrics of condition number below 1e3: 1e-9 leaves three digits to spare.
"""

import doctest
import importlib
from dataclasses import dataclass, fields
from pathlib import Path

import oracles
import pytest
import torch
from conftest import relative
from oracles import Case

from seqedit.algebra.subspace import null_space as subspace_of
from seqedit.editing.contract import EditMethod
from seqedit.lm.target_loss import TargetConfig
from seqedit.methods.alphaedit import alphaedit, betaedit
from seqedit.methods.catalogue import (
    CATALOGUE,
    COMPOSED,
    METHODS,
    make_method,
    method_parameters,
)
from seqedit.methods.combinators import (
    COMBINATORS,
    compensated,
    null_space,
    prune,
    with_history,
    without_history,
)
from seqedit.methods.describe import code_of, describe
from seqedit.methods.entry import Entry, method
from seqedit.methods.kinds.least_squares import LeastSquares
from seqedit.methods.kinds.locate_then_edit import LocateThenEdit
from seqedit.methods.kinds.residuals import rome_residual
from seqedit.methods.memit import memit, memit_seq
from seqedit.methods.rome import r_rome, rome
from seqedit.runs.config import RunConfig
from seqedit.runs.resolve import resolve

PACKAGE = Path(__file__).resolve().parents[1] / "seqedit"
ORACLE = Entry.oracle
TAU, L2, LAM = 0.5, 0.3, 2.0
SOLVING = sorted(
    name
    for name, entry in CATALOGUE.items()
    if "+" not in name and isinstance(entry.make(), LocateThenEdit)
)
LINEAR = sorted(set(SOLVING) - {"memit_rect"})  # the update is R times something
SPANNED = sorted(set(LINEAR) - {"nse_paper", "nse"})  # and not cut to some neurons
EXACT = 1e-9


def made(name: str) -> EditMethod:
    """A method with the parameters that its entry has for tests."""
    return make_method(name, **CATALOGUE[name].test)


def solve(case: Case, method: EditMethod) -> torch.Tensor:
    """What one round adds to W, which is also W₀ here."""
    solver, past = method.solver(case.C), case.past_keys if method.history else None
    if method.neurons:
        update = solver.update_neurons(case.K, case.R, method.neurons(case.K), past)
    else:
        update = solver.update(case.K, case.R, past)
    if method.restrain_update:
        update = method.restrain_update(case.W, case.W, update)
    return method.restrain_total(case.W, update) if method.restrain_total else update


@pytest.fixture
def case():
    return Case()


@pytest.mark.parametrize("name", SOLVING)
def test_oracle_parity(case, errors, name):
    """A method's update is the one its paper prints."""
    expected = oracles.UPDATES[name](case, CATALOGUE[name].test)
    error = relative(solve(case, made(name)), expected)
    if CATALOGUE[name].oracle == ORACLE:  # else it is more than a solve, and tested elsewhere
        errors(name, "oracle", error)
    assert error < EXACT


def test_prune_acts_on_the_case(case):
    """The restraint changes the update, so that the parity of `memit_prune` says something."""
    without = solve(case, memit(**CATALOGUE["memit"].test))
    assert relative(solve(case, made("memit_prune")), without) > 0.1


def contrast_on_white(colour: str) -> float:
    """The contrast ratio of WCAG 2 between a colour, "#rrggbb", and white."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 1.05 / (luminance + 0.05)


@pytest.mark.parametrize("name", CATALOGUE)
def test_entry(name):
    """Summary, formula and every parameter are documented; the named tests are there."""
    entry = CATALOGUE[name]
    assert 20 < len(entry.summary) <= 95 and entry.source
    assert "+" in name or entry.formula
    for parameter, about in entry.parameters.items():
        assert about.meaning, f"{name}: say what {parameter} is in the docstring's Args"
    assert contrast_on_white(entry.colour) >= 3  # what WCAG asks of graphics
    file, _, test = entry.oracle.partition("::")
    assert f"def {test}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")
    assert set(entry.test) <= set(method_parameters(name))
    targets = {field.name for field in fields(TargetConfig)} | {"layers"}
    assert set(entry.search) <= set(method_parameters(name)) | targets


def test_entries_are_told_apart():
    """No name, method name or colour is given twice; a second method of one name is refused."""
    names = [make_method(name).name for name in CATALOGUE]
    colours = [entry.colour for entry in CATALOGUE.values()]
    assert len(set(names)) == len(names) and len(set(colours)) == len(colours)
    with pytest.raises(ValueError, match="'memit' is in the catalogue already"):
        method(source="", search={}, test={}, colour="#000000")(memit)


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_entry_is_its_name(name):
    """The constructor of a composed system is what its name spells."""
    assert CATALOGUE[name].make().name == make_method(name).name
    assert {p: about.default for p, about in CATALOGUE[name].parameters.items()} == {
        p: value for p, value in method_parameters(name).items() if p in CATALOGUE[name].parameters
    }


@pytest.mark.parametrize("file", sorted((PACKAGE / "methods").glob("*.py")), ids=lambda p: p.stem)
def test_examples(file):
    """The examples in the docstrings of a file print what they say."""
    module = importlib.import_module(f"seqedit.methods.{file.stem}".removesuffix(".__init__"))
    assert not doctest.testmod(module).failed


@pytest.mark.parametrize("name", SOLVING)
def test_order_of_requests_does_not_matter(case, name):
    method = made(name)
    update = solve(case, method)
    case.K, case.R = case.K.flip(1), case.R.flip(1)
    assert relative(solve(case, method), update) < EXACT


@pytest.mark.parametrize("name", LINEAR)
def test_one_request_gives_rank_one(name):
    values = torch.linalg.svdvals(solve(Case(n=1), made(name)))
    assert values[1] < 1e-12 * values[0]


@pytest.mark.parametrize("name", SPANNED)
def test_null_space_of_any_base_stays_in_the_subspace(case, name):
    """The projection confines any base: nothing is written outside the span of B.

    The drift obeys its bound.
    """
    method = null_space(made(name), TAU)
    update, P = solve(case, method), oracles.projection(case.C, TAU)
    assert (update @ P - update).norm() < 1e-12 * update.norm()
    assert torch.trace(update @ case.C @ update.T) <= TAU * update.norm() ** 2
    assert method.name == f"{made(name).name}+projection"
    if name not in (
        "alphaedit",
        "evoedit",
        "nas",
        "nas_pilot",
        "betaedit",
    ):  # which are projected already
        outside = solve(case, made(name))
        assert (outside @ P - outside).norm() > 1e-2 * outside.norm()


def test_composition(case):
    """AlphaEdit is ridge with history and projection, in either order.

    MEMIT with history is MEMIT-seq.
    """
    seen = with_history(memit(LAM))
    assert (
        torch.equal(solve(case, seen), solve(case, memit_seq(LAM))) and seen.name == "MEMIT+history"
    )
    one, other = (
        null_space(with_history(memit(LAM)), TAU),
        with_history(null_space(memit(LAM), TAU)),
    )
    assert torch.equal(solve(case, one), solve(case, other))
    assert (one.name, other.name) == ("MEMIT+history+projection", "MEMIT+projection+history")
    everything = alphaedit(threshold=1e9, l2=L2)  # a threshold that removes nothing:
    keys, values, past = (oracles.columns(A) for A in (case.K, case.R, case.past_keys))
    eye = torch.eye(10, dtype=torch.float64)  # … ridge with history
    assert relative(solve(case, betaedit(TAU, 0.0, L2)), solve(case, alphaedit(TAU, L2))) < EXACT
    assert relative(solve(case, everything), oracles.memit_seq(keys, values, L2, eye, past)) < EXACT


def test_switches_for_comparison(case):
    """Without history MEMIT-seq is MEMIT.

    Rewinding is a field of the method, for methods that find targets.
    """
    assert torch.equal(solve(case, without_history(memit_seq(LAM))), solve(case, memit(LAM)))
    assert (
        make_method("memit_seq+rewind").rewind
        and make_method("memit_seq+rewind").name == "MEMIT-seq+rewinding"
    )
    with pytest.raises(
        ValueError,
        match=r"rewind\(FT\): FineTuning methods do not support a change of their targets",
    ):
        make_method("ft+rewind")
    with pytest.raises(
        ValueError,
        match=r"without_history\(GRACE\): Codebook methods do not support "
        r"a change of their history",
    ):
        make_method("grace+without_history")


def test_history_changes_methods_that_have_it(case):
    """Past keys matter to the methods with history, and to no other."""
    with_past = {name: solve(case, made(name)) for name in SOLVING}
    case.past_keys = torch.zeros_like(case.past_keys)
    changed = {n for n in SOLVING if relative(solve(case, made(n)), with_past[n]) > 1e-3}
    assert changed == {name for name in SOLVING if made(name).history}
    assert {"memit_seq", "alphaedit", "encore", "nse"} <= changed and "memit" not in changed


def test_r_rome_interpolates_at_its_averaged_key(errors):
    """W + Δ maps the averaged key exactly to v*.

    The residual is measured where the update reads.
    """
    case = Case(n=1)
    target = case.W @ case.bare + case.R  # v* − (bias), defined at the bare prompt
    method = r_rome()
    written = rome_residual(method.key, case.R, case.K, case.bare, case.W, method.solver(case.C))
    update = method.solver(case.C).update(case.K, written)
    assert relative((case.W + update) @ case.K, target) < EXACT
    expected = oracles.rome(case.K[:, 0], (target - case.W @ case.K)[:, 0], case.C)
    assert errors("r_rome", "oracle", relative(update, expected)) < EXACT


def test_rome_scale_is_the_released_one(errors):
    """ROME is the released formula, exact at the bare key only.

    The direction comes from the averaged key, the scale from the bare one.
    """
    case = Case(n=1)
    method = rome()
    written = rome_residual(method.key, case.R, case.K, case.bare, case.W, method.solver(case.C))
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
    for one in (rome(), r_rome()):
        solver = one.solver(case.C)
        written = rome_residual(one.key, case.R, case.K, case.K, case.W, solver)
        assert relative(solver.update(case.K, written), expected) < EXACT


@pytest.mark.parametrize("combine", [null_space, with_history, compensated])
@pytest.mark.parametrize("name", ["ft", "grace"])
def test_combinators_that_need_a_solve(combine, name):
    method = make_method(name)
    with pytest.raises(
        ValueError,
        match=f"{combine.__name__}\\({method.name}\\): .* methods do not support a change of their",
    ):
        combine(method)


def test_parameters_reach_the_method(case):
    method = make_method("alphaedit", threshold=0.7, l2=3.0)
    spaces = [method.directions(case.C), subspace_of(case.C, 0.7), subspace_of(case.C, 0.3)]
    ranks = [space.basis.shape[1] for space in spaces]
    assert ranks[0] == ranks[1] != ranks[2]
    assert method.history and method.metric(case.C) == 3.0
    assert torch.equal(make_method("memit", lam=4.0).metric(case.C), 4.0 * case.C)


@pytest.mark.parametrize("call", [make_method, method_parameters])
def test_unknown_method(call):
    with pytest.raises(
        ValueError,
        match="no method named 'nosuch'; known are rome, r_rome, emmet, memit, memit_seq",
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
            r"NSE.RECT\): compensation is for methods that solve for whole updates",
        ),
        (
            "ultraedit+with_history+rect+compensated",
            "FromGradients methods do not support a change of their compensation",
        ),
        ("emmet+with_history+rect+compensated", "with μ = 1"),
        ("rome+with_history+rect+compensated", "with μ = 1"),
        (
            "lyaplock+with_history",
            r"with_history\(LyapLock\): LyapLock methods do not support a change of their history",
        ),
    ],
)
def test_compositions_that_would_do_nothing(name, message):
    """What a writer would not act on is refused, not carried along in the name."""
    with pytest.raises(ValueError, match=message):
        make_method(name)


def test_names_compose(case):
    """`memit+with_history+prune` is prune(with_history(memit(…))).

    Each part takes its own parameters.
    """
    named = make_method("memit+with_history+null_space+prune", lam=LAM, threshold=TAU, alpha=1.5)
    built = prune(null_space(with_history(memit(LAM)), TAU), 1.5)
    assert named.name == built.name == "MEMIT+history+projection+PRUNE"
    assert torch.equal(solve(case, named), solve(case, built))
    assert method_parameters("memit+rect") == {"lam": 15_000.0, "share": 0.4}
    for name in METHODS:
        for combine in COMBINATORS:
            if not method_parameters(name).keys() & method_parameters(f"memit+{combine}").keys() - {
                "lam"
            }:
                assert set(method_parameters(f"{name}+{combine}")) >= set(method_parameters(name))


def test_short_names(tiny_lm):
    """`rect` and `prune` alone are those of MEMIT.

    A run is recorded under the registered name.
    """
    assert (
        make_method("rect").name == "MEMIT+RECT"
        and make_method("prune", alpha=2.0).name == "MEMIT+PRUNE"
    )
    assert make_method("rect+with_history").name == make_method("memit_rect+with_history").name
    assert method_parameters("prune") == method_parameters("memit_prune")
    config = RunConfig(
        model="", requests=Path(), method="rect+with_history", settings={"layers": [1]}
    )
    assert resolve(config, tiny_lm()).method == "memit_rect+with_history"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "memit+nosuch",
            r"memit\+nosuch: nothing named 'nosuch' follows a method; "
            r"known are null_space, with_history",
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


@pytest.mark.parametrize("name", [n for n in METHODS if isinstance(make_method(n), LeastSquares)])
def test_description(name):
    """The book's row of a method has a phrase for every field that is not at its default."""
    row = describe(made(name))
    assert row["targets"] and "=" not in row["targets"]
    assert code_of(CATALOGUE[name].make).startswith(f"def {name}(")


def test_description_loses_no_field():
    """A field that the table does not know is named with its value."""

    @dataclass(frozen=True, kw_only=True)
    class Longer(LocateThenEdit):
        reach: int = 1

    assert "reach" not in describe(Longer(name="", price=lambda C: C))["targets"]
    assert describe(Longer(name="", price=lambda C: C, reach=2))["targets"].endswith("reach = 2")
