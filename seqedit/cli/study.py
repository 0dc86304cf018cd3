"""`seqedit study`: the records that the book's chapters read."""

from typing import Annotated

import typer

from .common import make_app

app = make_app()


@app.command()
def study(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Studies or single runs by name, or all; default: say how complete each study is."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="A few edits for each run, one seed, under separate names.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Runs at a time, one thread each.")
    ] = 1,
    again: Annotated[
        bool,
        typer.Option(
            help="Make existing records once more in a temporary folder and say what differs; exit "
            "code 1 if anything does."
        ),
    ] = False,
) -> None:
    """Make the missing ones of the records that chapters read; an interrupted study is resumed.

    Example: seqedit study methods -j 2
    """
    from ..study.run_study import run_study, standing
    from ..study.studies import STUDIES

    if names == ["all"]:
        names = list(STUDIES)
    if again:
        raise typer.Exit(_make_again(names, quick, jobs))
    for name in names or ():
        typer.echo(f"{name}: {run_study(name, quick=quick, jobs=jobs)} runs made")
    for name in names or STUDIES:
        typer.echo(f"{name}: {standing(name, quick)}")


def _make_again(names: list[str] | None, quick: bool, jobs: int) -> int:
    """Make records once more and print what differs; the exit code.

    Raises:
        ValueError: no study or run is named.
    """
    from ..study.reproduce import repeat

    if not names:
        raise ValueError(
            "--again: name studies or single runs, or all, e.g. `seqedit study methods --again`"
        )
    found = repeat(names, quick=quick, jobs=jobs)
    for run_id, repetition in found.items():
        typer.echo(f"{run_id}: {repetition}")
    return int(any(repetition.fields for repetition in found.values()))
