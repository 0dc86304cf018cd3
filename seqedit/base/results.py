"""Files of results, checked before the work: a result takes the place of an earlier one only."""

import errno
import json
import os
from pathlib import Path

from .files import check_replaceable


def check_result(out: Path, *keys: str) -> None:
    """Check, before the work, that its result can be written to a file; make the file's folder.

    Args:
        out: the file.
        keys: what an earlier result of the same command holds, as an object of JSON, and is known
            by; such a file may be replaced. Without keys nothing may be there.

    Raises:
        ValueError: `out` is a folder, or something else than an earlier result is there.
        OSError: its folder cannot be made, or nothing can be written into it.
    """
    if out.is_dir():
        raise ValueError(f"out: {out} is a folder; name a file in it")
    if not _is_result(out, keys):
        check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "cannot be written into", str(out.parent))


def _is_result(path: Path, keys: tuple[str, ...]) -> bool:
    """Whether a file is JSON, an object with all these keys, of which there is at least one."""
    if not keys or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(keys) <= content.keys()
