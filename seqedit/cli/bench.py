"""`seqedit bench`: how fast the methods are, beside the plain way."""

from pathlib import Path
from typing import Annotated

import typer

from .common import Dtype, Model, chosen_dtype, make_app

app = make_app()


@app.command()
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="round, flops, limits, rounds, evaluation, rating, solve, forms, projection; "
            "default: all of these. Or, on a GPU, gpu, which resumes; after it, names of its "
            "stages. Or many, which resumes: 10,000 edits of the embedded model, hours; after it, "
            "methods."
        ),
    ] = None,
    model: Model = "embedded",
    requests: Annotated[
        str, typer.Option(help="What `rating` rates; wrong records are left out.")
    ] = "world",
    n_edits: Annotated[
        int, typer.Option(min=1, help="How many requests `rating` takes, the first ones.")
    ] = 100,
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option(help="JSON file for the record.")] = None,
) -> None:
    """Measure the speed-ups beside the plain way (minutes; needs a clone with its embedded model).

    `round`, `limits` and `rating`, the cost of evaluating, take another model; `rating` other
    requests, too.
    `gpu` takes neither. It ends with exit code 1 if a stage failed.

    Example: seqedit bench round evaluation
    """
    from ..base.files import write_json
    from ..base.paths import OUTPUT
    from ..base.results import check_result
    from ..bench.gpu import bench_gpu
    from ..bench.many import Many, bench_many
    from ..bench.speed import run_benches

    on_gpu = names is not None and names[:1] == ["gpu"]
    if out:
        check_result(out, *(("card", "stages") if on_gpu else ("threads", "results")))
    if names and on_gpu:
        record = bench_gpu(tuple(names[1:]), out, typer.echo)
        if not all(stage["passed"] for stage in record["stages"].values()):
            raise typer.Exit(1)
        return
    rated = {"model": model, "requests": requests, "n_edits": n_edits}
    if names and names[0] == "many":
        asked = Many(methods=tuple(names[1:])) if names[1:] else Many()
        found = bench_many(asked, OUTPUT / "runs" / "many", typer.echo)
        if out:
            write_json(out, {"threads": 1, "results": {"many": found}})
        return
    weights = chosen_dtype(dtype, model)
    run_benches(names or [], out, typer.echo, rated=rated, model=model, dtype=weights)
