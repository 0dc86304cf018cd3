"""The records of a finished study as Parquet tables: runs, rounds, scores, outcomes and probes.

`runs.parquet` has one row for each run and label; the rows of the other tables name the run that
they belong to. All of them are ordinary tables for `pandas.read_parquet` and
`datasets.load_dataset("parquet", …)`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..runs.identity import run_id
from ..runs.records import RunRows
from .tables import Row, join_layers, split_layers, to_rows, to_table, write_table

TABLES = ("rounds", "scores", "outcomes", "probes")
"""The tables beside that of the runs."""

_AS_TEXT = ("parameters", "contexts", "provenance")
_COPIED = ("method", "seed", "n_edits", "rounds_done", "seconds", "elapsed")


@dataclass(frozen=True)
class LabelledRun:
    """A finished run under its label in a study."""

    label: str
    rows: RunRows

    @property
    def id(self) -> str:
        """The run's identity, see `seqedit.runs.identity.run_id`."""
        return run_id(self.rows.run["parameters"])


def write_collection(folder: Path, runs: Sequence[LabelledRun]) -> None:
    """Write the tables of a study.

    Each file appears whole. `runs.parquet` comes last, so that whatever run it names has its rows
    in the others, also when the writing is interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    once = {run.id: run.rows for run in runs}
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    for run, rows in once.items():
        mark = {"run": run}
        tables["rounds"] += [mark | row for row in split_layers(rows.rounds)]
        for table in ("outcomes", "scores", "probes"):
            tables[table] += [mark | row for row in getattr(rows, table)]
    tables["runs"] = [{"run": run.id, "label": run.label} | _summary(run.rows.run) for run in runs]
    for name, content in tables.items():
        if name == "probes" and not content:
            continue  # records from before probes were kept
        check_table(folder / f"{name}.parquet")
        write_table(folder / f"{name}.parquet", to_table(content))


class Collection:
    """The tables of a study, read back.

    Attributes:
        folder: where they lie.
        runs: rows of runs.parquet.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        check_table(folder / "runs.parquet")
        self.runs = to_rows(pq.read_table(folder / "runs.parquet"))

    @property
    def ids(self) -> set[str]:
        """Ids of all runs."""
        return {row["run"] for row in self.runs}

    def labelled(self) -> dict[tuple[str, int], str]:
        """(label, seed) → id of the run."""
        return {(row["label"], row["seed"]): row["run"] for row in self.runs}

    def run(self, name: str) -> dict[str, Any]:
        """What run.json said of the run with this id."""
        return _run_of(next(row for row in self.runs if row["run"] == name))

    def rows(self, name: str) -> RunRows:
        """Everything that the run with this id wrote."""
        tables = {table: rows.get(name, []) for table, rows in self._tables.items()}
        rounds = join_layers(tables.pop("rounds"))
        return RunRows(self.run(name), rounds, **tables)

    @cached_property
    def _tables(self) -> dict[str, dict[str, list[Row]]]:
        """table → id of a run → its rows."""
        return {
            name: _by_run(to_rows(pq.read_table(path)))
            for name in TABLES
            if (path := self.folder / f"{name}.parquet").exists()
        }


def check_table(path: Path) -> None:
    """Raises ValueError if something is there that is no table of runs."""
    try:
        known = not path.exists() or "run" in pq.read_schema(path).names
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; move it elsewhere") from error
    if not known:
        raise ValueError(f"{path} is no table of runs, which name their run; move it elsewhere")


def find_collection(folder: Path) -> Collection | None:
    """The tables in a folder; None where there are none."""
    return Collection(folder) if (folder / "runs.parquet").exists() else None


def all_collections(results: Path) -> list[Collection]:
    """The tables of all studies, by name of the study."""
    return [Collection(path.parent) for path in sorted(results.glob("*/runs.parquet"))]


def _by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.pop("run"), []).append(row)
    return found


def _summary(run: dict[str, Any]) -> Row:
    """A run.json as one row: what runs are sorted and chosen by in columns, the rest as JSON
    text.
    """
    parameters = run["parameters"]
    row = {name: run[name] for name in _COPIED} | {
        "dtype": parameters.get("dtype", "float32"),
        "evaluate_every": parameters["evaluate_every"],
        "layers": parameters["layers"],
        "code": run["provenance"]["code"],
    }
    if parameters["batch_size"] is not None:
        row["batch_size"] = parameters["batch_size"]
    row |= {name: _text(run[name]) for name in _AS_TEXT}
    if remarks := {n: run[n] for n in run if n not in (*_COPIED, *_AS_TEXT, "finished")}:
        row["remarks"] = _text(remarks)
    return row


def _run_of(row: Row) -> dict[str, Any]:
    """The run.json that `_summary` made a row of."""
    run = {name: row[name] for name in _COPIED} | {name: json.loads(row[name]) for name in _AS_TEXT}
    return run | {"finished": True} | json.loads(row.get("remarks", "{}"))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
