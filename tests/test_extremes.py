"""Values that make nonsense are refused, and an outcome says what became of the weights."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import build_plan
from runs import same, weights
from workspace import SETTINGS

from seqedit.editing.contract import UpdateRefused, guard
from seqedit.editing.sequential import NO_EFFECT, run_sequential
from seqedit.lm.weights import read_weight, write_weight
from seqedit.methods.grace import grace
from seqedit.methods.memit import memit_seq
from seqedit.methods.rome import rome
from seqedit.requests import parquet_size
from seqedit.requests.plain import RequestError
from seqedit.requests.published import load_requests
from seqedit.runs.settings import build_settings, parse_assignments
from seqedit.study.notebook import check_parameter


def test_an_update_below_the_precision_of_the_weights_is_no_edit(tiny_lm, requests):
    """Refused, and forgotten: the next round writes as if there had been none before."""
    lm = tiny_lm("gpt2")
    before, plan = weights(lm), build_plan(lm)
    (done,) = run_sequential(lm, [requests[:2]], memit_seq(1e12), plan)
    assert same(weights(lm), before)
    assert {(o.status, o.reason) for o in done.outcomes} == {("refused", NO_EFFECT)}
    assert all(K.shape[1] == 0 for K in done.state.keys.values()) and done.state.round == 1
    (written,) = run_sequential(lm, [requests[:2]], memit_seq(0.5), plan)
    assert {o.status for o in written.outcomes} == {"edited"} and not same(weights(lm), before)


def test_edits_one_at_a_time_are_judged_one_by_one(tiny_lm, requests, monkeypatch):
    """The second of three leaves the matrix as it was; the others are edited."""
    from seqedit.algebra.solver import Solver

    solved, update = [], Solver.update

    def second_does_nothing(solver, K, R, *past):
        solved.append(1)
        return update(solver, K, R, *past) * (len(solved) != 2)

    monkeypatch.setattr(Solver, "update", second_does_nothing)
    lm = tiny_lm("gpt2")
    (done,) = run_sequential(lm, [requests[:3]], rome(), build_plan(lm, layers=(1,)))
    assert [o.status for o in done.outcomes] == ["edited", "refused", "edited"]


def test_what_acts_beside_the_weights_is_an_edit(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    before = weights(lm)
    (done,) = run_sequential(lm, [requests[:2]], grace(), build_plan(lm, layers=(1,)))
    assert {o.status for o in done.outcomes} == {"edited"} and same(weights(lm), before)


def test_a_memory_that_is_not_finite_is_refused(tiny_lm, requests, monkeypatch):
    lm = tiny_lm("gpt2")
    monkeypatch.setattr(
        "seqedit.methods.kinds.codebook.place",
        lambda memory, key, value, label, radius: {"beside.codebook.keys": key * math.nan},
    )
    (done,) = run_sequential(lm, [requests[:2]], grace(), build_plan(lm, layers=(1,)))
    assert {o.status for o in done.outcomes} == {"refused"} and not done.state.memory
    assert "remembers, is not finite" in done.outcomes[0].reason


def test_a_model_that_is_not_finite_is_refused(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    plan, W = build_plan(lm), read_weight(lm, 1)
    W[0, 0] = math.inf
    write_weight(lm, 1, W)
    with pytest.raises(ValueError, match="model: the matrix of layer 1 has entries that are not"):
        next(run_sequential(lm, [requests[:2]], memit_seq(0.5), plan))


def test_the_guard_of_a_matrix_of_zeros():
    """Any update is infinitely larger; no update passes."""
    zeros = torch.zeros(2, 3)
    with pytest.raises(UpdateRefused, match="is inf times as large"):
        guard(torch.ones(2, 3), 0, zeros, 10.0)
    guard(zeros, 0, zeros, 10.0)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("memit", "lr", 1e38),
        ("memit", "clamp", 1e38),
        ("memit", "lam", 1e300),
        ("memit", "steps", 10**400),
        ("memit", "lr", 10**400),
        ("memit", "max_update_ratio", 1e300),
        ("memit", "context_lengths", [[10**400, 5]]),
        ("memit", "context_lengths", [[5, 10**9]]),
        ("encore", "gamma", 1e300),
        ("grace", "radius", 1e308),
        ("lyaplock", "lam", 1e30),
        ("memit+robust_keys", "adaptor_lr", 1e30),
        ("memit+prune", "mode", "foo"),
        ("memit+prune", "alpha", 1.0),
        ("memit", "lam", math.nan),
    ],
)
def test_settings_out_of_all_range(method, name, value):
    """Refused in one short line that names the setting; the largest that is allowed is not."""
    with pytest.raises(ValueError, match=name) as raised:
        build_settings(method, {"layers": [0], name: value})
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)
    build_settings("memit", {"layers": [0], "lr": 1e3, "lam": 1e12, "steps": 100_000})


def test_a_setting_is_given_once(space):
    with pytest.raises(ValueError, match="--set lam: is given twice"):
        parse_assignments(["lam=1", "lam=2"])
    assert parse_assignments([f"lam={'1' * 5000}"]) == {"lam": "1" * 5000}
    for name, value in (("layers", "0"), ("batch_size", "2")):
        done = space.call(**{name: value, "set": [f"{name}=1"]})
        assert (
            done.exit_code == 1 and f"{name}: --" in done.stderr and "leave one out" in done.stderr
        )
    assert not space.out.exists()


def test_a_mode_that_is_none_is_refused_before_anything_is_written(space):
    done = space.call(method="memit+prune", set=["mode=foo"])
    assert done.exit_code == 1 and "mode is 'foo'; known are" in done.stderr
    assert not space.out.exists()


def test_a_run_that_refused_everything_ends_with_1(space):
    """Also when it is asked for again; a run with one edit left ends with 0."""
    space.write("hyper.json", SETTINGS | {"max_update_ratio": 1e-9})
    for _ in range(2):
        done = space.call()
        assert done.exit_code == 1, done.output
        assert (
            done.stderr.strip()
            .splitlines()[-1]
            .endswith("every request was refused, and the model is as it was")
        )
    space.write("hyper.json", SETTINGS)
    assert space.call(out=space.folder / "other").exit_code == 0


def test_rows_of_parquet_are_counted_before_they_are_read(tmp_path, monkeypatch):
    rows = [
        {"case_id": i, "prompt": "{} is", "subject": f"S{i}", "target_new": "x"} for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    assert len(load_requests(tmp_path / "r.parquet")) == 3
    monkeypatch.setattr(parquet_size, "MOST_ROWS", 2)
    with pytest.raises(RequestError, match=r"r\.parquet: has 3 rows; at most 2 are read"):
        load_requests(tmp_path / "r.parquet")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("edits", None, int),
        ("edits", 0, int),
        ("edits", [100, 200], int),
        ("edits", "abc", "int"),
        ("edits", True, int),
        ("edits", 1.5, int),
        ("edits", 10**400, int),
        ("evaluate_every", "abc", int),
        ("seed", -1, int),
        ("tflops", math.nan, float),
        ("tflops", math.inf, float),
        ("tflops", 0.0, float),
        ("study", 3, str),
        ("quick", "no", bool),
    ],
)
def test_parameters_of_chapters(name, value, kind):
    with pytest.raises(ValueError, match=f"^{name} = ") as raised:
        check_parameter(name, value, kind)
    assert len(str(raised.value)) < 200


def test_parameters_that_are_right():
    for name, value, kind in (
        ("edits", 5, int),
        ("seed", 0, int),
        ("tflops", 3, float),
        ("study", "", str),
        ("quick", False, bool),
        ("other", [1], list),
    ):
        check_parameter(name, value, kind)
