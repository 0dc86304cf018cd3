"""The one reader of JSON lines: files with one JSON object per line."""

import json
from pathlib import Path
from typing import Any


def read_jsonl(path: Path, *, missing_ok: bool = False) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file in order; blank lines are skipped.

    Args:
        path: the file, in UTF-8, with or without a byte-order mark.
        missing_ok: return an empty list if the file does not exist.

    Raises:
        FileNotFoundError: the file does not exist and `missing_ok` is not set.
        ValueError: a line is not a JSON object; the message names the file and the line.
    """
    if missing_ok and not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            rows.append(_object(line, f"{path}, line {number}"))
    return rows


def _object(line: str, place: str) -> dict[str, Any]:
    """Parse one line; `place` names it in errors."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON: {error}; correct or remove the line") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected a JSON object, found {line.strip()[:40]!r}")
    return value
