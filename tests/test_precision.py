"""Models in half precision, and models whose blocks are on several devices.

An edit in bfloat16 is compared with one in float32 loosely: targets found with 8 bits are other
targets.
"""

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from conftest import build_plan, relative
from runs import method_and_plan, same, weights
from torch.nn.functional import cosine_similarity
from workspace import Workspace

from seqedit.base.paths import MODEL
from seqedit.editing.sequential import run_sequential
from seqedit.lm.dtype import choose_dtype
from seqedit.lm.keys import read_keys, read_values
from seqedit.lm.load import check_not_offloaded, load_model
from seqedit.lm.second_moments import collect_second_moments
from seqedit.lm.weights import (
    apply_update,
    read_weight,
    restored,
    rewound,
    write_weight,
)
from seqedit.methods.catalogue import make_method
from seqedit.runs.checkpoint import save_round
from seqedit.runs.engine import run
from seqedit.runs.records import load_run

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
needs_a_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="two devices: a GPU beside the CPU is needed"
)


@pytest.fixture
def half_lm(tiny_lm):
    def build(model_type="gpt2", dtype=torch.bfloat16):
        lm = tiny_lm(model_type)
        lm.model.to(dtype)
        return lm

    return build


@HALF
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_small_updates_add_up(half_lm, model_type, dtype):
    """A thousand updates, each far below the weights' resolution: the model sees their sum, rounded
    once.

    The converse: added to the weights themselves, all of them would be lost.
    """
    lm = half_lm(model_type, dtype)
    own = lm.down_proj(1).weight
    own.fill_(1.0)
    start, update = read_weight(lm, 1), torch.full_like(read_weight(lm, 1), 2.0**-14)
    assert torch.equal(own + update.to(dtype).T[:1, :1], own)
    for _ in range(1000):
        apply_update(lm, 1, update)
    assert torch.equal(
        read_weight(lm, 1), start + 1000 * 2.0**-14
    )  # multiples of 2⁻¹⁴: no rounding in float32
    assert torch.equal(own, torch.full_like(own, 1 + 1000 * 2.0**-14)) and own.dtype == dtype


@HALF
def test_restored_and_rewound_bit_for_bit(half_lm, dtype):
    """Weights and masters; without an edit there is no master afterwards."""
    lm = half_lm(dtype=dtype)
    before, update = weights(lm), 1e-4 * torch.rand_like(read_weight(lm, 0))
    with restored(lm, [0, 1]):
        apply_update(lm, 0, update)
        assert not torch.equal(
            read_weight(lm, 0), before["transformer.h.0.mlp.c_proj.weight"].T.float()
        )
    assert same(weights(lm), before) and not lm.masters
    original = {0: read_weight(lm, 0)}
    for _ in range(3):
        apply_update(lm, 0, update)
    edited, master = weights(lm), read_weight(lm, 0)
    with rewound(lm, original):
        assert same(weights(lm), before) and torch.equal(read_weight(lm, 0), original[0])
    assert same(weights(lm), edited) and torch.equal(read_weight(lm, 0), master)
    with restored(lm, [0]):
        apply_update(lm, 0, update)
        apply_update(lm, 0, update)
    assert same(weights(lm), edited) and torch.equal(read_weight(lm, 0), master)
    write_weight(lm, 0, original[0])
    assert same(weights(lm), before)


def test_float32_needs_no_master(tiny_lm):
    lm = tiny_lm()
    apply_update(lm, 0, torch.ones_like(read_weight(lm, 0)))
    assert not lm.masters


