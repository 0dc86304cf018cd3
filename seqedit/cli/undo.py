"""`seqedit undo`: take single edits out of a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, Model, make_app, say

app = make_app()


@app.command()
def undo(
    model: Model,
    edited: Annotated[Path, typer.Option(help="Folder of a run made with --undoable.")],
    case_id: Annotated[list[str], typer.Option(help="case_id of an edit to take out; repeatable.")],
    out: Annotated[Path, typer.Option(help="File for the edits that are left; must not exist.")],
    moments: Annotated[
        Path | None, typer.Option(help="Second moments, where the run was given a file of them.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text for second moments, where the run was given one.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Take single edits out of a long run, without making the others again.

    What is left equals never having made them as far as the keys and targets of the others would
    have been the same. The file can be given as --edited to other commands, and reverted.

    Example: seqedit undo --model embedded --edited runs/memit --case-id 17 --out rest.safetensors
    """
    from dataclasses import replace

    from ..exchange.factors import factor_edits, save_edits
    from ..lm.load import load_model
    from ..runs.config import RunConfig
    from ..runs.records import read_run
    from ..runs.undo import undo_in_run

    if out.exists():
        raise ValueError(f"out: {out} exists already; choose another name")
    config = RunConfig(
        model=model,
        requests="",
        method=read_run(edited)["method"],
        moments=moments,
        corpus=corpus,
        undoable=True,
    )
    lm = load_model(model, device=device)
    edits = factor_edits(lm, edited, lambda lm, run: undo_in_run(lm, run, case_id, config, say=say))
    left = edits.about["n_edits"] - len({*case_id})
    save_edits(out, replace(edits, about=edits.about | {"n_edits": left, "undone": case_id}))
    typer.echo(f"{out}: {left} edits are left; give it as --edited")
