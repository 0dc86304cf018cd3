"""`seqedit methods` and `seqedit presets`: the methods, and their published settings."""

from collections.abc import Callable, Mapping
from inspect import cleandoc
from typing import Annotated, Any

import typer

from .common import make_app

app = make_app()


@app.command()
def methods() -> None:
    """List the methods and what composes with them, with their parameters and defaults.

    Example: seqedit methods
    """
    from inspect import signature

    from ..methods.catalogue import METHODS, method_parameters
    from ..methods.combinators import COMBINATORS

    for name, make in METHODS.items():
        typer.echo(_line(name, make, method_parameters(name)))
    typer.echo("\nAfter a method, joined by +, as in memit+with_history+prune:")
    for name, combine in COMBINATORS.items():
        parameters = signature(combine).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.name != "base"}
        typer.echo(_line(f"+{name}", combine, defaults))


def _line(name: str, make: Callable, defaults: Mapping[str, Any]) -> str:
    """One row of the table: name, parameters with defaults, first line of the docstring."""
    words = []
    for parameter, value in defaults.items():
        shown = f"{value:g}" if isinstance(value, int | float) else str(value)
        words.append(f"{parameter}={shown}")
    return f"{name:<19}{' '.join(words):<52}{cleandoc(make.__doc__ or '').splitlines()[0]}"


@app.command()
def presets(
    method: Annotated[
        str | None, typer.Argument(help="A method of `seqedit methods`; default: all.")
    ] = None,
    model: Annotated[
        str | None, typer.Argument(help="A model of the list; default: list the models.")
    ] = None,
) -> None:
    """List the published settings, or show those of one method and model, each with its source.

    Example: seqedit presets alphaedit llama-3-8b
    """
    from ..methods.catalogue import canonical, method_parameters
    from ..runs.presets import HUB_IDS, PRESETS, preset_rows

    if method:
        method_parameters(method)  # raises ValueError for an unknown name
        method = canonical(method)
    if method and model:
        for name, value, source in preset_rows(method, model):
            typer.echo(f"{name:<18}{value!r:<22}{source}")
        return
    for name, models in PRESETS.items():
        if method is None or method.partition("+")[0] == name:
            typer.echo(f"{name:<14}{', '.join(models)}")
    typer.echo("\nUsed by default for these models, or by name with --preset for a local folder:")
    for name, ids in HUB_IDS.items():
        typer.echo(f"{name:<14}{', '.join(ids)}")