@HALF
@pytest.mark.parametrize("name", ["alphaedit", "memit", "rome", "ft", "ft_l", "ultraedit"])
def test_methods_in_half_precision(tiny_lm, half_lm, requests, name, dtype):
    """Every kind of writer edits the master; the model holds it rounded, and points where float32
    does.
    """
    found = {}
    for lm in (tiny_lm("llama"), half_lm("llama", dtype)):
        method, plan = method_and_plan(lm, name)
        (done,) = run_sequential(lm, [requests[:2]], method, plan)
        assert all(outcome.status == "edited" for outcome in done.outcomes), done.outcomes
        found[lm.model.dtype] = (
            read_weight(lm, plan.layers[0]) - done.state.original[plan.layers[0]]
        )
        if lm.masters:
            for layer in plan.layers:
                assert torch.equal(lm.down_proj(layer).weight, read_weight(lm, layer).to(dtype))
                assert not torch.equal(read_weight(lm, layer), lm.down_proj(layer).weight.float())
    update, expected = found[dtype], found[torch.float32]
    assert cosine_similarity(update.flatten(), expected.flatten(), dim=0) > 0.9


@HALF
def test_a_refused_round_leaves_every_bit(half_lm, requests, dtype):
    lm = half_lm(dtype=dtype)
    plan, before = build_plan(lm, max_update_ratio=1e-9), weights(lm)
    (done,) = run_sequential(lm, [requests], make_method("alphaedit", threshold=0.9, l2=0.5), plan)
    assert all(outcome.status == "refused" for outcome in done.outcomes)
    assert same(weights(lm), before)


def test_run_and_score_in_bfloat16(tmp_path, tiny_folder, monkeypatch):
    """`--dtype bfloat16`: resumed equals uninterrupted, the record keeps the float32 masters,
    scores can be read.
    """
    space = Workspace(tmp_path, tiny_folder)
    assert run(space.config(dtype="bfloat16"), tmp_path / "a")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "seqedit.runs.engine.save_round",
            lambda *args, **rest: save_round(*args, **rest) or stop(),
        )
        run(space.config(dtype="bfloat16"), tmp_path / "b")
    done = space.call(dtype="bfloat16", out=tmp_path / "b")
    assert done.exit_code == 0 and "resuming after round 1" in done.stderr
    left, right = (load_run(tmp_path / name) for name in "ab")
    assert left.run["parameters"]["dtype"] == "bfloat16"
    for layer, W in left.weights().items():
        assert W.dtype == torch.float32 and torch.equal(W, right.weights()[layer])
        assert not torch.equal(W, W.bfloat16().float())
    done = space.call(
        "score", edited=tmp_path / "a", requests=tmp_path / "requests.json", dtype="bfloat16"
    )
    assert done.exit_code == 0, done.stderr
    done = space.call(dtype="float32", out=tmp_path / "a")
    assert done.exit_code == 1 and "holds a run with fingerprint" in done.stderr


