"""`seqedit plan`: its formulas against what is counted and allocated on tiny models.

Parameters and stored tensors are exact. Operations are counted by torch while they run: 15 % allows
for attention over padded rows, for the last block and for texts of different lengths. Activations
are the tensors that autograd keeps.
"""

import json
from dataclasses import replace

import pytest
import torch
from conftest import CONTEXTS, MODEL_TYPES, build_plan
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from seqedit.algebra.second_moment import SecondMoment
from seqedit.cli.main import app
from seqedit.cli.plan import table
from seqedit.editing.sequential import run_sequential
from seqedit.lm.default_layers import default_layers
from seqedit.lm.keys import KeyReader
from seqedit.lm.second_moments import collect_second_moments
from seqedit.lm.target_loss import TargetConfig, target_rows
from seqedit.lm.targets import optimise_targets
from seqedit.lm.weights import read_weight
from seqedit.methods.catalogue import make_method
from seqedit.moments.files import load_moments, save_moments
from seqedit.planner.estimate import Texts, Work, estimate
from seqedit.planner.memory import activation_bytes, history_bytes, solve_bytes, solver_bytes
from seqedit.planner.operations import key_flops, moments_flops, solve_flops, target_flops
from seqedit.planner.shapes import (
    DECLARED,
    EDITED,
    config_of,
    shape_of,
)
from seqedit.requests.request import EditRequest

TOLERANCE = 0.15
PUBLISHED = {
    "gpt2-xl": 1_557_611_200,
    "gpt-j-6b": 6_050_882_784,
    "smollm2-135m": 134_515_008,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "qwen2.5-7b": 7_615_616_512,
}
NAMES = ("Danielle", "Thomas", "Gamith", "Huciol", "Madrid", "Elvinn", "Zoë", "André")


@pytest.fixture
def alike() -> list[EditRequest]:
    """Requests of similar length, without a common beginning."""
    return [
        EditRequest(
            case_id=i,
            prompt=f"{first}, the tongue of {{}} is",
            subject=name,
            target_new="Dutch",
            target_true="French",
        )
        for i, (first, name) in enumerate(zip("abcdefghijklmnop", 2 * NAMES, strict=True))
    ]


def texts_of(lm, requests) -> Texts:
    """What the formulas take for these requests under `CONTEXTS`."""
    templates = [t for group in CONTEXTS for t in group]
    rows = target_rows(lm, requests, templates, TargetConfig())

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    target = mean(len(own[0].target) for own in rows)
    bare = mean(len(own[0].ids) for own in rows)
    return Texts(
        prompt=bare + 1 - target,
        subject_end=mean(own[0].position + 1 for own in rows),
        target=target,
        kl=mean(len(own[-1].ids) for own in rows),
        contexts=len(templates),
        context=max(len(row.ids) for own in rows for row in own) - bare,
    )


def work_for(name="alphaedit", **changes) -> Work:
    given = {
        "method": make_method(name),
        "layers": (0, 1),
        "edits": 16,
        "batch_size": 16,
        "steps": 6,
    }
    return Work(**given | changes)


def eager(lm):
    """Attention in products that torch counts."""
    lm.model.set_attn_implementation("eager")
    return lm


def counted(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_parameters_are_exact(tiny_lm, model_type):
    lm = tiny_lm(model_type)
    shape = shape_of(lm.model.config)
    assert shape.parameters == sum(p.numel() for p in lm.model.parameters())
    assert (shape.d_model, shape.d_ff) == read_weight(lm, 0).shape and shape.n_layers == 3
    assert shape.block == sum(p.numel() for p in lm.block(0).parameters() if p.dim() == 2)
    assert shape.gated == any("gate" in name for name, _ in lm.mlp(0).named_children())


def test_declared_shapes_are_the_published_ones():
    """Parameter counts of the released models, of a few million times the size of what is allocated
    here.
    """
    assert {name: shape_of(config_of(name)).parameters for name in DECLARED} == PUBLISHED
    assert EDITED.keys() == DECLARED.keys()
    with pytest.raises(
        ValueError, match="no configuration could be read from 'nowhere'; .* gpt2-xl, gpt-j-6b"
    ):
        config_of("nowhere")


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "llama"])
def test_operations_of_targets(tiny_lm, alike, model_type):
    lm = eager(tiny_lm(model_type, layers=5))
    config = TargetConfig(steps=6, stop_loss=0.0)
    found = counted(lambda: optimise_targets(lm, alike, CONTEXTS, 1, config))
    formula = target_flops(shape_of(lm.model.config), work_for(), texts_of(lm, alike), 16)
    assert formula == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "llama"])
