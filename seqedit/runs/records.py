"""Reads the records of runs, and compares a record with a run that is to be made."""

import json
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from torch import Tensor

from .. import __version__
from ..base.files import sha256
from ..base.jsonl import read_jsonl
from ..base.paths import ROOT
from ..base.tensors import load_tensors
from .code import code_digest


def provenance(device: torch.device, method: str) -> dict[str, Any]:
    """Versions, device, threads and code of a run by a method."""
    return {
        "seqedit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "code": code_digest(method),
    }


def shown(path: Path) -> str:
    """A path as records and messages show it: relative to the project if it lies inside, else the
    name alone.
    """
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else path.name


@dataclass(frozen=True)
class RunRows:
    """What a run wrote, as JSON values.

    Attributes:
        run: content of run.json.
        rounds: one row per round, with a list of its `layers`.
        outcomes: one row per request.
        scores: one row per evaluation.
        probes: one row per evaluation and request, with the outcome of each of its probes.
    """

    run: dict[str, Any]
    rounds: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    probes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """A finished run, read back as data frames.

    Attributes:
        run: content of run.json.
        rounds: one row per round and edited layer.
        outcomes: one row per request.
        scores: one row per evaluation: `edits` written so far, and the report under dotted names
            ("edits.efficacy", "abilities.arithmetic" …).
        probes: one row per evaluation and request; for each kind of probes the outcome of every
            single one (see `seqedit.evaluation.probes.outcome_digits`). Records made before they
            were kept have no rows.
        folder: the run's own folder; None for a run that lies in the tables of a study.
    """

    run: dict[str, Any]
    rounds: pd.DataFrame
    outcomes: pd.DataFrame
    scores: pd.DataFrame
    probes: pd.DataFrame
    folder: Path | None = None

    @classmethod
    def from_rows(cls, rows: RunRows, folder: Path | None = None) -> "Record":
        """Data frames of what a finished run wrote."""
        rounds = pd.json_normalize(
            rows.rounds,
            record_path="layers",
            meta=["round", "residual_before", "residual_after", ["seconds", "total"]],
        )
        scores = pd.json_normalize(rows.scores).rename(columns={"n_edits": "edits"})
        outcomes, probes = pd.DataFrame(rows.outcomes), pd.DataFrame(rows.probes)
        return cls(rows.run, rounds, outcomes, scores, probes, folder)

    @property
    def stale(self) -> bool:
        """Whether the code that decides the run's results has changed since the run."""
        return is_stale(self.run)

    def weights(self) -> dict[int, Tensor]:
        """layer → edited matrix, (d_model, d_ff).

        Raises:
            ValueError: the run lies in the tables of a study, which hold no matrices.
        """
        if self.folder is None:
            raise ValueError(
                "weights: the tables of a study hold no matrices; make the run with `seqedit edit`"
            )
        return load_weights(self.folder)


def is_stale(run: dict[str, Any]) -> bool:
    """Whether the code that decides the results of its method has changed since a run, or is gone.

    Args:
        run: content of its run.json.
    """
    try:
        return run["provenance"]["code"] != code_digest(run["method"])
    except ValueError:  # there is no such method any more
        return True


def load_run(folder: Path) -> Record:
    """Read a finished run from its folder.

    Raises:
        ValueError: there is no run in the folder, or it is not finished.
    """
    return Record.from_rows(read_rows(folder), folder)


def read_rows(folder: Path) -> RunRows:
    """Read what a finished run wrote to its folder.

    Raises:
        ValueError: there is no run in the folder, or it is not finished.
    """
    run = read_run(folder)
    if not run["finished"]:
        raise ValueError(
            f"{folder}: not finished, {run['rounds_done']} rounds done; run it again to resume"
        )
    check_files(folder, run, weights=False)
    tables = {
        name: read_jsonl(folder / f"{name}.jsonl", missing_ok=name == "probes")
        for name in ("rounds", "outcomes", "scores", "probes")
    }
    return RunRows(run, **tables)


