"""`seqedit plan`: memory, time and disk of a run, as a table."""

import time
from typing import Annotated, Any, cast

import typer

from .common import Dtype, chosen_dtype, is_number, make_app, parse_layers

app = make_app()
MOST_EDITS = 10**9
"""Largest number of edits that is planned for; there are not so many facts to edit."""


@app.command()
def plan(
    model: Annotated[
        str,
        typer.Option(
            help="Folder or hub id, of which only the configuration is read; or gpt2-xl, gpt-j-6b, "
            "llama-2-7b, llama-3-8b, qwen2.5-7b."
        ),
    ],
    edits: Annotated[str, typer.Option(help="Number of edits, or a file of requests.")],
    method: Annotated[
        str, typer.Option(help="A locate-then-edit method; see `seqedit methods`.")
    ] = "alphaedit",
    batch_size: Annotated[int, typer.Option(min=1, help="Requests per round.")] = 100,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to edit; default: those of the papers, for the named models."),
    ] = None,
    dtype: Dtype = "float32",
    removed: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the directions of C above τ.")
    ] = 0.3,
    compact: Annotated[
        bool, typer.Option("--compact", help="With compact second moments, floor at τ.")
    ] = False,
    tokens: Annotated[
        int, typer.Option(min=0, max=10**15, help="Tokens that second moments are read from.")
    ] = 100_000_000,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1e9,
            help="10¹² operations a second that the device reaches; default: measured, on a GPU if "
            "there is one.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON, in bytes and operations, instead of a table.")
    ] = False,
) -> None:
    """Estimate memory, time and disk of a run from the model's configuration; nothing is loaded.

    Example: seqedit plan --model llama-3-8b --edits 2000 --method alphaedit --dtype bfloat16
    --tflops 300
    """
    import json

    import torch

    from ..lm.default_layers import default_layers
    from ..methods.catalogue import make_method
    from ..methods.kinds.locate_then_edit import LocateThenEdit
    from ..planner.estimate import Texts, Work, estimate
    from ..planner.shapes import EDITED, config_of, shape_of
    from ..requests.published import load_requests

    if is_number(edits) and len(edits) > len(str(MOST_EDITS)):
        raise ValueError(f"--edits: give at most {MOST_EDITS:,}")
    count = int(edits) if is_number(edits) else len(load_requests(edits))
    if not 1 <= count <= MOST_EDITS:
        raise ValueError(f"--edits: give at least one and at most {MOST_EDITS:,}")
    shape = shape_of(config_of(model))
    own = EDITED.get(model, tuple(default_layers(shape.n_layers)))
    weights = chosen_dtype(dtype, model)
    work = Work(
        method=cast(LocateThenEdit, make_method(method)),  # Work refuses any other kind by name
        layers=own if layers is None else parse_layers(layers),
        edits=count,
        batch_size=min(batch_size, count),
        dtype=getattr(torch, weights),
        removed=removed,
        compact=compact,
        moments_tokens=tokens,
    )
    if tflops:
        rate = tflops * 1e12
    else:
        rate = measured_rate("cuda" if torch.cuda.is_available() else "cpu", weights)
    found = estimate(shape, work, Texts(), rate)
    typer.echo(json.dumps(found, indent=1) if as_json else table(found))
    if not as_json and not tflops:
        typer.echo(
            f"\nat {rate / 1e12:.3g} TFLOP/s, a bare matrix product's rate on this machine; "
            "give another with --tflops"
        )


def table(found: dict[str, Any]) -> str:
    """The estimate as lines of text, in GB (10⁹ bytes), TFLOP and hours.

    Args:
        found: what `planner.estimate.estimate` returns.
    """
    shape, memory = found["shape"], found["memory"]
    lines = [
        f"{shape['parameters']:,} parameters, {shape['n_layers']} layers, d_model "
        f"{shape['d_model']}, d_ff {shape['d_ff']}; {found['rounds']} rounds"
    ]
    lines += _section("memory on the device, throughout", memory["standing"], "GB")
    lines += _section("memory on the device, one at a time", memory["passing"], "GB")
    lines.append(
        f"  at its peak: a run {memory['run'] / 1e9:.1f} GB, second moments "
        f"{memory['second moments'] / 1e9:.1f} GB"
    )
    lines += _section("memory of the CPU", found["cpu_memory"], "GB")
    lines += _section("disk", found["disk"], "GB")
    lines += _section("work, if no target stops early", found["flops"], "TFLOP")
    if found["seconds"]:
        lines.append("\ntime, at least")
        lines += [f"  {name:<32}{_duration(value):>15}" for name, value in found["seconds"].items()]
    return "\n".join(lines)


def _section(title: str, values: dict[str, float], unit: str) -> list[str]:
    """A title and one line for each value that is not zero, in GB or TFLOP."""
    scale = {"GB": 1e9, "TFLOP": 1e12}[unit]
    rows = [
        f"  {name:<32}{value / scale:>12,.2f} {unit}" for name, value in values.items() if value
    ]
    return [f"\n{title}", *rows]


def _duration(seconds: float) -> str:
    """A time in the largest of h, min, s and ms of which it is at least one."""
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds / 1e-3:,.1f} ms"


def measured_rate(device: str, dtype: str, size: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations a second of a square matrix product, the fastest of a few."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
