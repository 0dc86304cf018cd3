"""Files of JSON and of JSON lines."""

import json
from pathlib import Path
from typing import Any

from .fields import Placed, check_repeated
from .plain import Record, RequestError
from .text_files import read_text


def read_json(path: Path) -> Any:
    """The value of a JSON file, or a list of all values of JSON lines, whatever the file's ending.

    Records of JSON lines know their lines. NaN, as Python writes for a missing value, becomes None.

    Raises:
        ValueError: it is not JSON; the message says in which line and column.
        RequestError: a field occurs twice in an object.
    """
    text = read_text(path)
    try:
        values = _values(text, strict=True)
    except json.JSONDecodeError as error:
        try:
            values = _values(text, strict=False)  # line ends inside strings
        except json.JSONDecodeError:
            raise ValueError(_described(text, error)) from error
    if len(values) == 1:
        return values[0][1]
    return [
        Placed(value, f"line {text.count(chr(10), 0, start) + 1}")
        if isinstance(value, dict)
        else value
        for start, value in values
    ]


def _values(text: str, strict: bool) -> list[tuple[int, Any]]:
    """All JSON values of a text that stand one after the other, each with where it begins."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, strict=strict)
    values: list[tuple[int, Any]] = []
    at = 0
    while (at := _skip_blanks(text, at)) < len(text):
        value, end = decoder.raw_decode(text, at)
        values.append((at, value))
        at = end
    return values


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _object(pairs: list[tuple[str, Any]]) -> Record:
    try:
        check_repeated((name for name, _ in pairs), "field")
    except RequestError as error:
        begin = json.dumps(dict(pairs[:2]), ensure_ascii=False)[:80]
        raise RequestError(f"{error} (in the object that begins with {begin})") from None
    return dict(pairs)


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _described(text: str, error: json.JSONDecodeError) -> str:
    """What is wrong, where, and what stands there."""
    found = text[error.pos : error.pos + 20].split("\n")[0]
    return (
        f"not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}, found "
        f"{found!r}; correct it, or remove the record"
    )
