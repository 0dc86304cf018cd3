"""`seqedit side-by-side`, `seqedit depths`, `seqedit dtypes`: the same edits by several methods, in
other layers, with weights of either type.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..base.paths import OUTPUT
from .common import Device, Dtype, Jobs, Model, make_app, say
from .edit import Requests

app = make_app()


@app.command("side-by-side")
def side_by_side(
    methods: Annotated[list[str], typer.Argument(help="Methods of `seqedit methods`.")],
    model: Model = "smollm2-135m",
    requests: Requests = "facts",
    n_edits: Annotated[int, typer.Option(min=1, help="Requests, the first ones.")] = 60,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests in a round.")] = 20,
    corpus: Annotated[
        Path | None, typer.Option(help="Text for second moments; default: the model's own.")
    ] = None,
    shown: Annotated[int, typer.Option(min=1, help="Prompts whose continuations are shown.")] = 10,
    out: Annotated[Path, typer.Option(help="Folder of the runs and of the page.")] = OUTPUT
    / "runs"
    / "side-by-side",
    jobs: Jobs = 1,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Edit the same facts by several methods; print a table and write a page of it.

    The page also shows what the model says before and after; index.json beside it has the same, and
    what it says of every fact after every round.
    Settings are the published or searched ones for the model, as in `seqedit edit`. Interrupted, it
    resumes.

    Example: seqedit side-by-side memit memit_seq alphaedit --model smollm2-135m
    """
    from ..base.results import check_result
    from ..requests.published import load_requests
    from ..runs.config import RunConfig
    from ..study.side_by_side import (
        answers_by_round,
        check_methods,
        check_page,
        continuations,
        edit_side_by_side,
        score_table,
        write_page,
        write_tables,
    )

    check_methods(methods)
    check_page(out / "index.html")
    check_result(out / "index.json", "about", "scores", "said")
    config = RunConfig(
        model=model,
        requests=requests,
        method=methods[0],
        n_edits=n_edits,
        batch_size=batch_size,
        corpus=corpus,
        save_rounds=True,
        wild=True,
        dtype=dtype,
        device=device,
    )
    if dtype == "auto":
        say(f"weights in {config.dtype}")
    found = dict(edit_side_by_side(config, methods, out, jobs=jobs, say=say))
    records = {method: found[method] for method in methods}
    typer.echo(score_table(records).to_string(na_rep="–"))
    some = load_requests(requests)[: min(shown, n_edits)]
    said = continuations(config, methods, out, some)
    typer.echo("\n" + said.to_string(index=False, max_colwidth=40))
    write_page(out / "index.html", config, records, said)
    facts = answers_by_round(config, methods, out, load_requests(requests)[:n_edits])
    write_tables(out / "index.json", records, said, facts)
    typer.echo(f"\n{out / 'index.html'}")


@app.command()
def depths(
    model: Model = "smollm2-135m",
    requests: Requests = "facts",
    method: Annotated[str, typer.Option(help="A method of `seqedit methods`.")] = "memit_seq",
    n_edits: Annotated[int, typer.Option(min=1, help="Requests, the first ones.")] = 20,
    windows: Annotated[int, typer.Option(min=1, help="Groups of layers.")] = 7,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the table; default: only print it.")
    ] = None,
    jobs: Jobs = 1,
) -> None:
    """Edit the same facts in groups of five layers at every depth of a model, and compare.

    So one finds which layers to edit where nothing was published. Interrupted, it resumes.

    Example: seqedit depths --model gemma3-270m
    """
    from ..base.files import write_json
    from ..base.results import check_result
    from ..study.edited_depth import Depths, edit_at_depths

    if out is not None:
        check_result(out, "depths")
    asked = Depths(model=model, requests=requests, method=method, n_edits=n_edits, windows=windows)
    work = OUTPUT / "runs" / f"depths-{Path(model).name}-{method}"
    found = edit_at_depths(asked, work, jobs=jobs)
    typer.echo(found.round(3).to_string(index=False))
    if out is not None:
        write_json(out, {"model": Path(model).name, "depths": found.to_dict("records")})


@app.command()
def dtypes(
    model: Model = "smollm2-135m",
    requests: Requests = "facts",
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method; repeatable. Default: memit_seq, alphaedit."),
    ] = None,
    orders: Annotated[int, typer.Option(min=1, max=100, help="Orders of the requests.")] = 1,
    n_edits: Annotated[int, typer.Option(min=2, help="Requests, in one round.")] = 100,
    moments: Annotated[
        Path | None, typer.Option(help="safetensors file with C.<layer>; default: each run's own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the table; default: only print it.")
    ] = None,
    jobs: Jobs = 1,
) -> None:
    """Edit the same facts with weights in float32 and in bfloat16, and compare the scores.

    So one finds whether bfloat16, which is faster, loses anything. Interrupted, it resumes.

    Example: seqedit dtypes --model embedded --requests world --orders 3
    """
    from ..base.files import file_digest, write_json
    from ..base.results import check_result
    from ..study.dtypes import Dtypes, edit_in_both
    from ..study.side_by_side import check_methods

    asked = Dtypes(model=model, requests=requests, orders=orders, n_edits=n_edits, moments=moments)
    if methods:
        check_methods(methods)
        asked = replace(asked, methods=tuple(methods))
    if out is not None:
        check_result(out, "dtypes")
    found = edit_in_both(asked, OUTPUT / "runs" / f"dtypes-{Path(model).name}", jobs=jobs)
    typer.echo(found.round(1).to_string(index=False))
    if out is not None:
        about = {"model": Path(model).name, "orders": orders, "n_edits": n_edits}
        about["moments"] = file_digest(moments) if moments else None
        write_json(out, about | {"dtypes": found.to_dict("records")})
