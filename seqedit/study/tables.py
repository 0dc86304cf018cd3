"""Rows of JSON as Parquet tables and back, without loss.

Nested objects become columns with dotted names ("edits.efficacy"), lists become list columns. A
field that a row lacks is null in the table. A number that was not finite is null in JSON, which has
no NaN, and NaN in the table.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.files import write_bytes

Row = dict[str, Any]
_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_ABSENT = object()


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table, one column for every field that any row has.

    Raises:
        ValueError: the values of a field are of several kinds, a name holds a dot, or an object is
            empty; the message names the field.
    """
    flat = [dict(_flattened(row)) for row in rows]
    columns = {name: [row.get(name, _ABSENT) for row in flat] for name in _merged_order(flat)}
    return pa.table({name: _column(name, values) for name, values in columns.items()})


def to_rows(table: pa.Table) -> list[Row]:
    """The rows that a table was made of; the converse of `to_table`."""
    paths = [name.split(".") for name in table.column_names]
    columns = [column.to_pylist() for column in table.columns]
    rows = []
    for values in zip(*columns, strict=True):
        row: Row = {}
        for path, value in zip(paths, values, strict=True):
            if value is not None:
                _place(row, path, None if _is_nan(value) else value)
        rows.append(row)
    return rows


def split_layers(rounds: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of rounds, each with a list of its layers, as one row per round and layer.

    The fields of a layer follow those of the round, `layer` first. A round that edited no matrix
    keeps one row.
    """
    return [
        {name: value for name, value in row.items() if name != "layers"} | layer
        for row in rounds
        for layer in row["layers"] or [{}]
    ]


def join_layers(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of rounds, each with a list of its layers; the converse of `split_layers`."""
    rounds: dict[int, Row] = {}
    for row in rows:
        names = [*row]
        own = names.index("layer") if "layer" in row else len(names)
        found = rounds.setdefault(row["round"], {name: row[name] for name in names[:own]})
        layers = found.setdefault("layers", [])
        if own < len(names):
            layers.append({name: row[name] for name in names[own:]})
    return [*rounds.values()]


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file, compressed by zstd; it appears whole or not at all."""
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd", compression_level=19)
    write_bytes(path, content.getvalue())


def _flattened(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        name = prefix + key
        if "." in key:
            raise ValueError(f"{name!r}: the name of a field must not hold a dot")
        if not isinstance(value, Mapping):
            yield name, value
        elif value:
            yield from _flattened(value, f"{name}.")
        else:
            raise ValueError(f"{name}: an empty object has no place in a table")


def _merged_order(rows: Sequence[Row]) -> list[str]:
    """All names, in the order of the rows; the longest rows come first, since they say most about
    it.
    """
    order: list[str] = []
    for names in sorted(dict.fromkeys(tuple(row) for row in rows), key=len, reverse=True):
        place = 0
        for name in names:
            if name in order:
                place = order.index(name) + 1
            else:
                order.insert(place, name)
                place += 1
    return order


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None and value is not _ABSENT}
    if len(kinds) > 1:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"{name}: a column holds values of one kind, not {found}")
    kind = kinds.pop() if kinds else float
    if kind is not float and any(value is None for value in values):
        raise ValueError(f"{name}: only a number with a fraction may be null, not {kind.__name__}")
    given = [None if value is _ABSENT else math.nan if value is None else value for value in values]
    if kind is list:
        return _without_null_type(pa.array(given))
    return pa.array(given, _TYPES[kind], from_pandas=False)


def _without_null_type(array: pa.Array) -> pa.Array:
    """Lists that are all empty have no type of their own; float64 is then as good as any."""
    if pa.types.is_list(array.type) and pa.types.is_null(array.type.value_type):
        return array.cast(pa.list_(pa.float64()))
    return array


def _place(row: Row, path: Sequence[str], value: Any) -> None:
    *outer, last = path
    for name in outer:
        row = row.setdefault(name, {})
    row[last] = value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
