"""The command line: edit, score, moments, plan, methods, presets, study, bench, world …; `exchange.cli` has more."""

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    Device,
    Dtype,
    Edited,
    Model,
)
from .common import parse_layers as _layers
from .common import plain_errors as _plain_errors
from .common import say as _say
from .exchange import COMMANDS
from .moments import app as moments
from .plan import plan
from .records import app as records
from .world import app as world

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Sequential model editing: write facts into a model's weights, and measure what it cost.",
)
app.add_typer(world, name="world")
app.add_typer(moments, name="moments")
app.add_typer(records, name="records")

Requests = Annotated[
    str,
    typer.Option(
        help="counterfact, mcf, zsre or wikidata_counterfact; world: the embedded model's; or a "
        ".json, .jsonl, .csv or .parquet file of one of their schemas, or of plain {case_id, "
        "prompt, subject, target_new, target_true?}."
    ),
]
References = Annotated[
    Path | None,
    typer.Option(
        help="With --fluency: reference texts for consistency, CounterFact's attribute_snippets.json or a world's "
        "facts.jsonl; all generation prompts are continued then."
    ),
]
Clean = Annotated[
    bool,
    typer.Option(
        "--clean",
        help="Leave out records that are wrong, repeated or contradictory, and "
        "say how many; else they are refused. Benchmarks by name are.",
    ),
]


