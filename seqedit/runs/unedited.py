"""Scores of unedited models, measured once for each model and list of requests and kept on disk."""

import ast
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from ..base.files import alone, cache_folder, finite, write_json
from ..evaluation.edits import score_edits
from ..lm.fingerprint import fingerprint
from ..lm.model import LanguageModel
from ..requests.request import EditRequest
from .code import PACKAGE, deciding_modules

MEASURES = "evaluation.edits"
"""The module that scores edits; it and whatever it imports decide the scores."""


def unedited_scores(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    say: Callable[[str], object] = lambda remark: None,
    progress: bool = False,
) -> pd.DataFrame:
    """`score_edits` of an unedited model, from the cache if it was measured before.

    The cache is the folder `SEQEDIT_CACHE`, or `~/.cache/seqedit`. Scores are found again for the
    same model, number format, kind of device and attention, the same requests in the same order,
    and the same code; numbers come back to the last bit. Another number of threads does not count,
    though it may change round-off. A second process that needs the same scores waits for the first.

    Args:
        lm: the model, which no run has edited yet.
        requests: what to measure.
        say: told if a file of the cache is damaged, or if another process has to be waited for.
        progress: show a progress bar.
    """
    key = _key(lm, requests)
    path = cache_folder() / f"unedited-{key['model']}-{_digest(key)[:16]}.json"
    with alone(path, say):
        found = _read(path, key, say)
        if found is None:
            found = _columns(score_edits(lm, requests, progress=progress))
            write_json(path, {"key": key, "digest": _digest(found), "scores": found})
    return pd.DataFrame(found).replace({None: float("nan")}).infer_objects()


def _key(lm: LanguageModel, requests: Sequence[EditRequest]) -> dict[str, Any]:
    """What decides the scores, as JSON values."""
    return {
        "model": fingerprint(lm),
        "dtype": str(next(lm.model.parameters()).dtype),
        "device": lm.device.type,
        "attention": lm.config._attn_implementation,
        "requests": _digest([asdict(request) for request in requests]),
        "code": _code_of_measures(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@cache
def _code_of_measures() -> str:
    """Digest of the code that measures, without comments and docstrings."""
    modules = deciding_modules(PACKAGE, MEASURES)
    return _digest({name: ast.dump(tree) for name, tree in modules.items()})


def _digest(value: Any) -> str:
    """Digest of a JSON value, in 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _columns(scores: pd.DataFrame) -> dict[str, list]:
    """The columns of a frame as JSON gives them back, with None for NaN."""
    return json.loads(json.dumps(finite({name: scores[name].tolist() for name in scores})))


def _read(path: Path, key: dict[str, Any], say: Callable[[str], object]) -> dict[str, list] | None:
    """The columns in a file of the cache; None if there is none, or if it is damaged."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] == key and content["digest"] == _digest(content["scores"]):
            return content["scores"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # other text, other JSON
        pass
    say(f"{path} is damaged; the unedited model is measured anew")
    return None
