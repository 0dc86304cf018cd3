"""Undoes single edits of a finished run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ..base.jsonl import read_jsonl
from ..editing.state import EditState, residuals_name
from ..editing.undo import undo
from ..lm.model import LanguageModel
from .checkpoint import put_weights
from .config import RunConfig, Say, ignore
from .job import find_corpus, make_plan
from .records import read_run
from .settings import Settings, build_settings


def undo_in_run(
    lm: LanguageModel, folder: Path, case_ids: Sequence[str], config: RunConfig, say: Say = ignore
) -> None:
    """Put the edits of a finished run into a model, all but some.

    Args:
        lm: the unedited model; it ends edited by the others, see `editing.undo.undo`.
        folder: of the run, which was made as undoable.
        case_ids: of the edits that are left out, as text.
        config: where second moments come from, as for the run.
        say: told what a user may want to know.

    Raises:
        ValueError: the run has no such edit or has not kept what it takes, its method cannot, or
            the second moments are others than the run's.
    """
    record = read_run(folder)
    settings, contexts = settings_of(record["parameters"]), map(tuple, record["contexts"])
    edits = numbers_of(folder, case_ids)
    config = replace(config, corpus=find_corpus(config, lm, say))
    plan = make_plan(config, lm, settings, tuple(contexts))
    state = EditState.start(lm, settings.layers)
    put_weights(lm, folder)
    tensors = load_file(folder / "weights.safetensors")
    names = [f"keys.{layer}" for layer in settings.layers]
    if any(name not in tensors for name in names):
        raise ValueError(
            f"edited: {folder} has not kept what undoing an edit takes; make the run anew with "
            "--undoable"
        )
    residuals = {name: tensors[f"memory.{name}"] for name in map(residuals_name, settings.layers)}
    keys = {layer: tensors[f"keys.{layer}"] for layer in settings.layers}
    state = replace(state, keys=keys, memory=residuals)
    undo(lm, settings.make(), plan, state, edits)


def settings_of(parameters: dict[str, Any]) -> Settings:
    """The settings that the record of a run holds.

    Args:
        parameters: those of its run.json.
    """
    names = ("layers", "context_lengths", "max_update_ratio")
    values = parameters["target"] | parameters["parameters"]
    return build_settings(parameters["method"], values | {name: parameters[name] for name in names})


def numbers_of(folder: Path, case_ids: Sequence[str]) -> list[int]:
    """The numbers of edits among those that a run has written.

    Raises:
        ValueError: an id is not in the record, or its request was refused.
    """
    rows = read_jsonl(folder / "outcomes.jsonl")
    refused = {str(row["case_id"]): row["reason"] for row in rows if row["status"] == "refused"}
    written = [str(row["case_id"]) for row in rows if row["status"] != "refused"]
    for case_id in case_ids:
        if case_id in refused:
            raise ValueError(
                f"case_id {case_id}: it was refused, {refused[case_id]}; nothing to undo"
            )
        if case_id not in written:
            raise ValueError(
                f"case_id {case_id}: {folder} has no such edit; outcomes.jsonl lists them"
            )
    return [written.index(case_id) for case_id in case_ids]
