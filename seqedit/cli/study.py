"""`seqedit study`: the records that the book's chapters read; `seqedit preflight` before them."""

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, Jobs, make_app, say

app = make_app()


@app.command()
def study(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Studies, or single runs by id or as STUDY-LABEL-sSEED, or all; default: say how "
            "complete each study is."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="A few edits for each run, one seed; kept as study NAME-quick.")
    ] = False,
    jobs: Jobs = 1,
    device: Device = "cpu",
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
    from ..study.run_study import run_study, study_status
    from ..study.selection import QUICK, is_here, study_runs
    from ..study.studies import STUDIES

    chosen = list(STUDIES) if names == ["all"] or not names else names
    chosen = [name + QUICK if quick and name in STUDIES else name for name in chosen]
    if again:
        if not names:
            raise ValueError(
                "--again: name studies or single runs, or all, e.g. `seqedit study methods --again`"
            )
        raise typer.Exit(_make_again(chosen, jobs))
    if names == ["all"] or not names:
        for name in [*chosen]:
            if absent := [one for one in study_runs(name) if not is_here(one)]:
                say(f"{name}: left out; it needs {absent[0].model} and {absent[0].requests}")
                chosen.remove(name)
    if names:
        for name in chosen:
            typer.echo(f"{name}: {run_study(name, jobs=jobs, device=device)} runs made")
    for name in chosen:
        if name.removesuffix(QUICK) in STUDIES:
            typer.echo(f"{name}: {study_status(name)}")


def _make_again(names: list[str], jobs: int) -> int:
    """Make records once more and print what differs; the exit code."""
    from ..study.reproduce import remake

    found = remake(names, jobs=jobs)
    for run, difference in found.items():
        typer.echo(f"{run}: {difference}")
    return int(any(difference.fields for difference in found.values()))


@app.command()
def preflight(
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the counts; default: only print them.")
    ] = None,
) -> None:
    """Check what studies edit: does a probe ask for an edited fact, what does calibration share?

    Benchmarks that are not on the machine are named and left out. Ends with 1 if a run would count
    a probe of an edited fact, or calibration edits a fact of the results.

    Example: seqedit preflight
    """
    import pandas as pd

    from ..base.files import write_json
    from ..base.results import check_result
    from ..study import preflight as checks

    if out is not None:
        check_result(out, "preflight")
    here = [ground for ground in checks.GROUNDS if ground.is_here]
    for ground in checks.GROUNDS:
        if ground not in here:
            say(f"{ground.requests}: not on this machine; left out")
    found = checks.preflight(here)
    for row in found:
        typer.echo(f"{row['requests']}: {row['n']} requests")
        typer.echo(pd.DataFrame(row["probes"]).to_string(index=False))
        shared = ", ".join(f"{name} {n}" for name, n in row["calibration"].items())
        typer.echo(f"calibration and what results share with it: {shared}")
    if out is not None:
        write_json(out, {"preflight": found})
    raise typer.Exit(0 if all(map(checks.is_sound, found)) else 1)
