"""`seqedit plan`: what a run will take."""

from typing import Annotated

import typer

from ..command import Dtype, parse_layers, plain_errors


@plain_errors
def plan(
    model: Annotated[str, typer.Option(help="Folder or hub id, of which only the configuration is read; or gpt2-xl, "
                                            "gpt-j-6b, llama-2-7b, llama-3-8b, qwen2.5-7b.")],
    edits: Annotated[str, typer.Option(help="Number of edits, or a file of requests.")],
    method: Annotated[str, typer.Option(help="A locate-then-edit method; see `seqedit methods`.")] = "alphaedit",
    batch_size: Annotated[int, typer.Option(min=1, help="Requests per round.")] = 100,
    layers: Annotated[str | None, typer.Option(help="Edited layers; default: the papers', for named models.")] = None,
    dtype: Dtype = "float32",
    removed: Annotated[float, typer.Option(min=0, max=1, help="Share of the directions of C above τ.")] = 0.3,
    tokens: Annotated[int, typer.Option(min=0, help="Tokens that second moments are read from.")] = 100_000_000,
    tflops: Annotated[float | None, typer.Option(
        help="10¹² operations a second that the device reaches; default: measured, on a GPU if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, bytes and operations, instead of a table.")] = False,
) -> None:
    """Estimate memory, time and disk of a run from the model's configuration; nothing is loaded.

    Example: seqedit plan --model llama-3-8b --edits 2000 --method alphaedit --dtype bfloat16 --tflops 300
    """
    import json

    import torch

    from ..methods import make_method
    from ..requests import load_requests
    from .estimate import Texts, Work, estimate, measured_rate, table
    from .shapes import EDITED, config_of, shape_of

    count = int(edits) if edits.isdigit() else len(load_requests(edits))
    if count < 1:
        raise ValueError("--edits: give at least one")
    if layers is None and model not in EDITED:
        raise ValueError(f"--layers: give the edited layers; they are known for {', '.join(EDITED)}")
    chosen = EDITED[model] if layers is None else parse_layers(layers)
    kind = getattr(torch, dtype)
    work = Work(method=make_method(method), layers=chosen, edits=count, batch_size=min(batch_size, count), dtype=kind,
                removed=removed, moments_tokens=tokens)
    rate = tflops * 1e12 if tflops else measured_rate("cuda" if torch.cuda.is_available() else "cpu", kind)
    found = estimate(shape_of(config_of(model)), work, Texts(), rate)
    typer.echo(json.dumps(found, indent=1) if as_json else table(found))
    if not as_json and not tflops:
        typer.echo(f"\nat {rate / 1e12:.3g} TFLOP/s, a bare matrix product's rate on this machine; --tflops tells "
                   "another")
