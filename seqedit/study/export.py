"""The tables of a study for people and for other tools: a list of its runs, and CSV files."""

import io
import json
from pathlib import Path

import pandas as pd

from ..base.files import alone, write_text
from ..base.paths import RESULTS
from ..runs.records import is_stale
from .collection import TABLES, Collection, find_collection


def list_runs(study: str, results: Path = RESULTS) -> pd.DataFrame:
    """The runs in the tables of a study: id, label, what was asked, how long it took, and whether
    by other code.

    Args:
        study: name of a study, or a folder of tables.

    Raises:
        ValueError: there are no tables.
    """
    collection = _collection(study, results)
    rows = [
        {
            "run": row["run"],
            "label": row["label"],
            "method": row["method"],
            "seed": row["seed"],
            "edits": row["n_edits"],
            "seconds": round(row["elapsed"]),
            "code": row["code"] + (" (other)" if is_stale(collection.run(row["run"])) else ""),
        }
        for row in collection.runs
    ]
    return pd.DataFrame(rows)


def export_csv(study: str, out: Path, results: Path = RESULTS) -> list[Path]:
    """Write the tables of a study as CSV files; lists become JSON text.

    Args:
        study: name of a study, or a folder of tables.
        out: folder for the files; it is made.

    Returns:
        The files.

    Raises:
        ValueError: there are no tables, or files of others have the names of these.
    """
    folder = _collection(study, results).folder
    texts = {}
    for name in ("runs", *TABLES):
        if not (folder / f"{name}.parquet").exists():
            continue  # records from before probes were kept
        frame = pd.read_parquet(folder / f"{name}.parquet", dtype_backend="pyarrow")
        for column in frame:
            if "list" in str(frame[column].dtype):
                frame[column] = [_as_text(value) for value in frame[column]]
        content = io.StringIO()
        frame.to_csv(content, index=False)
        texts[out / f"{name}.csv"] = content.getvalue()
    with alone(out):
        for path, text in texts.items():
            if path.exists() and not path.read_bytes().startswith(text.partition("\n")[0].encode()):
                raise ValueError(
                    f"out: {path} exists already and has other columns; choose another folder"
                )
        for path, text in texts.items():
            write_text(path, text)
    return [*texts]


def _collection(study: str, results: Path) -> Collection:
    found = find_collection(results / study) or find_collection(Path(study))
    if found is None:
        raise ValueError(
            f"{study}: there are no tables of such a study in {results}; make them with "
            "`seqedit study`"
        )
    return found


def _as_text(value: object) -> str | None:
    """A list as JSON text; None where there is none."""
    return None if value is pd.NA or value is None else json.dumps(value)
