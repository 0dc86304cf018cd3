"""`seqedit score`: measure an edited model."""

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    LARGEST_SEED,
    Device,
    Dtype,
    Edited,
    Model,
    PerplexityText,
    chosen_dtype,
    make_app,
    parse_names,
    say,
)
from .edit import Chat, Clean, Measures, References, Requests, Wild

app = make_app()


@app.command()
def score(
    model: Model,
    edited: Edited,
    requests: Requests,
    clean: Clean = False,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the report; default: standard output.")
    ] = None,
    measures: Measures = None,
    fluency: Annotated[bool, typer.Option(help="Generate text and measure its entropy.")] = False,
    references: References = None,
    chat: Chat = False,
    wild: Wild = False,
    perplexity_text: PerplexityText = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of generated text.")] = 0,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Measure an edited model on a file of requests, against the unedited one.

    Example: seqedit score --model embedded --edited runs/alphaedit --requests
    world
    """
    import json

    import torch

    from ..base.files import write_json
    from ..base.paths import WORLD
    from ..base.results import check_result
    from ..evaluation.consistency import load_references
    from ..evaluation.probes import long_after_the_edit
    from ..evaluation.report import evaluate, finite_perplexity, report_text
    from ..evaluation.wild import long_wild_prompts
    from ..exchange.edited import put_edited
    from ..lm.chat import as_read
    from ..lm.keys import BARE
    from ..lm.load import load_model
    from ..lm.validation import validate_requests, without_long_probes
    from ..moments.cache import read_corpus
    from ..requests.published import load_request_set
    from ..runs.edited import reading_of
    from ..runs.self_text import measured_text
    from ..runs.unedited import unedited_scores
    from ..world.embedded import is_embedded
    from ..world.vocabulary import SENTENCES

    if out:
        check_result(out, "edits", "probes")
    if references and not fluency:
        raise ValueError("references: consistency needs generated text; ask for it with --fluency")
    known = load_references(references, SENTENCES) if references else None
    loaded = load_request_set(requests, clean=clean)
    for remark in loaded.remarks():
        say(f"{requests}: {remark}")
    lm = load_model(
        model, device=device, dtype=getattr(torch, chosen_dtype(dtype, model, device, edited))
    )
    wanted = as_read(lm, loaded.requests, **({"chat": chat} | reading_of(edited)))
    wanted, long = without_long_probes(lm, wanted)
    if wild:
        long += long_wild_prompts(lm, wanted)
    if "neighborhood_plus" in parse_names(measures):
        long += long_after_the_edit(lm, wanted)
    if long:
        say(f"{len(long)} probes are too long for the model. The first: {long[0]}")
    validate_requests(lm, wanted, BARE)
    world = WORLD if is_embedded(lm) else None
    unedited = unedited_scores(lm, wanted, say=say, progress=True)
    file = measured_text(lm, perplexity_text)
    texts = read_corpus(file, "perplexity_text") if file else []
    before = {"text_perplexity": finite_perplexity(lm, texts)} if texts else {}
    put_edited(lm, edited)
    generator = torch.Generator().manual_seed(seed) if fluency else None
    report = evaluate(
        lm,
        wanted,
        unedited=unedited,
        extra_kinds=parse_names(measures),
        world=world,
        texts=texts,
        generator=generator,
        references=known,
        wild=wild,
        progress=True,
    )
    if before:
        report["unedited"] = before
    if out:
        typer.echo(report_text(report))
        write_json(out, report)
    else:
        say(report_text(report))
        typer.echo(json.dumps(report, indent=1))
