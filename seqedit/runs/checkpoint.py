"""Keeps a run on disk: rows and a checkpoint after every round, and at the end the edited
matrices.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..base.files import (
    content_digest,
    load_tensors,
    save_tensors,
    sha256,
    write_json,
    write_text,
)
from ..base.jsonl import read_jsonl
from ..editing.state import EditState, residuals_name
from ..lm.fingerprint import fingerprint
from ..lm.model import LanguageModel
from ..lm.weights import read_weight, write_weight
from .identity import run_id
from .records import FILES, load_weights, read_run

TABLES = ("rounds", "outcomes", "scores", "probes")
BESIDE = "memory.beside."
"""Memory that acts beside the weights where the model is handed over (`EditMethod.beside`)."""


def begin(out: Path, record: dict[str, Any]) -> None:
    """Start a record in a folder. What an attempt of the same run left there, which did not reach
    its first checkpoint, is removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, "round-0.safetensors"):
        (out / name).unlink(missing_ok=True)
    write_json(out / "run.json", record)


def save_round(
    out: Path,
    lm: LanguageModel,
    state: EditState,
    rows: dict[str, list[dict[str, Any]]],
    keep: bool,
) -> None:
    """Append the rows of a round, then replace the checkpoint; resuming cuts off rows that lie
    beyond it. The checkpoint knows the run that it belongs to, its own content and the number of
    rows.

    Args:
        rows: table → its new rows, each with the number of its "round".
        keep: also keep the matrices of this round, for `finish`.
    """
    for table, new in rows.items():
        _append(out / f"{table}.jsonl", new)
    weights = {f"W.{layer}": read_weight(lm, layer) for layer in state.original}
    if keep:
        save_tensors(out / f"round-{state.round - 1}.safetensors", weights)
    tensors = {f"original.{layer}": W for layer, W in state.original.items()}
    tensors |= {f"keys.{layer}": K for layer, K in state.keys.items()}
    tensors |= {f"gram.{layer}": G for layer, G in state.grams.items()}
    tensors |= {f"carry.{layer}": E for layer, E in state.carry.items()}
    tensors |= {f"memory.{name}": tensor for name, tensor in state.memory.items()}
    everything = weights | tensors | {"round": torch.tensor(state.round)}
    about = {
        "run": run_id(read_run(out)["parameters"]),
        "content": content_digest(everything),
        "rows": json.dumps({table: _summary(_rows(out, table)) for table in TABLES}),
    }
    save_tensors(out / "checkpoint.safetensors", everything, about)


def resume(out: Path, lm: LanguageModel, layers: Sequence[int]) -> EditState:
    """The state that the checkpoint in a folder holds; the unedited state where there is none.

    The edited matrices are put into the model, and rows that lie beyond the checkpoint are cut off.

    Raises:
        ValueError: the checkpoint is damaged or of another run, or rows are missing.
    """
    path = out / "checkpoint.safetensors"
    if not path.exists() or not (out / "run.json").exists():
        return EditState.start(lm, layers)
    tensors, about = load_tensors(path)
    remedy = f"remove {out} and start anew"
    if about.get("run") != run_id(read_run(out)["parameters"]):
        raise ValueError(f"{path} belongs to another run than {out / 'run.json'}; {remedy}")
    if about.get("content") != content_digest(tensors):
        raise ValueError(f"{path} is damaged: its content has another digest; {remedy}")
    done = int(tensors["round"])
    for table, (count, digest) in json.loads(about["rows"]).items():
        rows = [row for row in _rows(out, table) if row.get("round", done) < done]
        if len(rows) != count:
            raise ValueError(
                f"{out / f'{table}.jsonl'}: {len(rows)} rows, where {path.name} knows of {count}; "
                f"{remedy}"
            )
        if _summary(rows)[1] != digest:
            raise ValueError(f"{out / f'{table}.jsonl'} was changed; {remedy}")
        write_text(out / f"{table}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for layer in layers:
        write_weight(lm, layer, tensors[f"W.{layer}"])
    return EditState(
        done,
        {layer: tensors[f"original.{layer}"] for layer in layers},
        {layer: tensors[f"keys.{layer}"] for layer in layers},
        {layer: tensors[f"gram.{layer}"] for layer in layers},
        {layer: tensors[f"carry.{layer}"] for layer in layers if f"carry.{layer}" in tensors},
        {
            name.removeprefix("memory."): tensor
            for name, tensor in tensors.items()
            if name.startswith("memory.")
        },
    )


def _summary(rows: list[dict[str, Any]]) -> tuple[int, str]:
    """The number of rows of a table, and a digest of them."""
    return len(rows), hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def finish(
    out: Path, lm: LanguageModel, state: EditState, rounds: int, record: dict[str, Any], keep: bool
) -> None:
    """Write weights.safetensors, then run.json as finished; then remove the checkpoint.

    Args:
        rounds: how many rounds the run had.
        keep: the matrices of all rounds were kept, and become a part of the weights.
    """
    tensors = {f"W.{layer}": read_weight(lm, layer) for layer in state.original}
    tensors |= {f"memory.{name}": tensor for name, tensor in state.memory.items()}
    if all(residuals_name(layer) in state.memory for layer in state.keys):  # for undoing an edit
        tensors |= {f"keys.{layer}": K for layer, K in state.keys.items()}
    kept = {i: out / f"round-{i}.safetensors" for i in range(rounds)} if keep else {}
    for i, path in kept.items():
        tensors |= {
            name.replace("W.", f"W.{i}."): tensor for name, tensor in load_tensors(path)[0].items()
        }
    save_tensors(out / "weights.safetensors", tensors)
    digest = sha256(out / "weights.safetensors")
    tables = {table: sha256(path) for table in TABLES if (path := out / f"{table}.jsonl").exists()}
    done = {"finished": True, "rounds_done": rounds, "weights_sha256": digest}
    done["tables_sha256"] = tables
    write_json(out / "run.json", record | done)
    for path in [out / "checkpoint.safetensors", *kept.values()]:
        path.unlink(missing_ok=True)


def put_weights(lm: LanguageModel, folder: Path) -> None:
    """Put the edited matrices of a finished run into a freshly loaded model.

    Raises:
        ValueError: there is no finished run, it was made on another model, or a part of its edits
            lies beside the weights.
    """
    parameters = read_run(folder)["parameters"]
    made_on, ran = parameters["fingerprint"], parameters.get("dtype", "float32")
    if made_on != fingerprint(lm):
        own = str(lm.model.dtype).removeprefix("torch.")
        types = "" if ran == own else f"; its weights were {ran}, these are {own}: see --dtype"
        raise ValueError(
            f"edited: {folder} was made on another model (fingerprint {made_on}, this one has "
            f"{fingerprint(lm)}{types})"
        )
    weights = load_weights(folder)
    if any(name.startswith(BESIDE) for name in load_tensors(folder / "weights.safetensors")[0]):
        raise ValueError(
            f"edited: {folder} keeps something beside the weights, a codebook or an adaptor; its "
            "scores are in its record, but the weights alone are not the edited model"
        )
    for layer, W in weights.items():
        write_weight(lm, layer, W)


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a .jsonl file and wait until they are on disk."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(_finite(row)) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def _finite(value: Any) -> Any:
    """A value with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(out: Path, table: str) -> list[dict[str, Any]]:
    """The rows of a table, without a last line that was cut off while it was written."""
    path = out / f"{table}.jsonl"
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text and not text.endswith("\n"):
            write_text(path, text[: text.rfind("\n") + 1])
        return read_jsonl(path, missing_ok=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: {error}; remove {out} and start anew") from error
