"""`seqedit streams` and `seqedit survive`: hard streams of edits, and edits under fine-tuning."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import Model, OneDevice, Seed, is_number, make_app, say

app = make_app()


@app.command()
def streams() -> None:
    """List the streams that `seqedit edit --stream NAME` makes of requests.

    Example: seqedit streams
    """
    from ..requests.streams import STREAMS

    for name, kind in STREAMS.items():
        typer.echo(f"{name:<15}{kind.summary} ({kind.source})")


@app.command()
def survive(
    model: Model,
    edited: Annotated[Path, typer.Option(help="Folder written by `seqedit edit`.")],
    requests: Annotated[str, typer.Option(help="The requests that the run was made with.")],
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text to tune on, one document a line; default: the embedded world's, for its "
            "model. Lines that name an edited subject are left out."
        ),
    ] = None,
    steps: Annotated[str, typer.Option(help="Measure after so many steps.")] = "0,10,50,100",
    parameters: Annotated[
        Literal["all", "edited", "others"],
        typer.Option(help="What is tuned: everything, the edited matrices, or all but these."),
    ] = "all",
    lr: Annotated[float, typer.Option(min=0.0, max=1e3, help="Step size of AdamW.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents of a step.")] = 16,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the table.")] = None,
    device: OneDevice = "auto",
) -> None:
    """Fine-tune an edited model in memory, and measure how many of its edits survive.

    Example: seqedit survive --model embedded --edited runs/alphaedit --requests world
    --steps 0,20,100 --parameters others
    """
    import pandas as pd

    from ..base.files import write_json
    from ..base.paths import WORLD
    from ..base.results import check_result
    from ..evaluation.survival import neutral_texts, survival
    from ..exchange.edited import put_edited
    from ..lm.chat import as_read
    from ..lm.load import load_model
    from ..moments.corpus import Corpus
    from ..runs.edited import edited_requests, reading_of
    from ..runs.identity import run_id
    from ..runs.records import read_run
    from ..world.embedded import is_embedded

    at = _parse_steps(steps)
    run = read_run(edited)
    wanted = edited_requests(run, requests)
    lm = load_model(model, device=device)
    if text is None and not is_embedded(lm):
        raise ValueError("text: name a text to tune on with --text")
    if out:
        check_result(out, "run", "facts", "rows")
    corpus = Corpus(file=text or WORLD / "corpus.txt")
    documents = list(corpus.texts())
    neutral = neutral_texts(documents, wanted)
    wanted = as_read(lm, wanted, **reading_of(edited))
    put_edited(lm, edited)
    say(f"{len(neutral)} of {len(documents)} lines are text that names no edited subject")
    rows = survival(
        lm,
        wanted,
        neutral,
        steps=at,
        parameters=parameters,
        layers=run["parameters"]["layers"],
        lr=lr,
        batch_size=batch_size,
        seed=seed,
    )
    table = pd.DataFrame(rows)
    typer.echo(table.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="–"))
    if out:
        settings = {"parameters": parameters, "lr": lr, "batch_size": batch_size, "seed": seed}
        about = {"run": run_id(run["parameters"]), "facts": len(wanted)} | settings
        about |= {"text": corpus.describe(), "documents": len(neutral)}
        write_json(out, about | {"rows": rows})


def _parse_steps(text: str) -> list[int]:
    """Numbers of steps from text such as "0,10,50". Raises ValueError if it is anything else."""
    words = [word.strip() for word in text.split(",")]
    if not all(map(is_number, words)):
        raise ValueError(f"--steps {text!r}: expected numbers separated by commas, e.g. 0,10,50")
    return [int(word) for word in words]
