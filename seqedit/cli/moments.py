"""`seqedit moments`: collect second moments, merge, import released ones, make them compact."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..base.paths import OUTPUT
from .common import (
    Device,
    Dtype,
    Jobs,
    chosen_dtype,
    is_number,
    make_app,
    parse_layers,
    say,
)

app = make_app(no_args_is_help=False, invoke_without_command=True)


@app.callback()
def collect(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of a causal language model.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Text file, one document a line; or self, text that the model writes itself, ten "
            "tokens for each entry of a key unless --tokens says how many."
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers, e.g. 3,4,5.")] = None,
    out: Annotated[Path | None, typer.Option(help="safetensors file for C.<layer>.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Instead of a file: wikipedia, or a dataset's hub id or local folder, which is "
            "streamed."
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
            min=1, help="Tokens to read of each document; default: the model's positions."
        ),
    ] = None,
    part: Annotated[
        str, typer.Option(help="i/n: every n-th document from the i-th on, to be merged.")
    ] = "0/1",
    save_every: Annotated[int, typer.Option(min=1, help="Tokens between checkpoints.")] = 1_000_000,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Compute second moments of keys over a text, in one pass for all layers.

    Interrupted and run again, it goes on where it was and reaches the same bits. The text may be a
    dataset that is streamed: --dataset wikipedia --tokens 100000000 --length 1024.

    Example: seqedit moments --model data/model --corpus data/world/corpus.txt --layers 1,2,3 --out
    moments.safetensors
    """
    if context.invoked_subcommand is not None:
        return
    if model is None:
        raise _missing("--model")
    if layers is None:
        raise _missing("--layers")
    if out is None:
        raise _missing("--out")

    import torch

    from ..lm.load import load_model
    from ..lm.second_moments import Reading
    from ..moments.cache import check_layers
    from ..moments.collect import collect_to_file
    from ..moments.corpus import Corpus
    from ..runs.self_text import SELF, self_text

    chosen = tuple(sorted(parse_layers(layers)))
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"--layers {layers!r}: names a layer twice")
    text = Corpus(
        file=corpus,
        dataset=dataset,
        subset=subset,
        split=split,
        column=column,
        revision=revision,
        part=_part(part),
    )
    lm = load_model(model, device=device, dtype=getattr(torch, chosen_dtype(dtype, model, device)))
    check_layers(lm, chosen)
    if corpus == SELF:
        text = replace(text, file=self_text(lm, tokens))
    found = collect_to_file(
        lm, text, chosen, out, Reading(length=length, tokens=tokens), save_every=save_every, say=say
    )
    typer.echo(f"{out}: {found.counts[chosen[0]]} tokens, layers {', '.join(map(str, chosen))}")


@app.command()
def merge(
    files: Annotated[
        list[Path], typer.Argument(help="Files of `seqedit moments`, each of different texts.")
    ],
    out: Annotated[Path, typer.Option(help="safetensors file for C.<layer>.")],
) -> None:
    """Put second moments of several jobs together, weighted by their tokens.

    Example: seqedit moments merge part0.safetensors part1.safetensors --out moments.safetensors
    """
    from ..moments.merge import merge_files

    counts = merge_files(files, out)
    typer.echo(f"{out}: {next(iter(counts.values()))} tokens, layers {', '.join(map(str, counts))}")


@app.command()
def compact(
    file: Annotated[Path, typer.Argument(help="File of `seqedit moments`.")],
    floor: Annotated[
        float, typer.Option(help="Smallest eigenvalue to keep, which is the smallest τ to use.")
    ],
    out: Annotated[
        Path, typer.Option(help="safetensors file for vectors.<layer> and values.<layer>.")
    ],
) -> None:
    """Keep the eigenvalues from a floor on: all that a null space needs (AlphaEdit).

    Example: seqedit moments compact moments.safetensors --floor 0.005 --out compact.safetensors
    """
    from ..moments.merge import compact_file

    for layer, moment in compact_file(file, floor, out).items():
        typer.echo(
            f"layer {layer}: {len(moment.values)} of {len(moment.vectors)} directions kept, the "
            f"mean of the others {moment.rest.item():.3g}"
        )
    after, before = (path.stat().st_size / 1e6 for path in (out, file))
    typer.echo(f"{out}: {after:.1f} MB, before {before:.1f} MB")


@app.command()
def compare(
    file: Annotated[Path, typer.Argument(help="File of `seqedit moments`.")],
    reference: Annotated[Path, typer.Argument(help="Another one, of the same model and layers.")],
    threshold: Annotated[float, typer.Option(help="τ of the null spaces.")] = 2e-2,
) -> None:
    """Say how far second moments are from others, as matrices and by their null spaces.

    Example: seqedit moments compare own.safetensors wikipedia.safetensors
    """
    from ..moments.compare import compare_files

    typer.echo(compare_files(file, reference, threshold).round(3).to_string())


@app.command()
def budgets(
    corpus: Annotated[
        Path, typer.Option(help="Text to compare with the model's own, one document a line.")
    ],
    model: Annotated[
        str, typer.Option(help="Folder, hub id or a name of `seqedit model list`.")
    ] = "smollm2-135m",
    n_edits: Annotated[int, typer.Option(min=1, help="Facts to edit with each.")] = 60,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the table; default: only print it.")
    ] = None,
    jobs: Jobs = 1,
) -> None:
    """Compare second moments of the model's own text with those of another text, by their length.

    Each is compared with a long stretch of the other text, and used to edit the same facts. An hour
    or more on two cores; interrupted, it resumes.

    Example: seqedit moments budgets --corpus wikipedia.txt
    """
    from ..base.files import write_json
    from ..base.results import check_result
    from ..study.moment_budgets import Budgets, compare_budgets

    if out is not None:
        check_result(out, "budgets")
    asked = Budgets(model=model, corpus=corpus, n_edits=n_edits)
    found = compare_budgets(
        asked, OUTPUT / "runs" / f"budgets-{Path(model).name}-{n_edits}", jobs=jobs, say=say
    )
    typer.echo(found.round(3).to_string(index=False))
    if out is not None:
        about = {"model": Path(model).name, "n_edits": n_edits}
        write_json(out, about | {"budgets": found.to_dict("records")})


@app.command("import")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="Released .npz files, one a layer, under their own names.")
    ],
    out: Annotated[Path, typer.Option(help="safetensors file for C.<layer>.")],
) -> None:
    """Make one file of the second moments that ROME's and MEMIT's authors release.

    They hold sums of keys, which are divided by their counts here.

    Example: seqedit moments import stats/*_float32_mom2_100000.npz --out moments.safetensors
    """
    from ..moments.released import import_released

    counts = import_released(files, out)
    typer.echo(f"{out}: {next(iter(counts.values()))} tokens, layers {', '.join(map(str, counts))}")


def _missing(option: str) -> typer.BadParameter:
    """The usage error for an option that `moments` needs, though `moments merge` does not."""
    return typer.BadParameter(f"{option} is missing; see `seqedit moments --help`")


def _part(text: str) -> tuple[int, int]:
    """i and n from text such as "0/4".

    Raises:
        ValueError: the text is not two numbers separated by a slash.
    """
    i, _, n = text.partition("/")
    if not (is_number(i) and is_number(n)):
        raise ValueError(f"--part {text!r}: expected i/n, e.g. 0/4")
    return int(i), int(n)
