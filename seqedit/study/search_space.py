"""What a search of settings is about: ranges, settings that stay, and a digest of both."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base.files import file_digest
from ..lm.registry import locate
from ..methods.catalogue import CATALOGUE
from ..methods.ranges import TARGET, Choice, Range
from ..runs.config import Table
from ..runs.resolve import HYPER, TARGET_FILE
from .calibration import Calibration

BASE = "memit_seq"
"""The method for which the shared target settings are chosen."""


def search_space(
    method: str, table: Table, given: Mapping[str, Any], out: Path = HYPER
) -> tuple[dict[str, Range | Choice], dict[str, Any]]:
    """What is searched, by the name of the setting, and the settings that stay as they are.

    A system that is a method with something after it keeps the settings of that method.
    """
    entry = CATALOGUE.get(BASE if method == "target" else method)
    if entry is None or not entry.search:
        known = ", ".join(name for name, entry in CATALOGUE.items() if entry.search)
        raise ValueError(
            f"method: {method!r} has no ranges to search; there are ranges for target, {known}"
        )
    search = dict(entry.search)
    if table == "shared" and method != "target" and search.items() >= TARGET.items():
        search |= read_file(out / TARGET_FILE, "target")
    base, *after = method.split("+")
    if after:
        search = read_file(out / table / f"{base}.json", base) | search
    search |= given
    ranges = {name: one for name, one in search.items() if isinstance(one, Range | Choice)}
    return ranges, {name: value for name, value in search.items() if name not in ranges}


def search_digest(
    ranges: Mapping[str, Range | Choice], fixed: Mapping[str, Any], calibration: Calibration
) -> str:
    """What a search is about: with other ranges or facts it is another search."""
    about = asdict(calibration) | {"model": _model_digest(calibration.model)}
    if calibration.dtype == "float32":  # as in searches from before the setting
        del about["dtype"]
    asked = {
        "ranges": {
            name: {k: v for k, v in asdict(one).items() if not k.endswith("may_stay")}
            for name, one in ranges.items()
        },
        "fixed": dict(fixed),
        "calibration": about
        | {
            name: path and file_digest(path)
            for name, path in (("requests", calibration.requests), ("kept", calibration.kept))
        },
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def _model_digest(model: str) -> str:
    """What tells a model from another: the digests of its files, or its id on the hub."""
    folder = Path(locate(model))
    if not folder.exists():
        return model
    files = [folder] if folder.is_file() else sorted(folder.glob("*.safetensors"))
    return " ".join(file_digest(path) for path in files)


def read_file(path: Path, what: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object in a file of settings, or of a search.

    Args:
        path: the file.
        what: the method whose search makes it.
        default: what stands for a file that is not there; without it that is an error.

    Raises:
        ValueError: the file is not there, or holds something else.
    """
    if not path.exists():
        if default is not None:
            return default
        raise ValueError(f"{path.name}: not there yet; first `seqedit tune {what}`")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}; move it elsewhere") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def edges(ranges: Mapping[str, Range | Choice], settings: Mapping[str, Any]) -> dict[str, str]:
    """Setting → what to say of it, of the settings that lie on the edge of their range."""
    return {
        name: found
        for name, one in ranges.items()
        if isinstance(one, Range) and (found := one.edge(settings[name]))
    }
