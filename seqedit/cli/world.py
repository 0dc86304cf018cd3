"""`seqedit world …`: build the fictional world, train its model and the networks of its editors."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..base.paths import MODEL, OUTPUT
from .common import OneDevice, Seed, make_app

app = make_app(help="The fictional world and the model trained on it.")


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder for the world's records.")] = OUTPUT / "world",
    seed: Seed = 0,
) -> None:
    """Write facts, edit records, tasks and texts (seconds; a seed always gives the same bytes).

    Example: seqedit world build --out data/world
    """
    from ..world.build import write_world

    for name, count in write_world(out, seed).items():
        typer.echo(f"{out.name}/{name}: {count} rows")


@app.command()
def subjects(
    out: Annotated[Path, typer.Option(help="JSON file for the records.")],
    seed: Seed = 0,
) -> None:
    """Write edit records for both facts of each subject, for `--stream same_subject`.

    Example: seqedit world subjects --out subjects.json
    """
    from ..base.files import write_json
    from ..base.results import check_result
    from ..world.facts import build_world
    from ..world.streams import subject_records

    check_result(out)
    records = subject_records(build_world(seed), "edit", seed)
    write_json(out, records)
    typer.echo(f"{out}: {len(records)} records")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the trained model.")] = OUTPUT / "model",
    seed: Seed = 0,
    steps: Annotated[
        int,
        typer.Option(min=1, max=10**7, help="Steps of 4,096 tokens; fewer give a weaker model."),
    ] = 1400,
    device: OneDevice = "auto",
) -> None:
    """Train the embedded model. Interrupted, it resumes from its last checkpoint.

    Example: seqedit world train --out data/model
    """
    import torch

    from ..world.train import TrainConfig
    from ..world.train import train as train_model

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    train_model(out, TrainConfig(seed=seed, steps=steps), device)
    typer.echo(f"model written to {out}")


@app.command()
def check(
    model: Annotated[Path, typer.Option(help="Folder of the trained model.")] = MODEL,
    out: Annotated[Path, typer.Option(help="JSON file for the figures.")] = OUTPUT
    / "acceptance.json",
) -> None:
    """Measure the acceptance figures; exit code 1 when one is missed.

    Example: seqedit world check --model data/model
    """
    from ..base.files import write_json
    from ..base.results import check_result
    from ..lm.load import load_model
    from ..world.acceptance import measure

    if not model.is_dir():
        raise ValueError(f"--model: there is no folder {model}")
    check_result(out, "facts", "tasks", "perplexity", "accepted")
    lm = load_model(model)
    figures = measure(lm)
    write_json(out, figures)
    typer.echo(json.dumps(figures, indent=1))
    raise typer.Exit(0 if figures["accepted"] else 1)


@app.command("train-editor")
def train_editor(
    name: Annotated[str, typer.Argument(help="mend, rledit or rledit_released.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: data/editors/NAME.safetensors.")
    ] = None,
) -> None:
    """Train the network of an editor for the embedded model on calibration facts (minutes).

    Example: seqedit world train-editor mend
    """
    from ..study.train_editors import train_editor as train_network

    out = out or OUTPUT / "editors" / f"{name}.safetensors"
    losses = train_network(name, out)
    batches, best = min(losses, key=lambda one: one[1])
    typer.echo(
        f"{out.name}: held-out loss {losses[0][1]:.3f} before training, {best:.3f} at its best, "
        f"after {batches} batches of {losses[-1][0]}"
    )
