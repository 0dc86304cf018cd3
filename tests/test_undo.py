"""One edit taken out of a run: what is exact, what is not, and what cannot be undone."""

import json
import re
from dataclasses import replace

import oracles
import pytest
import torch
from conftest import build_plan, relative
from oracles import Case
from runs import same, weights
from safetensors.torch import load_file

from seqedit.algebra.curvature import CurvatureSolver
from seqedit.algebra.solver import Solver
from seqedit.editing.sequential import run_sequential
from seqedit.editing.undo import undo
from seqedit.exchange.factors import apply_edits, load_edits
from seqedit.lm.load import load_model
from seqedit.lm.weights import read_weight, write_weight
from seqedit.methods.alphaedit import alphaedit
from seqedit.methods.catalogue import make_method
from seqedit.methods.combinators import curvature
from seqedit.methods.memit import memit_seq
from seqedit.runs.records import load_run
from seqedit.runs.undo import numbers_of


def test_thm_undo():
    """Re-solved without an edit, the total is that of the rounds that never made it.

    The converse: subtracting what the round of that edit wrote is not, as later rounds have leaned
    on it; nor is it for a method without history.
    """
    cases = [Case(n=1, seed=seed) for seed in range(4)]
    S = torch.diag(torch.tensor([0.2, 0.5, 1.0, 2.0]).double())
    for solver in (Solver(0.5 * cases[0].C), CurvatureSolver(0.5 * cases[0].C, S)):

        def in_rounds(made, solver=solver, remembers=True):
            total, past, steps = torch.zeros(4, 10).double(), torch.zeros(10, 0).double(), []
            for case in made:
                steps.append(solver.update(case.K, case.R - total @ case.K, past))
                total = total + steps[-1]
                past = torch.cat([past, case.K], dim=1) if remembers else past
            return total, steps

        (whole, steps), (never, _) = in_rounds(cases), in_rounds(cases[:1] + cases[2:])
        left = [torch.cat([getattr(case, x) for case in cases[:1] + cases[2:]], 1) for x in "KR"]
        assert relative(solver.update(*left), never) < 1e-9  # float64
        assert relative(whole - steps[1], never) > 1e-2
        forgetful, _ = in_rounds(cases[:1] + cases[2:], remembers=False)
        assert relative(solver.update(*left), forgetful) > 1e-2


@pytest.mark.parametrize(
    "method",
    [memit_seq(0.5), alphaedit(0.9, 0.5), curvature(memit_seq(0.5), 0.2)],
    ids=lambda m: m.name,
)
def test_undone_is_the_joint_solution_of_the_others(exact_lm, requests, method):
    """In a network, with the keys and targets of the run; on several layers and over rounds."""
    lm = exact_lm("gpt2")
    plan = build_plan(lm, undoable=True)
    *_, done = run_sequential(lm, [requests[:2], requests[2:4], requests[4:]], method, plan)
    state, W0 = done.state, done.state.original
    after = undo(lm, method, plan, state, [1, 4])
    for layer in plan.layers:
        K = state.keys[layer][:, [0, 2, 3, 5]].double()
        R = state.memory[f"residuals.{layer}"][:, [0, 2, 3, 5]].double()
        expected = method.solver(plan.moments[layer], plan.gradients[layer]).update(K, R)
        assert relative(read_weight(lm, layer) - W0[layer], expected) < 1e-9
        assert after.keys[layer].shape == (64, 4) and after.grams[layer].shape == (4, 4)
        assert torch.equal(after.memory[f"residuals.{layer}"].double(), R)
    (again,) = run_sequential(lm, [requests[1:2]], method, plan, after)  # the run goes on
    assert again.state.keys[0].shape == (64, 5) and again.residual_after < again.residual_before


def test_undo_equals_never_having_edited_where_keys_stay(exact_lm, requests):
    """The last round has moved no other key or target: undone, the run is as it was before it.

    An edit of the first round has moved those of later ones, which is what is left of it.
    """
    lm, never = exact_lm("gpt2"), exact_lm("gpt2")
    plan, method = build_plan(lm, layers=(1,), undoable=True), memit_seq(0.5)
    rounds = [[request] for request in requests]
    *_, before, done = run_sequential(lm, rounds, method, plan)
    edited, W0 = read_weight(lm, 1), done.state.original[1]
    after = undo(lm, method, plan, done.state, [5])
    list(run_sequential(never, rounds[:5], method, plan))
    assert relative(read_weight(lm, 1) - W0, read_weight(never, 1) - W0) < 1e-9
    assert torch.equal(after.keys[1], before.state.keys[1])
    write_weight(lm, 1, edited)
    undo(lm, method, plan, done.state, [0])
    without = exact_lm("gpt2")
    list(run_sequential(without, rounds[1:], method, plan))
    first = relative(read_weight(lm, 1) - W0, read_weight(without, 1) - W0)
    assert 1e-3 < first < relative(edited - W0, read_weight(without, 1) - W0)


def test_undoing_everything_leaves_the_original(exact_lm, requests):
    lm = exact_lm("gpt2")
    before, plan = weights(lm), build_plan(lm, undoable=True)
    *_, done = run_sequential(lm, [requests], memit_seq(0.5), plan)
    after = undo(lm, memit_seq(0.5), plan, done.state, range(6))
    assert same(weights(lm), before) and after.keys[0].shape == (64, 0)