def check_files(folder: Path, run: dict[str, Any], *, weights: bool = True) -> None:
    """Check that the files of a finished run are what it wrote.

    Args:
        folder: of the run.
        run: content of its run.json.
        weights: also check the edited matrices, which studies do not keep.

    Raises:
        ValueError: a file is gone, damaged or another one.
    """
    tables = run.get("tables_sha256")
    wrote = {f"{n}.jsonl": found for n, found in tables.items()} if isinstance(tables, dict) else {}
    if weights and "weights_sha256" in run:
        wrote["weights.safetensors"] = run["weights_sha256"]
    for name, digest in wrote.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            raise ValueError(
                f"{path} is not what the run wrote: it is gone, damaged or another file; remove "
                "the folder and make the run again"
            )


def read_run(folder: Path) -> dict[str, Any]:
    """The content of a folder's run.json.

    Raises:
        ValueError: there is none, or it is no record of a run.
    """
    path = folder / "run.json"
    if not path.exists():
        raise ValueError(f"{folder}: there is no run.json; `seqedit edit --out {folder}` makes one")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON: {error}; remove the folder and start anew"
        ) from error
    for name, kind in FIELDS.items():
        value: Any = run
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise ValueError(
                f"{path}: no record of a run, or changed by hand: {name} is {value!r:.60}; restore "
                "the file, or choose another folder"
            )
    return run


FIELDS: dict[str, Any] = {
    "method": str,
    "n_edits": int,
    "finished": bool,
    "parameters": dict,
    "parameters.model": str,
    "parameters.fingerprint": str,
    "parameters.layers": list,
    "contexts": list,
    "provenance": dict,
    "rounds_done": int,
    "seconds": int | float,
    "elapsed": int | float,
}
"""What every run.json has, with its type; "a.b" is b in the object a."""

FILES = (
    "checkpoint.safetensors",
    "weights.safetensors",
    *(f"{table}.jsonl" for table in ("rounds", "outcomes", "scores", "probes")),
)
"""What a run writes beside run.json."""


def reopen(out: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """The record in a folder if it is of the run that `fresh` describes; `fresh` if there is none.

    Raises:
        ValueError: `out` is a file, holds files of a run without its record or a run with other
            parameters, or holds an unfinished one that was begun by other code, with other context
            templates or on another device; the message says which.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; a run needs a folder")
    if not (out / "run.json").exists():
        theirs = [name for name in FILES if (out / name).exists()]
        theirs += [path.name for path in sorted(out.glob("round-*.safetensors"))]
        if theirs:
            raise ValueError(
                f"out: {out} holds {theirs[0]} and no run.json that says whose it is; choose "
                "another folder, or remove it"
            )
        return fresh
    found = read_run(out)
    before, now = flat(found["parameters"]), flat(fresh["parameters"])
    for name in now | before:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"out: {out} holds a run with {name} = {before.get(name)!r}, now it is "
                f"{now.get(name)!r}; choose another folder, or remove this one"
            )
    if not found["finished"] and found["contexts"] != json.loads(json.dumps(fresh["contexts"])):
        raise ValueError(
            f"out: {out} was begun with other context templates than today's, or they were changed "
            "in run.json; remove the folder and start anew"
        )
    for name, change in (("code", "by other code than today's"), ("device", "on another device")):
        if not found["finished"] and found["provenance"].get(name) != fresh["provenance"][name]:
            raise ValueError(
                f"out: {out} was begun {change} ({found['provenance'].get(name)}, now "
                f"{fresh['provenance'][name]}); remove the folder and start anew"
            )
    return found


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dict with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found


def load_weights(folder: Path) -> dict[int, Tensor]:
    """layer → edited matrix of a finished run, (d_model, d_ff).

    Raises:
        ValueError: the folder holds no finished run, or other weights than the run wrote.
    """
    path = folder / "weights.safetensors"
    if not path.exists():
        raise ValueError(
            f"{folder}: there is no weights.safetensors; the run is not finished, run it again to "
            "resume"
        )
    wrote = read_run(folder).get("weights_sha256")
    if wrote is not None and wrote != sha256(path):
        raise ValueError(
            f"{path} is not what the run wrote: it is damaged or another file; make the run again"
        )
    return {
        int(name[2:]): tensor
        for name, tensor in load_tensors(path)[0].items()
        if re.fullmatch(r"W\.\d+", name)
    }
