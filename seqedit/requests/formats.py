"""Read files of edit requests.

Records may have the plain schema, `prompt`, `subject`, `target_new` and other fields of
`EditRequest`, that of CounterFact, or that of a benchmark (see `seqedit.requests.layouts`).
"""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

from .layouts import in_our_schema
from .parquet_size import check_rows
from .plain import PROBES, PROMPTS, RequestError

LISTS = {*PROMPTS, *PROBES}
"""Columns of a .csv file that hold a JSON list; a cell that is no list is a single prompt."""


def read_rounds(path: Path | str, suffix: str = "") -> list[list[Any]]:
    """Read the records of a file in the plain or CounterFact's schema, grouped by the file's
    rounds.

    A file without rounds is one round. Records of benchmarks without an identifier, and rows of a
    .csv file without a column case_id, are numbered from 0 in file order.

    Args:
        path: the file.
        suffix: kind of file, one of `READERS`, if the name of the file does not say.

    Returns:
        Rounds of raw records. They are not checked; `parse_requests` does that.

    Raises:
        RequestError: the file cannot be read, is of an unknown kind, or holds no records.
    """
    path = Path(path)
    rounds = _rounds_of(_read_content(path, suffix or path.suffix), path)
    numbers = itertools.count()
    return [
        [own for record in batch for own in in_our_schema(record, next(numbers))]
        for batch in rounds
    ]


def _read_content(path: Path, suffix: str) -> Any:
    """What the reader for this kind of file returns; its errors as RequestError."""
    read = READERS.get(suffix)
    if read is None:
        raise RequestError(f"{path}: a file of requests ends in {', '.join(READERS)}")
    try:
        return read(path)
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: not valid JSON: {error}") from error
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise RequestError(f"{path}: cannot be read: {error}") from error


def _rounds_of(content: Any, path: Path) -> list[list[Any]]:
    """The rounds of a file's content, none of them empty."""
    rounds = content.get("rounds") if isinstance(content, dict) else [content]
    if not isinstance(rounds, list) or not all(isinstance(batch, list) for batch in rounds):
        raise RequestError(f'{path}: expected a list of records, or {{"rounds": [[…], …]}}')
    if not any(rounds):
        raise RequestError(f"{path}: holds no records")
    if not all(rounds):
        raise RequestError(f"{path}: round {rounds.index([])} holds no records; leave it out")
    return rounds


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_jsonl(path: Path) -> Any:
    """One record per line, of any type; blank lines are skipped."""
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would split at U+2028, too
    return [json.loads(line) for line in lines if line.strip()]


def _read_csv(path: Path) -> Any:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [_row(row, i) for i, row in enumerate(csv.DictReader(file, strict=True))]


def _row(row: dict[str | None, Any], number: int) -> dict[str, Any]:
    """The record of a .csv row without its empty cells. Raises csv.Error for too many cells."""
    if None in row:
        raise csv.Error(
            f"row {number} has more cells than there are columns; put quotes around cells with "
            "commas"
        )
    record = {str(name): cell for name, cell in row.items() if cell and cell.strip()}
    for name in LISTS & record.keys():
        cell = record[name]
        record[name] = json.loads(cell) if cell.lstrip().startswith("[") else [cell]
    case_id = record.get("case_id", number)
    if isinstance(case_id, str) and case_id.isdecimal():
        case_id = int(case_id)
    return record | {"case_id": case_id}


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet

    check_rows(path)
    return pyarrow.parquet.read_table(path).to_pylist()


READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""The reader of each kind of file."""
