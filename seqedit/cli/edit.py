"""`seqedit edit`: edit a model by a file of requests."""

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    LARGEST_SEED,
    Device,
    Dtype,
    Model,
    PerplexityText,
    Undoable,
    make_app,
    parse_layers,
    parse_names,
    say,
)

Requests = Annotated[
    str,
    typer.Option(
        help="counterfact, mcf, zsre or wikidata_counterfact; world, the records of the embedded "
        "model's world; or a file (.json, .jsonl, .csv, .parquet and more) in one of their schemas "
        "or of plain {prompt, subject, target_new, target_true?}."
    ),
]
Measures = Annotated[
    str | None,
    typer.Option(
        help="Kinds of prompts to measure beside the usual ones, joined by commas: "
        "attribute, negated, neighborhood_plus, distracting."
    ),
]
Wild = Annotated[
    bool,
    typer.Option(
        "--wild",
        help="Let the edited model answer freely until it ends by itself, and judge its answers.",
    ),
]
References = Annotated[
    Path | None,
    typer.Option(
        help="With --fluency: reference texts for consistency, either CounterFact's "
        "attribute_snippets.json or a world's facts.jsonl. All generation prompts are then "
        "continued."
    ),
]
Clean = Annotated[
    bool,
    typer.Option(
        "--clean",
        help="Leave out records that are wrong, repeated or contradictory, and say how many. "
        "Without it a file with such records is refused. Benchmarks given by name are always "
        "cleaned.",
    ),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat",
        help="Put every prompt into the tokenizer's chat template, as a user's message. "
        "`seqedit score` does so for a run that did.",
    ),
]
app = make_app()


@app.command()
def edit(
    model: Model,
    requests: Requests,
    method: Annotated[
        str,
        typer.Option(
            help="A method, or several joined by + as in memit+null_space; see `seqedit methods`."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the record. An interrupted run is resumed from it.")
    ],
    hyper: Annotated[
        Path | None,
        typer.Option(
            help="Settings: our JSON, or a released repository's configuration file, JSON or YAML."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Published settings for this model (`seqedit presets`); default: by the model's "
            "hub id."
        ),
    ] = None,
    clean: Clean = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, key=value; repeatable.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Requests per round; default: the file's rounds.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to edit, e.g. 3,4,5.")] = None,
    n_edits: Annotated[int | None, typer.Option(help="Only so many requests, the first.")] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="Make a hard stream of the requests: see `seqedit streams`. It may make several "
            "edits of each."
        ),
    ] = None,
    shuffle: Annotated[
        bool, typer.Option(help="Draw the order of the requests from the seed.")
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=LARGEST_SEED, help="Seed of context templates, order and generated text."
        ),
    ] = 0,
    contexts: Annotated[
        Path | None, typer.Option(help="JSON list of template groups; default: sampled.")
    ] = None,
    moments: Annotated[
        Path | None, typer.Option(help="safetensors file with C.<layer>; default: computed.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Text for second moments, one document a line; default: self, what the model "
            "writes itself."
        ),
    ] = None,
    evaluate_every: Annotated[
        int, typer.Option(min=0, help="Rounds between evaluations; 0: evaluate at the end only.")
    ] = 0,
    perplexity_text: PerplexityText = None,
    measures: Measures = None,
    evaluate_sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Measure only so many requests, drawn from the seed, before the last evaluation.",
        ),
    ] = None,
    kept: Annotated[
        Path | None,
        typer.Option(
            help="Facts that are never edited, JSON lines of prompt and target: how many of those "
            "that the model says are kept? Default: with --requests facts, those that come along."
        ),
    ] = None,
    fluency: Annotated[
        bool, typer.Option(help="Generate text at the end and measure its entropy.")
    ] = False,
    references: References = None,
    chat: Chat = False,
    wild: Wild = False,
    save_rounds: Annotated[
        bool, typer.Option(help="Keep the matrices after every round, W.<round>.<layer>.")
    ] = False,
    undoable: Undoable = False,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Edit a model by a file of requests, round by round.

    Writes weights.safetensors (W.<layer>, float32, out × in), rounds.jsonl, outcomes.jsonl,
    scores.jsonl and run.json into the folder OUT.

    Example: seqedit edit --model embedded --requests world --method alphaedit
    --n-edits 100 --batch-size 50 --out runs/alphaedit
    """
    from ..runs.config import RunConfig
    from ..runs.engine import run
    from ..runs.settings import parse_assignments

    settings = parse_assignments(set_ or [])
    given = {"batch_size": batch_size, "layers": None if layers is None else parse_layers(layers)}
    for name, value in given.items():
        if value is not None and name in settings:
            flag = name.replace("_", "-")
            raise ValueError(f"{name}: --{flag} and --set {name} are both given; leave one out")
    if layers is not None:
        settings["layers"] = given["layers"]
    config = RunConfig(
        model=model,
        requests=requests,
        method=method,
        settings=settings,
        hyper=hyper,
        preset=preset,
        clean=clean,
        batch_size=batch_size,
        n_edits=n_edits,
        stream=stream,
        shuffle=shuffle,
        seed=seed,
        contexts=contexts,
        moments=moments,
        corpus=corpus,
        perplexity_text=perplexity_text,
        evaluate_every=evaluate_every,
        measures=parse_names(measures),
        evaluate_sample=evaluate_sample,
        kept=kept,
        fluency=fluency,
        references=references,
        chat=chat,
        wild=wild,
        save_rounds=save_rounds,
        undoable=undoable,
        dtype=dtype,
        device=device,
    )
    if dtype == "auto":
        say(f"weights in {config.dtype}")
    if run(config, out, say=say):
        _print_summary(out)
    if all_refused(out):
        raise ValueError(f"{out}: every request was refused, and the model is as it was")


def all_refused(out: Path) -> bool:
    """Whether a finished run refused every request."""
    from ..runs.records import load_run

    return set(load_run(out).outcomes["status"]) == {"refused"}


def _print_summary(out: Path) -> None:
    """Print what became of a finished run's requests, why some were refused, and last scores."""
    from collections import Counter

    from ..evaluation.edits import HEADLINES
    from ..runs.records import load_run

    record = load_run(out)
    statuses = Counter(record.outcomes["status"])
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    typer.echo(f"{record.run['n_edits']} requests in {record.run['seconds']:.1f} s: {counts}")
    refused = record.outcomes.query("status == 'refused'")
    for reason, count in Counter(refused["reason"]).items():
        typer.echo(f"  refused ({count}): {reason}")
    last = record.scores.iloc[-1].filter(regex=r"^(edits|wild)\.").rename(_metric)
    values = last.reindex(list(HEADLINES)).dropna()
    shown = [f"{name} {value:.3f}" for name, value in values.items()]
    typer.echo("  ".join(shown))
    stream = record.scores.iloc[-1].filter(regex=r"^stream\.").dropna()
    if len(stream):
        typer.echo("  ".join(f"{name} {value:.3g}" for name, value in stream.items()))


def _metric(column: str) -> str:
    """A column of a record's scores without its section: "efficacy" of "edits.efficacy"."""
    return column.partition(".")[2]
