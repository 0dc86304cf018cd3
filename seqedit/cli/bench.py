"""`seqedit bench`: how fast the methods are, beside the plain way."""

from pathlib import Path
from typing import Annotated

import typer

from .common import make_app

app = make_app()


@app.command()
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="round, flops, rounds, evaluation, solve, forms; default: all of these. On a GPU "
            "also full-size."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the record.")] = None,
) -> None:
    """Measure the speed-ups beside the plain way (minutes; needs a clone with its embedded model).

    Example: seqedit bench round evaluation
    """
    from ..bench.speed import run_benches

    run_benches(names or [], out, typer.echo)
