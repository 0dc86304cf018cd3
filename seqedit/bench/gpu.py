"""Answer on a machine with a GPU what the CPU cannot: does it work there, and how fast is it?"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from ..base.files import write_json
from ..base.paths import MODEL
from ..planner.shapes import EDITED, config_of
from ..runs.code import code_digest
from .full_size import FULL_SIZE, bench_model, model_line
from .rounds import bench_round, round_line

Stage = Callable[[], dict[str, Any]]


def bench_gpu(
    names: tuple[str, ...] = (), out: Path | None = None, say: Callable[[str], object] = print
) -> dict[str, Any]:
    """Run the stages one after the other; what a record of the same card and code has is kept.

    Args:
        names: names of `stages()`; all if empty.
        out: JSON file of the record, written after each stage.
        say: receives a line for each stage as soon as it is done.

    Returns:
        The record: the card, the versions, the code, and each stage's result with whether it
        `passed`. A stage that did not is measured again the next time.

    Raises:
        ValueError: there is no GPU, or no such stage.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "bench gpu: torch sees no GPU; it needs one with about 30 GB for models of 8 billion "
            "weights (`seqedit plan --model llama-3-8b --edits 300 --dtype bfloat16` says what "
            "takes how much)"
        )
    known = stages()
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no stage named {unknown[0]!r}; there are {', '.join(known)}")
    record: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "code": code_digest("alphaedit"),
        "stages": {},
    }
    if out is not None and out.exists():
        earlier = json.loads(out.read_text(encoding="utf-8"))
        if all(earlier.get(key) == record[key] for key in record if key != "stages"):
            record = earlier
    for name in ("card", *names) if names else known:
        if not record["stages"].get(name, {}).get("passed"):
            start = time.perf_counter()
            found: dict[str, Any]
            try:
                found = {"passed": True} | known[name]()
            except Exception as error:  # the others are measured all the same
                found = {"passed": False, "error": f"{type(error).__name__}: {error}"}
            record["stages"][name] = found | {"stage_seconds": time.perf_counter() - start}
            if out is not None:
                write_json(out, record)
        say(f"{name}: {stage_line(name, record)}")
    return record


def stages() -> dict[str, Stage]:
    """Name → measurement, in the order in which they run."""
    return {
        "card": measure_card,
        "tests": run_tests,
        "embedded": partial(bench_round, 20),
        **{name: partial(bench_model, config_of(name), EDITED[name]) for name in FULL_SIZE},
    }


def measure_card(size: int = 8192, repeats: int = 10) -> dict[str, Any]:
    """The rate of a product of two square matrices, by dtype.

    Args:
        size: of the matrices; a quarter of it in float64.
        repeats: number of products that are timed together.
    """
    rates = {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        n = size // 4 if dtype == torch.float64 else size
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        for _ in range(3):  # load kernels
            a @ b
        _wait(device)
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        _wait(device)
        seconds = (time.perf_counter() - start) / repeats
        rates[str(dtype).removeprefix("torch.")] = 2 * n**3 / seconds
    return {"matmul_rate": rates}


def run_tests() -> dict[str, Any]:
    """Run the tests that are marked for a GPU, in a process of their own."""
    root = MODEL.parents[1]
    files = [p for p in sorted((root / "tests").glob("test_*.py")) if "mark.gpu" in p.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *files], cwd=root, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    summary = lines[-1] if lines else done.stderr.strip()[-300:]
    return {"passed": done.returncode == 0, "summary": summary, "failed": failed}


def stage_line(name: str, record: dict[str, Any]) -> str:
    """The result of a stage in a line."""
    result = record["stages"][name]
    if "error" in result:
        return f"failed, {result['error']}"
    if name == "card":
        rates = ", ".join(f"{dtype} {r / 1e12:.0f}" for dtype, r in result["matmul_rate"].items())
        return f"{record['card']}, products at {rates} TFLOP/s"
    if name == "tests":
        return "; ".join([result["summary"], *result["failed"]])
    if name == "embedded":
        return round_line(result)
    return model_line(result, record["stages"]["card"].get("matmul_rate", {}))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
