"""The full-size benchmark in a tiny shape on the CPU, and errors for too little memory."""

import pytest
import torch
from transformers import AutoConfig
from typer.testing import CliRunner

from seqedit.bench import gpu
from seqedit.bench.full_size import bench_model, model_line
from seqedit.cli.common import out_of_memory
from seqedit.cli.main import app

SIZES = {
    "gptj": {
        "n_embd": 16,
        "n_layer": 4,
        "n_head": 2,
        "rotary_dim": 4,
        "n_positions": 128,
        "vocab_size": 6000,
    },
    "llama": {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 40,
        "max_position_embeddings": 128,
        "vocab_size": 6000,
    },
}


@pytest.mark.parametrize("model_type", SIZES)
def test_tiny_shape_is_measured_and_estimated(model_type):
    """All stages run in bfloat16, rounds take seconds, and the estimate stands beside them."""
    config = AutoConfig.for_model(model_type, **SIZES[model_type], bos_token_id=0, eos_token_id=0)
    found = bench_model(config, (0, 1), device="cpu", rounds=2, batch_size=3, moments_tokens=500)
    assert len(found["rounds"]) == 2 and all(
        s["targets"] > 0 and s["solve"] > 0 for s in found["rounds"]
    )
    assert found["moments_tokens"] == 500 and found["peak_bytes"] is None
    assert (
        found["estimated"]["round_flops"] > 0
        and 1 < found["texts"]["subject_end"] <= found["texts"]["prompt"]
    )
    line = model_line(found, {"bfloat16": 1e9})
    assert "rounds of 3 edits" in line and "a million tokens" in line
    assert "% of a product's" in line and "not measured on a CPU" in line
    found |= {"peak_bytes": 3e9, "moments_peak_bytes": 2e9}
    assert "peak 3.0 GB (estimated " in model_line(found, {"bfloat16": 1e9})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_measurements_are_refused():
    done = CliRunner().invoke(app, ["bench", "gpu"])
    assert done.exit_code == 1 and "torch sees no GPU" in done.stderr
    assert "seqedit plan --model llama-3-8b" in done.stderr


def test_gpu_measurements_resume(tmp_path, monkeypatch):
    """A stage that the record has is not measured again; one of another card is."""
    calls = []

    def measured(*_):
        calls.append("card")
        return {"matmul_rate": {"bfloat16": 8e14, "float32": 5e13}}

    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(gpu, "measure_card", measured)
    monkeypatch.setattr(
        gpu, "run_tests", lambda: {"passed": True, "summary": "3 passed", "failed": []}
    )
    out, said = tmp_path / "gpu.json", []
    for _ in range(2):
        gpu.bench_gpu(("tests",), out, said.append)
    assert calls == ["card"] and said[1] == said[3] == "tests: 3 passed"
    assert said[0] == "card: a card, products at bfloat16 800, float32 50 TFLOP/s"
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: "another")
    record = gpu.bench_gpu(("card",), out)
    assert calls == ["card", "card"] and record["card"] == "another"
    assert "tests" not in record["stages"]
    monkeypatch.setattr(gpu, "run_tests", lambda: 1 / 0)
    record = gpu.bench_gpu(("tests",), out, said.append)
    assert not record["stages"]["tests"]["passed"] and "failed, ZeroDivisionError" in said[-1]
    assert CliRunner().invoke(app, ["bench", "gpu", "tests", "--out", str(out)]).exit_code == 1
    with pytest.raises(ValueError, match="no stage named 'x'; there are card, tests, embedded"):
        gpu.bench_gpu(("x",))


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU `make gpu` measures it")
def test_card_is_measured():
    rates = gpu.measure_card(64, 1)["matmul_rate"]
    assert set(rates) == {"bfloat16", "float32", "float64"} and min(rates.values()) > 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: "
            "you tried …"
        ),
    ],
)
def test_too_little_memory_is_told_with_what_to_do(monkeypatch, error):
    """One line and no traceback; any other RuntimeError is a bug, and said to be one."""

    def bench_that_ends_in(error):
        def fail(*args, **rest):
            raise error

        monkeypatch.setattr("seqedit.bench.speed.run_benches", fail)
        return CliRunner().invoke(app, ["bench"])

    done = bench_that_ends_in(error)
    assert done.exit_code == 1 and done.stderr.startswith("error: not enough memory")
    for advice in (
        "seqedit plan",
        "--dtype bfloat16",
        "--batch-size",
        "--device cpu",
        "goes on from its last round",
    ):
        assert advice in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    other = RuntimeError("shapes cannot be multiplied")
    assert not out_of_memory(other)
    done = bench_that_ends_in(other)
    assert done.exit_code == 70 and "bug in seqedit: RuntimeError: shapes" in done.stderr
