"""The `seqedit` command: the groups of commands put together.

Modules that take long to import (torch, transformers, the package's own) are imported inside the
commands, so that help appears at once.
"""

from typing import Annotated

import typer

from . import (
    bench,
    edit,
    exchange,
    methods,
    model,
    moments,
    plan,
    records,
    restrain,
    score,
    side_by_side,
    streams,
    study,
    tune,
    undo,
    world,
)
from .common import make_app

app = make_app()


@app.callback()
def seqedit(
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="SEQEDIT_DEBUG", help="Show the traceback of an error."),
    ] = False,
) -> None:
    """Sequential model editing: write facts into a model's weights, and measure what it cost."""


groups = (
    edit,
    score,
    restrain,
    streams,
    exchange,
    undo,
    methods,
    plan,
    side_by_side,
    tune,
    study,
    bench,
)
for group in groups:
    app.add_typer(group.app)  # without a name: its commands become commands of `seqedit` itself
app.add_typer(model.app, name="model")
app.add_typer(moments.app, name="moments")
app.add_typer(records.app, name="records")
app.add_typer(world.app, name="world")


if __name__ == "__main__":
    app()
