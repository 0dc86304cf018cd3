"""`seqedit restrain`: what restraints of a finished run's total update would have kept."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    LARGEST_SEED,
    Dtype,
    Model,
    OneDevice,
    chosen_dtype,
    make_app,
    parse_numbers,
    say,
)
from .edit import Requests

app = make_app()


@app.command()
def restrain(
    model: Model,
    edited: Annotated[Path, typer.Option(help="Folder written by `seqedit edit`.")],
    requests: Requests,
    mix: Annotated[
        str | None,
        typer.Option(help="Shares of the new weights in an average with the unedited ones."),
    ] = None,
    alpha: Annotated[str | None, typer.Option(help="Bases of PRUNE's logarithm.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Measure so many requests; default: all.")
    ] = None,
    kept: Annotated[
        Path | None,
        typer.Option(
            help="Facts that are never edited, JSON lines of prompt and target: of those that the "
            "unedited model says, it is measured which are still said."
        ),
    ] = None,
    perplexity_text: Annotated[
        Path | None,
        typer.Option(help="Text, one document a line, whose perplexity is measured each time."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the sample.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the table.")] = None,
    dtype: Dtype = "float32",
    device: OneDevice = "auto",
) -> None:
    """Restrain what a finished run wrote, in memory, and measure what stays of its edits, and what
    comes back of the facts and the text that are given.

    Example: seqedit restrain --model embedded --edited runs/alphaedit --requests world --mix
    0.5,0.7,0.85,1 --alpha 1.1,2 --kept data/world/unrelated.jsonl
    """
    import pandas as pd
    import torch
    from tqdm import tqdm

    from ..base.files import file_digest, write_json
    from ..base.results import check_result
    from ..evaluation.edits import summarise
    from ..evaluation.report import evaluate
    from ..exchange.edited import put_edited
    from ..lm.chat import as_read
    from ..lm.load import load_model
    from ..lm.model import LanguageModel
    from ..lm.weights import read_weight, rewound
    from ..methods.catalogue import make_method
    from ..moments.cache import read_corpus
    from ..runs.baseline import measure_baseline
    from ..runs.edited import edited_requests, reading_of
    from ..runs.identity import run_id
    from ..runs.records import read_run
    from ..runs.restraints import measure_restrained, restrained_methods, sums
    from ..runs.sampling import sample_by_round

    shares, bases = parse_numbers("mix", mix), parse_numbers("alpha", alpha)
    run = read_run(edited)
    parameters = run["parameters"]
    method = make_method(parameters["method"], **parameters["parameters"])
    methods = restrained_methods(method, shares, bases)
    facts = edited_requests(run, requests)
    texts = read_corpus(perplexity_text, "perplexity_text") if perplexity_text else []
    lm = load_model(
        model, device=device, dtype=getattr(torch, chosen_dtype(dtype, model, device, edited))
    )
    facts = as_read(lm, facts, **reading_of(edited))
    original = {layer: read_weight(lm, layer) for layer in parameters["layers"]}
    put_edited(lm, edited)
    if out:
        check_result(out, "run", "edits", "restraints")
    with rewound(lm, original):
        baseline = measure_baseline(lm, facts, None, kept, texts, say)
    size = parameters.get("batch_size") or len(facts)
    rounds = [facts[i : i + size] for i in range(0, len(facts), size)]
    measured = facts if sample is None else sample_by_round(rounds, sample, seed)

    def measure(lm: LanguageModel) -> dict[str, Any]:
        report = evaluate(
            lm,
            measured,
            unedited=baseline.scores,
            edited=facts,
            texts=texts,
            kept=kept,
            known=baseline.known,
        )
        others = ("known_facts", "kept_facts", "text_perplexity")
        return report["edits"] | {name: report[name] for name in others if name in report}

    found = measure_restrained(lm, original, methods, measure)
    rows = list(tqdm(found, total=len(methods), desc="restrain", disable=None))
    table = pd.DataFrame(rows)
    shown = ["efficacy_accuracy", "efficacy", "neighborhood", "kept_facts", "text_perplexity"]
    columns = ["restraint", "setting", "length", *(n for n in shown if n in table)]
    typer.echo(table[columns].to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="–"))
    if out:
        ids = {one.case_id for one in measured}
        scores = baseline.scores[baseline.scores["case_id"].isin(ids)]
        files = {"kept": kept, "perplexity_text": perplexity_text}
        about = {
            "run": run_id(parameters),
            "model": parameters["model"],
            "method": parameters["method"],
            "edits": len(facts),
            "measured": len(measured),
            "seed": seed,
            "files": {name: file_digest(path) for name, path in files.items() if path},
            "unedited": summarise(scores) | baseline.measured,
            "sums": sums(lm, original),
        }
        write_json(out, about | {"restraints": rows})
