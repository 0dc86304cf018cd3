"""What a file holds, as a list of records: the shapes in which JSON keeps tables."""

from pathlib import Path
from typing import Any

from .fields import normalised
from .plain import Record, RequestError

LISTS_OF_RECORDS = ("data", "records", "requests", "edits", "instances", "examples")
"""Names under which a file may keep its only list of records."""


def rounds_of(content: Any, path: Path, known: frozenset[str]) -> list[list[Any]]:
    """The rounds of a file's content, none of them empty; one round if the file has none.

    Raises:
        RequestError: it holds no records, or is of none of the shapes of `records_of`.
    """
    if isinstance(content, dict) and "rounds" in content:
        rounds = content["rounds"]
    else:
        rounds = [records_of(content, path, known)]
    if not isinstance(rounds, list) or not all(isinstance(batch, list) for batch in rounds):
        raise _no_records(path)
    if not any(rounds):
        raise RequestError(f"{path}: holds no records")
    if not all(rounds):
        raise RequestError(f"{path}: round {rounds.index([])} holds no records; leave it out")
    return rounds


def records_of(content: Any, path: Path, known: frozenset[str]) -> list[Any]:
    """The records of a file's content.

    It may be a list of records; one record; an object with the list under a name such as "data";
    records by their identifiers; or columns, as lists or by the numbers of their rows, as pandas
    and `datasets` write them.

    Args:
        content: of the file.
        path: the file, for messages.
        known: names of fields, by which columns and single records are told.

    Raises:
        RequestError: it is of another shape, or holds several lists of records.
    """
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise _no_records(path)
    if content.keys() >= {"columns", "data"}:  # pandas, orient="split"
        return _rows(content["columns"], content["data"], path)
    names = _known(content, known)
    if len(names) > 1:
        return _of_columns(content, path) or [content]
    lists = {name: value for name, value in content.items() if _is_list_of_objects(value)}
    if len(lists) > 1:
        raise RequestError(
            f"{path}: holds several lists of records ({', '.join(lists)}); keep the one to edit"
        )
    if lists and (len(content) == 1 or lists.keys() & set(LISTS_OF_RECORDS)):
        return next(iter(lists.values()))
    if content and all(isinstance(value, dict) for value in content.values()):
        return [_identified(record, name) for name, record in content.items()]
    raise _no_records(path)


def _no_records(path: Path) -> RequestError:
    return RequestError(f'{path}: expected a list of records, or {{"rounds": [[…], …]}}')


def _known(content: Record, known: frozenset[str]) -> set[str]:
    return {name for own in content for name in normalised({own: 0}, known)} & known


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _rows(names: Any, rows: Any, path: Path) -> list[Any]:
    """Records of lists of cells, each as long as the list of names."""
    if not isinstance(names, list) or not isinstance(rows, list):
        raise _no_records(path)
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise RequestError(f"{path}, record {number}: expected {len(names)} cells")
    return [dict(zip(map(str, names), row, strict=True)) for row in rows]


def _of_columns(content: Record, path: Path) -> list[Any]:
    """Records of columns; none if the content is no table of columns."""
    columns = {name: value for name, value in content.items() if value is not None}
    if all(isinstance(value, dict) for value in columns.values()):
        keys = list(next(iter(columns.values())))
        if all(list(column) == keys for column in columns.values()):
            return [{name: columns[name][key] for name in columns} for key in keys]
    if not isinstance(content.get("prompt", content.get("prompts", content.get("subject"))), list):
        return []
    lengths = {name: len(value) for name, value in columns.items() if isinstance(value, list)}
    nested = {name: value for name, value in columns.items() if isinstance(value, dict)}
    if len(set(lengths.values())) != 1:
        raise RequestError(f"{path}: columns differ in length: {lengths}")
    count = next(iter(lengths.values()))
    return [
        {name: columns[name][i] for name in lengths}
        | {name: _row_of(value, i, count) for name, value in nested.items()}
        for i in range(count)
    ]


def _row_of(value: Any, row: int, count: int) -> Any:
    """What a nested object of columns, such as EasyEdit's inputs by kind, holds for a row."""
    if isinstance(value, dict):
        return {name: _row_of(part, row, count) for name, part in value.items()}
    return value[row] if isinstance(value, list) and len(value) == count else value


def _identified(record: Record, name: str) -> Record:
    """A record with the name under which it was kept as its case_id, unless it has one."""
    number: int | str = int(name) if name.isdecimal() and str(int(name)) == name else name
    return record if "case_id" in record else {"case_id": number} | record
