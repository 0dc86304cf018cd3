"""`seqedit tune`: choose the settings of methods for a model."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..base.paths import OUTPUT
from .common import Dtype, Jobs, chosen_dtype, make_app

app = make_app()


@app.command()
def tune(
    methods: Annotated[
        list[str],
        typer.Argument(
            help="Methods whose settings are searched; target, the target settings that all share "
            "(search it first); or all, every method of the catalogue that has ranges."
        ),
    ],
    table: Annotated[
        Literal["shared", "own"],
        typer.Option(
            help="shared: targets optimised alike for all methods; own: as is best for each."
        ),
    ] = "shared",
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of each method, those of an earlier call included.")
    ] = 10,
    model: Annotated[
        str, typer.Option(help="Folder, hub id, embedded, or a name of `seqedit model list`.")
    ] = "embedded",
    dtype: Dtype = "float32",
    requests: Annotated[
        Path | None,
        typer.Option(
            help="Calibration requests; default: those of the fictional world for embedded, of "
            "data/facts for others."
        ),
    ] = None,
    kept: Annotated[
        Path | None,
        typer.Option(
            help="Facts that are never edited, JSON lines of prompt and target; default: those "
            "that belong to the default requests."
        ),
    ] = None,
    results: Annotated[
        str | None,
        typer.Option(
            help="Requests of the results; a calibration that shares one is refused; default: "
            "world for embedded, facts for others."
        ),
    ] = None,
    edits: Annotated[
        int | None,
        typer.Option(
            min=1, help="Requests that a trial edits; default: 400 for embedded, 100 for others."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests in a round.")] = 50,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value: a setting that is not searched; key=low..high: one that is searched "
            "between other ends than the catalogue's; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the settings; default: where `seqedit edit` looks for those of "
            "embedded and of the models of `seqedit model list`."
        ),
    ] = None,
    jobs: Jobs = 1,
) -> None:
    """Choose settings by trials on calibration facts; interrupted, it resumes.

    Example: seqedit tune target memit alphaedit
    """
    from ..lm.registry import MODELS
    from ..runs.settings import parse_assignments
    from ..study.calibration import Calibration, check_disjoint
    from ..study.tune import searchable, tune_all

    names = searchable(methods)
    embedded = model == "embedded"
    if out is None and not embedded and model not in MODELS:
        raise ValueError(f"out: give a folder for the settings of {model}")
    out = out or OUTPUT / "hyper" / ("" if embedded else model)
    calibration = Calibration() if embedded else Calibration.of_facts(model)
    if requests is not None:
        calibration = replace(calibration, requests=requests, kept=kept)
    edits = edits or calibration.edits
    weights = chosen_dtype(dtype, model)
    calibration = replace(calibration, edits=edits, batch_size=batch_size, dtype=weights)
    check_disjoint(calibration, results or ("world" if embedded else "facts"))
    for name, search in tune_all(
        names,
        table=table,
        calibration=calibration,
        trials=trials,
        given=parse_assignments(set_ or []),
        out=out,
        jobs=jobs,
    ):
        best = max(trial["quality"] for trial in search["trials"])
        typer.echo(f"{name}: quality {best:.3f} of {len(search['trials'])} trials")
        for setting, edge in search["edges"].items():
            typer.echo(f"  {setting} is {edge}")
