"""Second moments of keys over a text, one pass for all layers, in windows that can be stopped and taken up again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from tqdm import tqdm

from ..algebra.second_moment import CHUNK, SecondMoment
from .hooks import observe
from .model import LanguageModel
from .tokens import chunks, padded, tokenise


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a text is read.

    Attributes:
        length: tokens of a document that are read at most; None for the model's positions.
        tokens: tokens read in all, exactly, if there are so many; None for no limit.
        window: characters of text that are tokenised, sorted by length and batched together, at least; None for all.
        batch_tokens: padded tokens of a batch, at most: few long documents, or many short ones.
        chunk: keys of one product, see `SecondMoment.update`.
    """

    length: int | None = None
    tokens: int | None = None
    window: int | None = 4_000_000
    batch_tokens: int = 16_384
    chunk: int = CHUNK


@dataclass(frozen=True)
class Place:
    """How far a text was read: documents and tokens of the windows that are done, and batches of the one begun."""

    documents: int = 0
    tokens: int = 0
    batches: int = 0


def accumulate_moments(
    lm: LanguageModel,
    texts: Iterable[str],
    layers: Sequence[int],
    reading: Reading,
    moments: dict[int, SecondMoment],
    place: Place | None = None,
) -> Iterator[Place]:
    """Adds the keys of every token of `texts` to `moments`, layer by layer; yields after each batch how far it is.

    Going on from a place, with the moments as they were there, adds up the same numbers in the same order.

    Args:
        texts: documents from the place's on; place: None for the beginning.
    """
    place = place or Place()
    modules, done = {layer: lm.down_proj(layer) for layer in layers}, place.batches
    limit = min(reading.length or lm.max_positions, lm.max_positions)
    for window in _windows(texts, reading.window):
        left = None if reading.tokens is None else reading.tokens - place.tokens
        if left == 0:
            return
        rows = _within([row[:limit] for row in tokenise(lm, window).ids], left)
        parts = list(chunks([len(row) for row in rows], reading.batch_tokens))
        for i, part in enumerate(parts[done:], start=done):
            _add(lm, rows[part], modules, moments, reading.chunk)
            place = Place(place.documents, place.tokens, i + 1)
            yield place
        place, done = Place(place.documents + len(window), place.tokens + sum(map(len, rows))), 0
        yield place


def collect_second_moments(
    lm: LanguageModel,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    batch_tokens: int = 16_384,
    progress: bool = True,
) -> dict[int, SecondMoment]:
    """Σ k kᵀ and count of the keys of every token of `texts`, for each layer.

    Texts are cut to the model's positions and batched by length; padding is not counted. The model's own special
    tokens are, as in the released statistics.

    Source: ROME (2202.05262) appendix E, MEMIT (2210.07229) appendix; the mean per token is `SecondMoment.mean`.
    """
    moments: dict[int, SecondMoment] = {}
    bar = tqdm(unit="batch", desc="second moments", disable=None if progress else True, leave=False)
    for _ in accumulate_moments(
        lm, texts, layers, Reading(window=None, batch_tokens=batch_tokens), moments
    ):
        bar.update()
    bar.close()
    return moments


def _windows(texts: Iterable[str], size: int | None) -> Iterator[list[str]]:
    window, held = [], 0
    for text in texts:
        window.append(text)
        held += len(text)
        if size is not None and held >= size:
            yield window
            window, held = [], 0
    if window:
        yield window


def _within(rows: list[list[int]], left: int | None) -> list[list[int]]:
    """Rows that hold something, sorted by length; in their own order the first `left` tokens of them."""
    if left is not None:
        ends = accumulate(map(len, rows))
        rows = [row[: max(0, left - end + len(row))] for row, end in zip(rows, ends, strict=True)]
    return sorted((row for row in rows if row), key=len)


def _add(
    lm: LanguageModel,
    rows: list[list[int]],
    modules: dict,
    moments: dict[int, SecondMoment],
    chunk: int,
) -> None:
    """Adds the keys of one batch, rows in ascending length, to each layer's moments, where that layer is."""
    calls = observe(lm, padded(lm, rows), modules, last=max(modules))
    real = torch.arange(len(rows[-1]))[None] < torch.tensor([[len(row)] for row in rows])
    for layer in modules:
        keys = calls[layer].input
        keys = keys[real.to(keys.device)]  # (tokens, d_ff)
        moments.setdefault(layer, SecondMoment(keys.shape[1], keys.device)).update(keys, chunk)