@pytest.mark.parametrize("name", ["memit", "rome", "ft", "lyaplock", "grace", "mend", "ultraedit"])
def test_methods_without_history_say_so(tiny_lm, requests, name):
    """They have no equations from which one edit could be taken."""
    lm = tiny_lm("gpt2")
    plan = build_plan(lm, layers=(1,), undoable=True)
    (done,) = run_sequential(lm, [requests], memit_seq(0.5), plan)
    before = weights(lm)
    with pytest.raises(ValueError, match="cannot take one edit back: .*; a method with history"):
        undo(lm, make_method(name), plan, done.state, [0])
    assert same(weights(lm), before)


@pytest.mark.parametrize("name", ["memit_seq+rect", "nse_paper", "evoedit", "emmet+with_history"])
def test_methods_whose_rounds_are_no_joint_problem_say_so(name):
    assert make_method(name).cannot_undo
    assert make_method("memit_seq").cannot_undo is None


def test_what_undo_refuses(tiny_lm, requests):
    """A run without residuals, an edit that there is not, another price; nothing is changed."""
    lm = tiny_lm("gpt2")
    plan, method = build_plan(lm, undoable=True), memit_seq(0.5)
    (done,) = run_sequential(lm, [requests], method, plan)
    before = weights(lm)
    forgot = done.state.with_memory({})
    for state, chosen, moments, message in (
        (forgot, [0], plan.moments, "has not kept its residuals; make it anew as undoable"),
        (done.state, [6], plan.moments, "there is no edit 6; the run has 6, from 0 on"),
        (done.state, [0], {0: torch.eye(64), 1: torch.eye(64)}, "give the second moments and the"),
    ):
        with pytest.raises(ValueError, match=message):
            undo(lm, method, replace(plan, moments=moments), state, chosen)
        assert same(weights(lm), before)
    plain = tiny_lm("gpt2")
    (done,) = run_sequential(plain, [requests], method, build_plan(plain))
    assert done.state.memory == {} and same(weights(plain), before)


def test_residuals_are_what_the_original_weights_lack(exact_lm, requests):
    """v* − W₀k in every round: with the round's keys they give back its update."""
    lm = exact_lm("gpt2")
    plan, method = build_plan(lm, layers=(1,), undoable=True), memit_seq(0.5)
    first, second = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
    K = second.state.keys[1].double()
    R = second.state.memory["residuals.1"].double()
    total = oracles.joint_ridge(
        oracles.columns(K),
        oracles.columns(R),
        0.5 * plan.moments[1],
        torch.eye(64, dtype=torch.float64),
    )
    assert relative(read_weight(lm, 1) - first.state.original[1], total) < 1e-9


def test_undo_in_a_run(space):
    """The command leaves what the run would hold without its last edit, as a file of edits.

    The run is as before; without `--undoable` it keeps nothing for this, and scores are the same.
    """
    assert space.call(undoable=True).exit_code == 0
    rest, record = space.folder / "rest.safetensors", load_run(space.out)
    result = space.call(
        "undo", edited=space.out, case_id="4", corpus=space.folder / "corpus.txt", out=rest
    )
    assert result.exit_code == 0 and "4 edits are left" in result.stdout, result.output
    fewer = space.folder / "fewer"
    assert space.call(n_edits=4, out=fewer).exit_code == 0  # which lacks the last round
    lm = load_model(str(space.model))
    W0 = {layer: read_weight(lm, layer) for layer in (0, 1)}
    apply_edits(lm, load_edits(rest))
    for layer, W in load_run(fewer).weights().items():
        assert relative(read_weight(lm, layer) - W0[layer], W - W0[layer]) < 1e-4  # float32
        assert relative(record.weights()[layer] - W0[layer], W - W0[layer]) > 1e-2
    assert load_edits(rest).about["undone"] == ["4"]
    assert not any(name.startswith("keys") for name in load_file(fewer / "weights.safetensors"))
    for words, message in (
        ({"case_id": "7"}, "case_id 7: .* has no such edit; outcomes.jsonl lists them"),
        ({"case_id": "0", "edited": fewer}, "make the run anew with --undoable"),
        ({"case_id": "0", "out": rest}, "exists already; choose another name"),
        ({"case_id": "0", "corpus": space.write("other.txt", "Hello\nworld")}, "second moments"),
    ):
        given = {
            "edited": space.out,
            "corpus": space.folder / "corpus.txt",
            "out": space.folder / "none",
        }
        result = space.call("undo", **given | words)
        assert result.exit_code == 1 and re.search(message, result.stderr), result.output
        assert not (space.folder / "none").exists()


def test_undoable_is_refused_at_once(space):
    """A method that cannot undo says so before anything is edited."""
    result = space.call(method="memit", undoable=True)
    assert result.exit_code == 1 and "MEMIT cannot take one edit back" in result.stderr
    assert not space.out.exists()


def test_a_refused_request_has_nothing_to_undo(tmp_path):
    """Numbers count written requests alone; an id that was refused is named with its reason."""
    rows = [("a", "edited"), ("b", "refused"), (3, "already satisfied")]
    lines = [
        json.dumps({"case_id": case_id, "status": status, "reason": "too large"})
        for case_id, status in rows
    ]
    (tmp_path / "outcomes.jsonl").write_text("\n".join(lines) + "\n")
    assert numbers_of(tmp_path, ["3", "a"]) == [1, 0]
    with pytest.raises(ValueError, match="case_id b: it was refused, too large"):
        numbers_of(tmp_path, ["b"])