def stop():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("device", "gpu", "native_on_gpu", "instructions", "one_dnn", "expected"),
    [
        ("auto", False, False, {"avx512_bf16": True}, True, "bfloat16"),
        ("cpu", True, True, {"amx_bf16": True, "avx512_bf16": False}, True, "bfloat16"),
        ("auto", False, False, {"avx512_bf16": False, "amx_bf16": False}, True, "float32"),
        ("cpu", True, True, {}, True, "float32"),  # not an x86 processor
        ("auto", False, False, {"avx512_bf16": True}, False, "float32"),  # nothing that uses them
        ("auto", True, True, {}, True, "bfloat16"),
        ("spread", True, False, {"avx512_bf16": True}, True, "float32"),  # an old card
        ("cuda:1", True, True, {}, True, "bfloat16"),
        ("mps", False, False, {"avx512_bf16": True}, True, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_hardware_has_it(
    monkeypatch, device, gpu, native_on_gpu, instructions, one_dnn, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native_on_gpu,
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: one_dnn)
    assert choose_dtype("auto", "some/model", device) == expected
    assert choose_dtype("auto", "embedded", device) == "float32"
    assert choose_dtype("auto", MODEL, device) == "float32"
    assert choose_dtype("float16", "some/model", device) == "float16"


def test_the_record_says_what_auto_was(tmp_path, tiny_folder, monkeypatch):
    """And so do later commands; on a machine that chooses otherwise the run is not gone on with."""
    space = Workspace(tmp_path, tiny_folder)
    out, scored = tmp_path / "a", {"edited": tmp_path / "a", "requests": tmp_path / "requests.json"}
    monkeypatch.setattr("seqedit.lm.dtype.native_bfloat16", lambda device: True)
    done = space.call(dtype="auto", out=out)
    assert done.exit_code == 0 and "weights in bfloat16" in done.stderr
    assert load_run(out).run["parameters"]["dtype"] == "bfloat16"
    assert "auto" not in (out / "run.json").read_text()
    monkeypatch.setattr("seqedit.lm.dtype.native_bfloat16", lambda device: False)
    assert space.call("score", **scored, dtype="auto").exit_code == 0
    done = space.call("score", **scored)
    assert (
        done.exit_code == 1 and "whose weights were bfloat16; try --dtype bfloat16" in done.stderr
    )
    done = space.call(dtype="auto", out=out)
    assert done.exit_code == 1 and "holds a run with fingerprint" in done.stderr
    assert space.call(dtype="auto", out=tmp_path / "b").exit_code == 0
    assert load_run(tmp_path / "b").run["parameters"].get("dtype", "float32") == "float32"


def everything(lm, requests):
    """Keys, values, moments, weights after two rounds, of a model as it lies."""
    plan = build_plan(lm)
    moments = collect_second_moments(lm, [r.text for r in requests], (0, 2), progress=False)
    found = [
        read_keys(lm, requests, plan.contexts, 1),
        read_values(lm, requests, 2),
        moments[0].sum,
        moments[2].sum,
    ]
    list(run_sequential(lm, [requests[:3], requests[3:]], make_method("memit_seq", lam=0.5), plan))
    return [x.cpu() for x in found] + [read_weight(lm, layer).cpu() for layer in plan.layers]


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "llama"])
def test_dispatched_models_are_edited_alike(tiny_lm, requests, model_type):
    """Under `accelerate`'s hooks, which stand around every module of a model with a device map: the
    same bits.
    """
    expected = everything(tiny_lm(model_type), requests)
    lm = tiny_lm(model_type)
    dispatch_model(lm.model, {"": "cpu"}, main_device="cpu", force_hooks=True)
    assert any(hasattr(module, "_hf_hook") for module in lm.model.modules())
    for found, want in zip(everything(lm, requests), expected, strict=True):
        assert torch.equal(found, want)


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "llama"])
def test_blocks_on_two_devices(tiny_lm, requests, model_type):
    """The middle block on the GPU, all else on the CPU: what is read comes back to one device, and
    agrees.
    """
    expected = everything(tiny_lm(model_type), requests)
    lm = tiny_lm(model_type)
    add_hook_to_module(lm.model, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    for layer in range(lm.n_layers):
        device = "cuda" if layer == 1 else "cpu"
        lm.block(layer).to(device)
        for module in lm.block(layer).modules():
            add_hook_to_module(module, AlignDevicesHook(execution_device=device))
    for path in (lm.architecture.final_norm, lm.architecture.head):
        add_hook_to_module(lm.model.get_submodule(path), AlignDevicesHook(execution_device="cpu"))
    for found, want in zip(everything(lm, requests), expected, strict=True):
        assert relative(found, want) < 1e-3  # two kinds of arithmetic, through Adam
    assert lm.down_proj(1).weight.is_cuda and not lm.down_proj(0).weight.is_cuda


def test_offloaded_models_are_refused(tiny_lm, tiny_folder):
    """What `accelerate` leaves on the meta device is named, with what to do; a model that is there
    passes.
    """
    lm = tiny_lm()
    check_not_offloaded(lm.model)
    lm.down_proj(1).to("meta")
    with pytest.raises(
        ValueError, match="transformer.h.1.mlp.c_proj.weight, were left in .* Use --dtype bfloat16"
    ):
        check_not_offloaded(lm.model)
    spread = load_model(tiny_folder, device="spread")  # one device here: accelerate puts all on it
    assert same(weights(spread), weights(load_model(tiny_folder)))
