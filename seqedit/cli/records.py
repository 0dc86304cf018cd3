"""`seqedit records`: list, export and compare the records of studies."""

from pathlib import Path
from typing import Annotated

import typer

from .common import make_app

app = make_app(help="List, export and compare the records of studies.")

Study = Annotated[str, typer.Argument(help="A study, or a folder of its tables.")]
Side = Annotated[
    str, typer.Argument(help="A study or a folder of its tables; or a run, by id or folder.")
]


@app.command("list")
def list_(study: Study) -> None:
    """List the runs in the tables of a study.

    Example: seqedit records list methods
    """
    from ..study.export import list_runs

    typer.echo(list_runs(study).to_string(index=False))


@app.command()
def export(
    study: Study,
    out: Annotated[Path, typer.Option(help="Folder for runs.csv, rounds.csv, scores.csv …")],
) -> None:
    """Write the tables of a study as CSV files.

    Example: seqedit records export methods --out methods-csv
    """
    from ..study.export import export_csv

    for file in export_csv(study, out):
        typer.echo(str(file))


@app.command()
def compare(a: Side, b: Side) -> None:
    """Say what differs between two runs, or between two studies run by run; ends with 1 if anything
    does.

    Example: seqedit records compare data/results/methods elsewhere/data/results/methods
    """
    from ..study.reproduce import RecordDifference, compare_sides

    found = compare_sides(a, b)
    for run, difference in found.items():
        typer.echo(f"{run}: {difference}")
    same = all(isinstance(one, RecordDifference) and not one.fields for one in found.values())
    raise typer.Exit(0 if same else 1)
