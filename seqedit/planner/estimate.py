"""Estimate the memory, time and disk of a run by formulas, before anything is loaded.

`seqedit plan` prints the estimate. The formulas are in `operations` and `memory`.
"""

from dataclasses import asdict
from typing import Any

from .memory import cpu_bytes, disk_bytes, passing_bytes, standing_bytes
from .operations import run_flops
from .shapes import Shape
from .work import Texts, Work


def estimate(shape: Shape, work: Work, texts: Texts, rate: float | None = None) -> dict[str, Any]:
    """Estimate a run.

    Args:
        shape: of the model.
        work: the run.
        texts: lengths of the requests' texts.
        rate: floating-point operations per second that the device reaches; without it no times are
            estimated.

    Returns:
        Memory and disk in bytes (`memory`, `cpu_memory`, `disk`), operations (`flops`) and times in
        seconds (`seconds`, None without a rate), each by purpose or stage; with what they are for
        (`shape`, `texts`, `rounds`).

    Raises:
        ValueError: a layer is out of range.
    """
    if not work.layers or not all(0 <= layer < shape.n_layers for layer in work.layers):
        raise ValueError(
            f"layers {list(work.layers)}: the model has layers 0 to {shape.n_layers - 1}"
        )
    standing, passing = standing_bytes(shape, work), passing_bytes(shape, work, texts)
    stages = [size for stage, size in passing.items() if stage != "computing second moments"]
    flops = run_flops(shape, work, texts)
    run = sum(flops.values()) - flops["second moments"]
    flops |= {"run": run, "round": run / work.rounds}
    return {
        "shape": asdict(shape),
        "rounds": work.rounds,
        "texts": asdict(texts),
        "memory": {
            "standing": standing,
            "passing": passing,
            "run": sum(standing.values()) + max(stages),
            "second moments": standing["weights"] + passing["computing second moments"],
        },
        "cpu_memory": cpu_bytes(shape, work),
        "disk": disk_bytes(shape, work),
        "flops": flops,
        "seconds": {stage: count / rate for stage, count in flops.items()} if rate else None,
    }
