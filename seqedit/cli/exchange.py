"""`seqedit export`, `revert`, `diff` and `abilities`: edited models for and beside other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import Device, Dtype, Edited, Model, chosen_dtype, make_app, say

app = make_app()


@app.command()
def export(
    model: Model,
    edited: Edited,
    out: Annotated[Path, typer.Option(help="What to write; must not exist.")],
    as_: Annotated[
        Literal["folder", "factors", "adapter"],
        typer.Option(
            "--as",
            help="folder: an ordinary transformers folder. factors: one small safetensors file of "
            "low-rank factors. adapter: a LoRA adapter for peft.",
        ),
    ] = "folder",
    dtype: Dtype = "float32",
) -> None:
    """Write the edited model, or its edits, for other tools.

    Example: seqedit export --model data/model --edited runs/alphaedit --as adapter --out
    runs/alphaedit-lora
    """
    import torch

    from ..base.files import check_replaceable
    from ..exchange.adapter import save_adapter
    from ..exchange.edited import export_folder
    from ..exchange.factors import factor_edits, load_edits, save_edits
    from ..lm.load import load_model

    if as_ == "folder":
        export_folder(model, edited, out, getattr(torch, chosen_dtype(dtype, model, "cpu", edited)))
        typer.echo(f"{out}: load it with AutoModelForCausalLM.from_pretrained")
        return
    check_replaceable(out)
    lm = load_model(model, device="cpu")
    edits = load_edits(edited) if edited.is_file() else factor_edits(lm, edited)
    if as_ == "adapter":
        save_adapter(lm, edits, model, out)
        advice = "load it with peft.PeftModel.from_pretrained(model, folder)"
    else:
        save_edits(out, edits)
        advice = "apply it with --edited, take it off with `seqedit revert`"
    for layer, edit in edits.layers.items():
        typer.echo(
            f"layer {layer}: rank {edit.factors.rank}, relative error {edit.factors.error:.1e}"
        )
    typer.echo(f"{out}: {advice}")


@app.command()
def revert(
    model: Annotated[str, typer.Option(help="Folder or hub id of the edited model.")],
    edits: Annotated[Path, typer.Option(help="File written by `seqedit export --as factors`.")],
    out: Annotated[Path, typer.Option(help="New folder for the model without these edits.")],
    dtype: Dtype = "float32",
) -> None:
    """Take edits off a model again, by subtraction.

    Example: seqedit revert --model runs/alphaedit-model --edits runs/alphaedit.safetensors --out
    runs/unedited
    """
    import torch

    from ..base.files import check_replaceable
    from ..exchange.edited import save_folder
    from ..exchange.factors import load_edits, revert_edits
    from ..lm.load import load_model

    check_replaceable(out)
    loaded = load_edits(edits)
    lm = load_model(model, device="cpu", dtype=getattr(torch, chosen_dtype(dtype, model, "cpu")))
    for layer, exact in revert_edits(lm, loaded).items():
        how = "bit for bit" if exact else "within round-off, or edited further"
        typer.echo(f"layer {layer}: as before the edits{',' if exact else ''} {how}")
    save_folder(lm, out)
    typer.echo(str(out))


@app.command()
def diff(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A model (folder or hub id), a run's folder or a file of factors."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    model: Annotated[
        str | None, typer.Option(help="The unedited model, for runs and files of factors.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the table.")] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Say in which tensors two models differ, by how much, with what rank and condition numbers.

    Example: seqedit diff data/model runs/alphaedit --model data/model
    """
    from dataclasses import asdict

    import torch

    from ..base.files import write_json
    from ..base.results import check_result
    from ..exchange.difference import compare_models, differences_text
    from ..exchange.edited import load_side

    if out:
        check_result(out)
    types = [chosen_dtype(dtype, model or side, device, Path(side)) for side in (a, b)]
    left, right = (
        load_side(side, model, device, getattr(torch, own))
        for side, own in zip((a, b), types, strict=True)
    )
    found = compare_models(left, right)
    total = sum(1 for _ in left.model.parameters())
    if found:
        typer.echo(f"{differences_text(found)}\n{len(found)} of {total} tensors differ")
    else:
        typer.echo(f"no difference in {total} tensors")
    if out:
        write_json(out, [asdict(difference) for difference in found])


@app.command()
def abilities(
    model: Model,
    edited: Annotated[
        Path | None,
        typer.Option(help="A run's folder or a file of factors; default: the unedited model."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Names of the harness's tasks, separated by commas; english: ours in plain "
            "English, which need no network; papers: those of the papers. Default: the embedded "
            "world's for its model, else english."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Items of each task; default: all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items at a time.")] = 16,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
) -> None:
    """Measure general abilities with lm-evaluation-harness (the extra `harness`).

    Example: seqedit abilities --model smollm2-135m --edited runs/smollm2 --tasks english
    """
    import torch

    from ..base.files import write_json
    from ..base.results import check_result
    from ..exchange.edited import put_edited
    from ..exchange.harness import choose_tasks, harness_text, run_harness
    from ..lm.load import load_model
    from ..world.embedded import is_embedded

    if out:
        check_result(out, "results", "items")
    lm = load_model(
        model, device=device, dtype=getattr(torch, chosen_dtype(dtype, model, device, edited))
    )
    names = choose_tasks(tasks, embedded=is_embedded(lm))
    if edited:
        put_edited(lm, edited)
    report = run_harness(lm, names, limit=limit, batch_size=batch_size)
    say(f"lm-evaluation-harness {report['versions']['lm_eval']}, {report['seconds']:.1f} s")
    typer.echo(harness_text(report))
    if out:
        write_json(out, report)
