"""`seqedit moments`: collect second moments, merge those of several jobs, make them compact."""

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    Device,
    Dtype,
    parse_layers,
    plain_errors,
    say,
)

app = typer.Typer(invoke_without_command=True)


@app.callback()
@plain_errors
def collect(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of a causal language model.")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Text, one document a line.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers, e.g. 3,4,5.")] = None,
    out: Annotated[Path | None, typer.Option(help="safetensors file, C.<layer>.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Instead of a text: wikipedia, or a dataset's hub id or local folder, which is streamed."
        ),
    ] = None,
    subset: Annotated[str | None, typer.Option(help="The dataset's configuration.")] = None,
    split: Annotated[str, typer.Option(help="The dataset's split.")] = "train",
    column: Annotated[str, typer.Option(help="The dataset's column of text.")] = "text",
    revision: Annotated[str | None, typer.Option(help="The dataset's commit on the hub.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to read; default: all.")] = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of a document to read at most; default: the model's positions."
        ),
    ] = None,
    part: Annotated[
        str, typer.Option(help="i/n: every n-th document from the i-th on, to be merged.")
    ] = "0/1",
    save_every: Annotated[int, typer.Option(min=1, help="Tokens between checkpoints.")] = 1_000_000,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Compute second moments of keys over a text, one pass for all layers.

    Interrupted and run again, it goes on where it was, to the same bits. The text may be a dataset that is streamed:
    --dataset wikipedia --tokens 100000000 --length 1024.

    Example: seqedit moments --model data/model --corpus data/world/corpus.txt --layers 1,2,3 --out moments.safetensors
    """
    if context.invoked_subcommand is not None:
        return
    for name, value in (("--model", model), ("--layers", layers), ("--out", out)):
        if value is None:
            raise typer.BadParameter(f"{name} is missing; see `seqedit moments --help`")

    import torch

    from ..lm.load import load_model
    from ..lm.second_moments import Reading
    from ..moments.collect import collect_to_file as write
    from ..moments.corpus import Corpus

    text = Corpus(
        file=corpus,
        dataset=dataset,
        subset=subset,
        split=split,
        column=column,
        revision=revision,
        part=_part(part),
    )
    chosen, lm = parse_layers(layers), load_model(model, device=device, dtype=getattr(torch, dtype))
    found = write(
        lm, text, chosen, out, Reading(length=length, tokens=tokens), save_every=save_every, say=say
    )
    typer.echo(f"{out}: {found.counts[chosen[0]]} tokens, layers {', '.join(map(str, chosen))}")


@app.command()
@plain_errors
def merge(
    files: Annotated[
        list[Path], typer.Argument(help="Files of `seqedit moments`, each of other texts.")
    ],
    out: Annotated[Path, typer.Option(help="safetensors file, C.<layer>.")],
) -> None:
    """Put second moments of several jobs together, weighted by their tokens.

    Example: seqedit moments merge part0.safetensors part1.safetensors --out moments.safetensors
    """
    from ..moments.merge import merge_files as together

    counts = together(files, out)
    typer.echo(f"{out}: {next(iter(counts.values()))} tokens, layers {', '.join(map(str, counts))}")


@app.command()
@plain_errors
def compact(
    file: Annotated[Path, typer.Argument(help="File of `seqedit moments`.")],
    floor: Annotated[
        float, typer.Option(help="Smallest eigenvalue that is kept, and smallest τ to be used.")
    ],
    out: Annotated[
        Path, typer.Option(help="safetensors file, vectors.<layer> and values.<layer>.")
    ],
) -> None:
    """Keep eigenvalues and eigenvectors from a floor on: all that a null space needs (AlphaEdit).

    Example: seqedit moments compact moments.safetensors --floor 0.005 --out compact.safetensors
    """
    from ..moments.merge import compact_file

    for layer, moment in compact_file(file, floor, out).items():
        typer.echo(
            f"layer {layer}: {len(moment.values)} of {len(moment.vectors)} directions kept, the others' mean "
            f"{moment.rest.item():.3g}"
        )
    typer.echo(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, before {file.stat().st_size / 1e6:.1f} MB"
    )


def _part(text: str) -> tuple[int, int]:
    try:
        i, n = text.split("/")
        return int(i), int(n)
    except ValueError as error:
        raise ValueError(f"--part {text!r}: expected i/n, e.g. 0/4") from error
