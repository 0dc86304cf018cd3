"""Read files of edit requests.

Records may have the plain schema, `prompt`, `subject`, `target_new` and other fields of
`EditRequest`, that of CounterFact, or that of a benchmark (see `seqedit.requests.layouts`).
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .arrow_files import read_arrow, read_parquet, read_saved
from .fields import Faulty, Placed, normalised
from .json_files import read_json
from .layouts import KNOWN, in_our_schema
from .plain import RequestError
from .shapes import rounds_of
from .tables import read_table
from .text_files import check_kind, kind_of


def read_rounds(path: Path | str, suffix: str = "") -> list[list[Any]]:
    """Read the records of a file, grouped by the file's rounds.

    A file without rounds is one round. Records without an identifier are numbered from 0 in file
    order; a number that another record has is followed by "*".

    Args:
        path: the file, or a folder that `datasets` saved.
        suffix: kind of file, one of `READERS`, if the name of the file does not say.

    Returns:
        Rounds of raw records. They are not checked; `parse_requests` does that.

    Raises:
        RequestError: the file cannot be read, is of an unknown kind, or holds no records.
    """
    path = Path(path)
    rounds = rounds_of(_read_content(path, suffix or kind_of(path)), path, KNOWN)
    records = [record for batch in rounds for record in batch if isinstance(record, dict)]
    found = [_identifier(record.get("case_id")) for record in records]
    given = {identifier for identifier in found if isinstance(identifier, int | str)}
    numbers = itertools.count()
    return [
        [edit for record in batch for edit in _edits(record, next(numbers), given)]
        for batch in rounds
    ]


def _read_content(path: Path, kind: str) -> Any:
    """What the reader for this kind of file returns; its errors as RequestError."""
    if not path.is_dir():
        check_kind(path, kind, [*READERS])
    try:
        return read_saved(path) if path.is_dir() else READERS[kind](path)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error
    except RecursionError as error:
        raise RequestError(f"{path}: cannot be read: it is nested too deeply") from error
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise RequestError(f"{path}: {_problem(error)}") from error


def _problem(error: Exception) -> str:
    text = str(error)
    return text if text.startswith("not valid JSON") else f"cannot be read: {text}"


def _edits(record: Any, number: int, given: set[int | str]) -> list[Any]:
    """The edits of a record in the plain schema, with an identifier and their place in the file."""
    if not isinstance(record, dict):
        return [record]
    place = record.place if isinstance(record, Placed) else ""
    try:
        own = normalised(record, KNOWN)
        own["case_id"] = _identifier(own.get("case_id"))
        if own["case_id"] is None:
            own["case_id"] = number if number not in given else f"{number}*"
        edits = in_our_schema(own, number)
    except RequestError as error:
        edits = [Faulty(str(error).removeprefix(f"record {number}: "))]
    return [Placed(edit, place) if type(edit) is dict and place else edit for edit in edits]


def _identifier(value: Any) -> Any:
    """An identifier with a whole number as such; None for none, as tables write it."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return None if value == "" else value


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": read_json,
    ".jsonl": read_json,
    ".csv": partial(read_table, known=KNOWN),
    ".parquet": read_parquet,
    ".tsv": partial(read_table, known=KNOWN),
    ".txt": partial(read_table, known=KNOWN),
    ".ndjson": read_json,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
"""The reader of each kind of file."""
