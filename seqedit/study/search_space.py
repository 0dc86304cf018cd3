"""What a search of settings is about: ranges, settings that stay, and a digest of both."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..base.files import file_digest
from ..lm.default_layers import default_layers
from ..lm.registry import locate
from ..methods.catalogue import CATALOGUE
from ..methods.ranges import TARGET, Choice, Range, Search
from ..runs.config import Table
from ..runs.resolve import HYPER, TARGET_FILE
from .calibration import Calibration

BASE = "memit_seq"
"""The method for which the shared target settings are chosen."""


DEPTHS = (0.1, 0.2, 0.3, 0.5, 0.7)
"""Where single layers are tried in a model other than the embedded one, as shares of all layers."""


def search_space(
    method: str,
    table: Table,
    given: Mapping[str, Any],
    out: Path = HYPER,
    n_layers: int | None = None,
) -> tuple[dict[str, Range | Choice], dict[str, Any]]:
    """What is searched, by the name of the setting, and the settings that stay as they are.

    A system that is a method with something after it keeps the settings of that method. In a model
    other than the embedded one `target` also chooses between the first layers and those of
    `default_layers`; methods that edit a single layer try those at `DEPTHS`.

    Args:
        method, table, out: see `seqedit.study.tune.tune`.
        given: settings that are not searched, and texts like "30..3000" for those that are searched
            between other ends.
        n_layers: of a model other than the embedded one, for which the catalogue's ranges are.
    """
    search = dict(ranges_of(method))
    one_layer = isinstance(search.get("layers"), Choice)
    if n_layers is not None:
        search |= _layers(search, n_layers, method == "target" or table == "own")
    if table == "shared" and method != "target" and search.items() >= TARGET.items():
        target = read_file(out / TARGET_FILE, "target")
        if one_layer:
            target.pop("layers", None)
        search |= target
    base, *after = method.split("+")
    if after:
        search = read_file(out / table / f"{base}.json", base) | search
    search |= {name: _narrowed(name, one, search.get(name)) for name, one in given.items()}
    ranges = {name: one for name, one in search.items() if isinstance(one, Range | Choice)}
    return ranges, {name: value for name, value in search.items() if name not in ranges}


def ranges_of(method: str) -> Search:
    """The catalogue's ranges for a method, or for "target".

    Raises:
        ValueError: there are none.
    """
    entry = CATALOGUE.get(BASE if method == "target" else method)
    if entry is None or not entry.search:
        known = ", ".join(name for name, entry in CATALOGUE.items() if entry.search)
        raise ValueError(
            f"method: {method!r} has no ranges to search; there are ranges for target, {known}"
        )
    return entry.search


def _narrowed(name: str, given: Any, catalogued: Any) -> Any:
    """A given setting as it is; a text like "30..3000" as the catalogue's range with these ends.

    Raises:
        ValueError: the setting has no range, or the ends are none.
    """
    if not isinstance(given, str) or ".." not in given:
        return given
    if not isinstance(catalogued, Range):
        raise ValueError(f"{name}: has no range that {given} could narrow; give one value")
    low, _, high = given.partition("..")
    try:
        one = replace(
            catalogued, low=float(low), high=float(high), low_may_stay="", high_may_stay=""
        )
    except ValueError:
        raise ValueError(f"{name}: {given!r} is no range; write it as 30..3000") from None
    start = catalogued.above if catalogued.log else -math.inf
    end = catalogued.below or math.inf
    if not start < one.low < one.high < end:
        raise ValueError(f"{name}: the ends of {given} have to rise and lie in {start:g} … {end:g}")
    return one


def _layers(search: Mapping[str, Any], n_layers: int, choose: bool) -> dict[str, Any]:
    """The layers to edit or to try in a model of so many; nothing where the catalogue's may stay,
    because they are those of no particular model.

    Args:
        search: the catalogue's ranges.
        n_layers: of the model.
        choose: try more than one group of layers.
    """
    if isinstance(search["layers"], Choice):
        depths = dict.fromkeys((round(depth * n_layers),) for depth in DEPTHS)
        return {"layers": Choice(tuple(depths))}
    if len(search["layers"]) == 1:
        return {}
    usual = tuple(default_layers(n_layers))
    first = tuple(range(len(usual)))
    return {"layers": Choice((first, usual)) if choose and first != usual else usual}


def search_digest(
    ranges: Mapping[str, Range | Choice], fixed: Mapping[str, Any], calibration: Calibration
) -> str:
    """What a search is about: with other ranges or facts it is another search."""
    about = asdict(calibration) | {"model": _model_digest(calibration.model)}
    if calibration.dtype == "float32":  # as in searches from before the setting
        del about["dtype"]
    asked = {
        "ranges": {
            name: {
                k: v
                for k, v in asdict(one).items()
                if not k.endswith("may_stay") and (k, v) != ("below", None)  # as in older searches
            }
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
