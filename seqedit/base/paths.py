"""Where the project's files are.

In a clone they are in the clone's `data` folder. An installed package carries the files that it
reads at run time in `seqedit/data`, and never writes there: what commands make by default goes to
`data` in the current folder. Set `SEQEDIT_ROOT` to a folder that holds a `data` folder to use that
one instead, for reading and writing.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_CARRIES_DATA = (_PACKAGE / "data").is_dir()  # only an installed package does

ROOT = Path(os.environ.get("SEQEDIT_ROOT", _PACKAGE if _CARRIES_DATA else _PACKAGE.parent))
"""The folder that holds `data`."""
DATA = ROOT / "data"
MODEL = DATA / "model"
EDITORS = DATA / "editors"
MOMENTS = DATA / "moments.safetensors"
WORLD = DATA / "world"
FACTS = DATA / "facts"

OUTPUT = Path("data") if _CARRIES_DATA and ROOT == _PACKAGE else DATA
"""Where commands write by default: `DATA` in a clone, `data` in the current folder elsewhere."""
RESULTS = OUTPUT / "results"
"""Records of the book's studies; an installed package carries none."""
RUNS = OUTPUT / "runs"
"""Runs of studies while they are being made; not committed."""

NAMED_MODELS = {"embedded": MODEL}
"""Models that may be given by name instead of by folder or hub id."""
NAMED_REQUESTS = {
    "world": WORLD / "records.json",
    "calibration": WORLD / "calibration.json",
    "facts": FACTS / "records.json",
}
"""Request files that may be given by name instead of by path."""


def find_model(model: str | Path) -> str | Path:
    """Return the folder of a model given by name ("embedded"); return anything else unchanged.

    A folder of that name in the current folder takes precedence.
    """
    return _find(model, NAMED_MODELS)


def find_requests(requests: str | Path) -> str | Path:
    """Return the file of requests given by name, see `NAMED_REQUESTS`; anything else unchanged.

    A file of that name in the current folder takes precedence.
    """
    return _find(requests, NAMED_REQUESTS)


def _find(given: str | Path, named: dict[str, Path]) -> str | Path:
    if str(given) in named and not Path(given).exists():
        return named[str(given)]
    return given