def test_operations_of_keys(tiny_lm, alike, model_type):
    lm = eager(tiny_lm(model_type, layers=5))

    def sweep():
        reader = KeyReader(lm, alike, CONTEXTS)
        for layer in (0, 1):
            reader.keys(layer)
            reader.values(1)

    assert key_flops(
        shape_of(lm.model.config), work_for(), texts_of(lm, alike), 16
    ) == pytest.approx(counted(sweep), rel=TOLERANCE)


def test_operations_of_a_solve(tiny_lm):
    """Products only: decompositions, which torch does not count, are taken out of the formula."""
    lm = tiny_lm()
    plan = build_plan(lm, layers=(0,))
    shape, n, past = shape_of(lm.model.config), 8, 24
    solver = make_method("alphaedit", threshold=1.05).solver(plan.moments[0])
    k = solver.subspace.vectors.shape[1]
    assert solver.subspace.complement
    work = work_for(removed=k / shape.d_ff)
    old, K, R = torch.randn(64, past), torch.randn(64, n), torch.randn(16, n)
    gram = solver.extend(torch.zeros(0, 0, dtype=torch.float64), old[:, :0], old)
    found = counted(lambda: (solver.update(K, R, old, gram), solver.extend(gram, old, K)))
    uncounted = n**3 / 3 + past**3 / 3 + 2 * past**2 * n
    assert solve_flops(shape, work, n, past) - uncounted == pytest.approx(found, rel=TOLERANCE)


def test_operations_of_second_moments(tiny_lm):
    lm, texts = eager(tiny_lm("llama")), 20 * ["The mother tongue of Thomas is Dutch."]
    tokens = 20 * len(lm.tokenizer(texts[0])["input_ids"])
    found = counted(lambda: collect_second_moments(lm, texts, (0, 1), progress=False))
    work = work_for(moments_tokens=tokens)
    assert moments_flops(shape_of(lm.model.config), work, 2 * tokens / 20) == pytest.approx(
        found, rel=TOLERANCE
    )


@pytest.mark.parametrize(
    ("name", "tensors"),
    [("alphaedit", lambda s: [s.subspace.vectors]), ("memit", lambda s: [s.M, s._factor])],
)
def test_memory_of_solvers_is_exact(tiny_lm, name, tensors):
    lm = tiny_lm()
    plan, shape = build_plan(lm), shape_of(lm.model.config)
    solver = make_method(name, **({"threshold": 1.05} if name == "alphaedit" else {})).solver(
        plan.moments[0]
    )
    removed = solver.subspace.vectors.shape[1] / shape.d_ff if solver.subspace else 0.3
    assert solver_bytes(shape, work_for(name, removed=removed)) == sum(
        t.nbytes for t in tensors(solver)
    )


def test_memory_of_history_and_moments_is_exact(tiny_lm, alike, tmp_path):
    lm = tiny_lm()
    plan, shape, work = build_plan(lm), shape_of(lm.model.config), work_for()
    *_, done = run_sequential(
        lm, [alike[:8], alike[8:]], make_method("alphaedit", threshold=1.05, l2=0.5), plan
    )
    held = sum(t.nbytes for t in (done.state.keys[0], done.state.grams[0]))
    assert history_bytes(shape, work) == held
    found = estimate(shape, work, Texts())
    assert found["cpu_memory"]["history"] == 2 * held
    assert found["cpu_memory"]["original matrices"] == sum(
        W.nbytes for W in done.state.original.values()
    )
    moments = {layer: SecondMoment(shape.d_ff) for layer in (0, 1)}
    for moment in moments.values():
        moment.update(torch.randn(3, shape.d_ff))
    save_moments(tmp_path / "m", moments)
    assert found["disk"]["second moments"] == sum(
        C.nbytes for C in load_moments(tmp_path / "m").C.values()
    )
    assert found["disk"]["checkpoint of second moments"] == sum(
        m.sum.nbytes for m in moments.values()
    )


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "llama"])
def test_memory_of_activations(tiny_lm, alike, model_type):
    """What autograd keeps for one step, within 30 %.

    That is one of the two copies of keys and values, and one of the four of the logits.
    """
    lm, storages = tiny_lm(model_type, layers=5), {}
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        optimise_targets(lm, alike, CONTEXTS, 1, TargetConfig(steps=1, stop_loss=0.0))
    found = sum(size for size, _ in storages.values())
    formula = activation_bytes(shape_of(lm.model.config), work_for(), texts_of(lm, alike))
    assert formula["keys and values"] / 2 + formula["blocks"] + formula[
        "logits"
    ] / 4 == pytest.approx(found, rel=0.3)


