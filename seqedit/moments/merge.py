"""Make files of second moments from other such files: merged, or compact."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..algebra.compact import CompactMoment, compacted
from ..algebra.second_moment import SecondMoment
from ..base.files import alone, check_replaceable
from .files import Moments, check_finite, check_same, load_moments, save_compact, save_moments


def merge_files(paths: Sequence[Path], out: Path) -> dict[int, int]:
    """Merge the second moments of several jobs, as if one job had read all their texts.

    Args:
        paths: at least two files of `collect_to_file` or of this function.
        out: the new file.

    Returns:
        Layer → number of tokens.

    Raises:
        ValueError: the files differ in model, tokenizer, layers or way of reading; one is compact
            or does not record its number of tokens; or two of them have read the same part of the
            same text; or `out` exists.
    """
    if len(paths) < 2:
        raise ValueError("merge: give at least two files")
    check_replaceable(out)
    read = [load_moments(path) for path in paths]
    whole = [_whole_moments(path, moments) for path, moments in zip(paths, read, strict=True)]
    texts: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        check_finite(path, read[i])
        try:
            check_same(path, _must_agree(read[i]), _must_agree(read[0]))
            for earlier in range(i):
                _check_other_texts(paths[earlier], read[earlier], path, read[i])
            texts += _texts(read[i])
        except (KeyError, TypeError, AttributeError) as error:  # metadata by others
            raise ValueError(f"merge: {path} does not say in our way what it has read") from error
    merged = {}
    for layer in whole[0]:
        merged[layer] = SecondMoment(len(whole[0][layer]))
        for moments, C in zip(read, whole, strict=True):
            merged[layer].sum += moments.counts[layer] * C[layer].double()
            merged[layer].count += moments.counts[layer]
    own = ("corpus", "part", "merged")
    about = {name: value for name, value in read[0].about.items() if name not in own}
    about["merged"] = texts
    with alone(out):
        check_replaceable(out)
        save_moments(out, merged, fingerprint=read[0].fingerprint, about=about)
    return {layer: moment.count for layer, moment in merged.items()}


def compact_file(path: Path, floor: float, out: Path) -> dict[int, CompactMoment]:
    """Write the compact form of the second moments of a file.

    Args:
        path: a file of whole second moments.
        floor: smallest eigenvalue that is kept, see `compacted`.
        out: the new file.

    Returns:
        Layer → compact moment.

    Raises:
        ValueError: the file cannot be read, or is compact already, or `out` exists.
    """
    check_replaceable(out)
    if not math.isfinite(floor):
        raise ValueError(f"floor is {floor}; it must be finite")
    moments = load_moments(path)
    check_finite(path, moments)
    compact = {}
    for layer, C in moments.C.items():
        if isinstance(C, CompactMoment):
            raise ValueError(f"{path} is compact already")
        compact[layer] = compacted(C, floor)
    with alone(out):
        check_replaceable(out)
        save_compact(out, compact, replace(moments, about=moments.about | {"floor": floor}))
    return compact


def _whole_moments(path: Path, moments: Moments) -> dict[int, Float[Tensor, "d_ff d_ff"]]:
    """Layer → C of a file that can be merged. Raises ValueError for one that cannot."""
    whole = {layer: C for layer, C in moments.C.items() if isinstance(C, Tensor)}
    if whole.keys() != moments.C.keys() or whole.keys() != moments.counts.keys():
        raise ValueError(
            f"merge: {path} is compact or does not say how many tokens it saw; it cannot be "
            "weighted"
        )
    return whole


def _check_other_texts(first: Path, earlier: Moments, path: Path, moments: Moments) -> None:
    """Raises ValueError if two files have read the same part of the same text."""
    for text in _texts(moments):
        if text in _texts(earlier):
            raise ValueError(f"merge: {first} and {path} are of the same text, {json.dumps(text)}")


def _must_agree(moments: Moments) -> dict[str, Any]:
    """What files must have in common to be merged."""
    return {
        "fingerprint": moments.fingerprint,
        "layers": sorted(moments.C),
        "length": moments.about.get("reading", {}).get("length"),
        "sizes": [moments.C[layer].shape[0] for layer in sorted(moments.C)],
    } | {name: moments.about.get(name) for name in ("model", "tokenizer", "dtype")}


def _texts(moments: Moments) -> list[dict[str, Any]]:
    """Corpus and part of each text that was read; empty for files that do not record them."""
    about = moments.about
    if "merged" in about:
        return about["merged"]
    return [{"corpus": about["corpus"], "part": about["part"]}] if "corpus" in about else []