@app.command()
@_plain_errors
def edit(
    model: Model,
    requests: Requests,
    method: Annotated[
        str,
        typer.Option(
            help="A name, or several joined by + as in memit+null_space; see `seqedit methods`."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the record; run again, an interrupted run resumes.")
    ],
    hyper: Annotated[
        Path | None,
        typer.Option(
            help="Settings: our JSON, or a configuration file of a released repository as it is."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Published settings for this model (`seqedit presets`); default: by the model's hub id."
        ),
    ] = None,
    clean: Clean = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, key=value; repeatable.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Requests per round; default: the file's rounds.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Edited layers, e.g. 3,4,5.")] = None,
    n_edits: Annotated[int | None, typer.Option(help="Only the first so many requests.")] = None,
    shuffle: Annotated[
        bool, typer.Option(help="Draw the order of the requests from the seed.")
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Seed of context templates, order and generated text.")
    ] = 0,
    contexts: Annotated[
        Path | None, typer.Option(help="JSON list of template groups; default: sampled.")
    ] = None,
    moments: Annotated[
        Path | None, typer.Option(help="safetensors with C.<layer>; default: computed.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text for second moments, one document a line.")
    ] = None,
    evaluate_every: Annotated[
        int, typer.Option(min=0, help="Also evaluate every so many rounds; 0: at the end only.")
    ] = 0,
    fluency: Annotated[
        bool, typer.Option(help="Generate text at the end and measure its entropy.")
    ] = False,
    references: References = None,
    save_rounds: Annotated[
        bool, typer.Option(help="Keep the matrices after every round, W.<round>.<layer>.")
    ] = False,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Edit a model by a file of requests, round by round.

    Writes OUT/weights.safetensors (W.<layer>, float32, out × in), rounds.jsonl, outcomes.jsonl, scores.jsonl, run.json.

    Example: seqedit edit --model data/model --requests data/world/records.json --method alphaedit --n-edits 100
    --batch-size 50 --out runs/alphaedit
    """
    from ..runs.config import RunConfig
    from ..runs.engine import run
    from ..runs.settings import parse_assignments

    settings = parse_assignments(set_ or [])
    if layers is not None:
        settings["layers"] = _layers(layers)
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
        shuffle=shuffle,
        seed=seed,
        contexts=contexts,
        moments=moments,
        corpus=corpus,
        evaluate_every=evaluate_every,
        fluency=fluency,
        references=references,
        save_rounds=save_rounds,
        dtype=dtype,
        device=device,
    )
    if run(config, out, say=_say):
        _summary(out)


def _summary(out: Path) -> None:
    from collections import Counter

    from ..evaluation.edits import HEADLINES
    from ..runs.records import load_run

    record = load_run(out)
    counts = Counter(record.outcomes["status"])
    typer.echo(
        f"{record.run['n_edits']} requests in {record.run['seconds']:.1f} s: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
    )
    for reason, count in Counter(record.outcomes.query("status == 'refused'")["reason"]).items():
        typer.echo(f"  refused ({count}): {reason}")
    last = record.scores.iloc[-1].reindex([f"edits.{name}" for name in HEADLINES]).dropna()
    typer.echo(
        "  ".join(f"{name.removeprefix('edits.')} {value:.3f}" for name, value in last.items())
    )


@app.command()
@_plain_errors
def score(
    model: Model,
    edited: Edited,
    requests: Requests,
    clean: Clean = False,
    out: Annotated[
        Path | None, typer.Option(help="File for the JSON; default: standard output.")
    ] = None,
    fluency: Annotated[bool, typer.Option(help="Generate text and measure its entropy.")] = False,
    references: References = None,
    seed: Annotated[int, typer.Option(help="Seed of generated text.")] = 0,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Measure an edited model on a file of requests, against the unedited one.

    Example: seqedit score --model data/model --edited runs/alphaedit --requests data/world/records.json
    """
    import json

    import torch

    from ..base.files import write_json
    from ..base.paths import WORLD
    from ..evaluation.consistency import load_references
    from ..evaluation.edits import score_edits
    from ..evaluation.report import evaluate, report_text
    from ..exchange.edited import put_edited
    from ..lm.keys import BARE
    from ..lm.load import load_model
    from ..lm.validation import validate_requests
    from ..requests.published import load_request_set
    from ..world.embedded import is_embedded
    from ..world.vocabulary import SENTENCES

    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    if references and not fluency:
        raise ValueError("references: consistency needs generated text; ask for it with --fluency")
    texts = load_references(references, SENTENCES) if references else None
    loaded = load_request_set(requests, clean=clean)
    if loaded.left_out:
        _say(f"{requests}: {loaded.summary()}")
    wanted = [request for batch in loaded.rounds for request in batch]
    lm = load_model(model, device=device, dtype=getattr(torch, dtype))
    validate_requests(lm, wanted, BARE)
    world = WORLD if is_embedded(lm) else None
    unedited = score_edits(lm, wanted, progress=True)
    put_edited(lm, edited)
    generator = torch.Generator().manual_seed(seed) if fluency else None
    report = evaluate(
        lm,
        wanted,
        unedited=unedited,
        world=world,
        generator=generator,
        references=texts,
        progress=True,
    )
    if out:
        typer.echo(report_text(report))
        write_json(out, report)
    else:
        _say(report_text(report))
        typer.echo(json.dumps(report, indent=1))


@app.command()
def methods() -> None:
    """List the methods and what each can be told, with defaults."""
    from inspect import signature

    from ..methods.catalogue import METHODS, method_parameters
    from ..methods.combinators import COMBINATORS

    def line(name: str, make, told: dict) -> str:
        words = " ".join(
            f"{k}={v:g}" if isinstance(v, int | float) else f"{k}={v}" for k, v in told.items()
        )
        return f"{name:<19}{words:<52}{make.__doc__.splitlines()[0]}"

    for name, make in METHODS.items():
        typer.echo(line(name, make, method_parameters(name)))
    typer.echo("\nAfter a method, joined by +, as in memit+with_history+prune:")
    for name, combine in COMBINATORS.items():
        told = {
            p.name: p.default for p in signature(combine).parameters.values() if p.name != "base"
        }
        typer.echo(line(f"+{name}", combine, told))


@app.command()
@_plain_errors
def presets(
    method: Annotated[
        str | None, typer.Argument(help="A method, as in `seqedit methods`; default: all.")
    ] = None,
    model: Annotated[
        str | None, typer.Argument(help="A model of the list; default: say which there are.")
    ] = None,
) -> None:
    """List the published settings that come along, or show those of one method and model, each with its source.

    Example: seqedit presets alphaedit llama-3-8b
    """
    from ..methods.catalogue import canonical, method_parameters
    from ..runs.presets import HUB_IDS, PRESETS, preset_rows

    if method:
        method_parameters(method)  # refuses what is no method
        method = canonical(method)
    if method and model:
        for name, value, source in preset_rows(method, model):
            typer.echo(f"{name:<18}{value!r:<22}{source}")
        return
    for name, models in PRESETS.items():
        if method is None or method.partition("+")[0] == name:
            typer.echo(f"{name:<14}{', '.join(models)}")
    typer.echo(
        "\nTaken by themselves for these models, or by name with --preset for a local folder:"
    )
    for name, ids in HUB_IDS.items():
        typer.echo(f"{name:<14}{', '.join(ids)}")


@app.command()
@_plain_errors
def study(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Studies, or single runs by id or as STUDY-LABEL-sSEED, or all; "
            "default: say what is there."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="A few edits for each run, one seed; kept as study NAME-quick.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Runs at a time, one thread each.")
    ] = 1,
    again: Annotated[
        bool,
        typer.Option(
            help="Make records that are there once more, aside, and say what differs; "
            "ends with 1 if anything does."
        ),
    ] = False,
) -> None:
    """Make the records that chapters read, those that are not there yet; interrupted, it goes on where it was.

    Example: seqedit study methods -j 2
    """
    from ..study.run_study import run_study, study_status
    from ..study.selection import QUICK
    from ..study.studies import STUDIES

    chosen = list(STUDIES) if names == ["all"] or not names else names
    chosen = [name + QUICK if quick and name in STUDIES else name for name in chosen]
    if again:
        from ..study.reproduce import remake

        if not names:
            raise ValueError(
                "again: name studies or single runs, or all, e.g. `seqedit study methods --again`"
            )
        found = remake(chosen, jobs=jobs)
        for run, difference in found.items():
            typer.echo(f"{run}: {difference}")
        raise typer.Exit(any(difference.fields for difference in found.values()))
    if names:
        for name in chosen:
            typer.echo(f"{name}: {run_study(name, jobs=jobs)} runs made")
    for name in chosen:
        if name.removesuffix(QUICK) in STUDIES:
            typer.echo(f"{name}: {study_status(name)}")


@app.command()
@_plain_errors
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="round, flops, rounds, evaluation, solve, forms; default: all of these. On a GPU also full-size."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the record.")] = None,
) -> None:
    """Measure the speed-ups beside the plain way (minutes; needs a clone with its embedded model).

    Example: seqedit bench round evaluation
    """
    from ..bench.speed import run_benches as measure

    measure(names or [], out, typer.echo)


app.command()(plan)
for command in COMMANDS:
    app.command()(_plain_errors(command))


if __name__ == "__main__":
    app()