def test_what_grows_with_what():
    """Half precision halves the weights and adds masters.

    MEMIT's solver is as wide as d; rounds add up to the run.
    """
    shape, texts = shape_of(config_of("llama-3-8b")), Texts()
    work = work_for(layers=EDITED["llama-3-8b"], edits=2000, batch_size=100, steps=25)
    full, half = (
        estimate(shape, replace(work, dtype=dtype), texts, 1e12)
        for dtype in (torch.float32, torch.bfloat16)
    )
    weights = [found["memory"]["standing"]["weights"] for found in (half, full)]
    assert weights == [2 * PUBLISHED["llama-3-8b"], 4 * PUBLISHED["llama-3-8b"]]
    assert full["memory"]["standing"]["float32 masters"] == 0
    assert half["memory"]["standing"]["float32 masters"] == 5 * 4 * 4096 * 14336
    dense = estimate(shape, replace(work, method=make_method("memit")), texts)
    assert dense["memory"]["standing"]["solvers"] > 3 * full["memory"]["standing"]["solvers"]
    assert full["flops"]["run"] == pytest.approx(20 * full["flops"]["round"])
    assert full["seconds"]["run"] == full["flops"]["run"] / 1e12 and dense["seconds"] is None
    assert solve_bytes(shape, work) > solve_bytes(shape, replace(work, edits=100))
    assert "8,030,261,248 parameters" in table(full) and "at its peak: a run" in table(full)
    with pytest.raises(ValueError, match="the model has layers 0 to 31"):
        estimate(shape, replace(work, layers=(32,)), texts)
    small = estimate(shape, replace(work, compact=True, removed=0.25), texts)
    assert small["cpu_memory"]["second moments"] * 4 == full["cpu_memory"]["second moments"]
    assert small["flops"]["prepare"] == 0 < full["flops"]["prepare"]
    with pytest.raises(ValueError, match="MEMIT prices movement in every direction"):
        replace(work, method=make_method("memit"), compact=True)
    with pytest.raises(ValueError, match="FT is none of the locate-then-edit methods"):
        replace(work, method=make_method("ft"))


def test_plan_command_prints_a_table_or_json(tiny_folder, tmp_path):
    """A table, or JSON; a folder needs no more than its config.json."""
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())

    def call(*words):
        return CliRunner().invoke(app, ["plan", *map(str, words)])

    done = call("--model", tmp_path, "--edits", 4, "--layers", "0,1", "--json", "--tflops", 1)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (
        found["shape"]["n_layers"] == 3
        and found["rounds"] == 1
        and found["disk"]["second moments"] == 2 * 4 * 64**2
    )
    one = call("--model", tmp_path, "--edits", 4, "--json", "--tflops", 1)  # layers by the rule
    assert json.loads(one.stdout)["disk"]["second moments"] == len(default_layers(3)) * 4 * 64**2
    done = call("--model", "gpt-j-6b", "--edits", 1000, "--method", "memit", "--dtype", "bfloat16")
    assert (
        done.exit_code == 0 and "10 rounds" in done.stdout and "rate on this machine" in done.stdout
    )
    for words, word in (
        (("--model", "gpt2-xl", "--edits", 0), "at least one"),
        (("--model", "gpt2-xl", "--edits", "none.json"), "none.json"),
    ):
        done = call(*words)
        assert done.exit_code == 1 and word in done.stderr
