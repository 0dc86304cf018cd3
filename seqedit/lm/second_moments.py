"""Second moments of the keys of a text: Σ k kᵀ over the inputs of the edited matrix at every token.

Texts are read in windows. Each window is tokenised whole, its documents are sorted by length and
batched, and after each batch the place in the text is known, so that a long reading can be
interrupted and resumed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn
from tqdm import tqdm

from ..algebra.second_moment import CHUNK, SecondMoment
from .hooks import observe
from .model import LanguageModel
from .tokens import chunks, padded, tokenise
from .vocabulary import check_ids


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a text is read.

    Attributes:
        length: tokens of a document after which it is cut; None for as many as the model has
            positions.
        tokens: number of tokens after which reading ends, exactly; None for no limit.
        window: characters of text after which a window is full; None for one window.
        batch_tokens: largest number of tokens in a batch, padding included: few long documents or
            many short ones.
        chunk: keys of one product, see `SecondMoment.update`.
    """

    length: int | None = None
    tokens: int | None = None
    window: int | None = 4_000_000
    batch_tokens: int = 16_384
    chunk: int = CHUNK


@dataclass(frozen=True)
class Place:
    """How far a text has been read.

    Attributes:
        documents: documents of all windows that are finished.
        tokens: tokens read of them.
        batches: batches that are finished of the window after them.
    """

    documents: int = 0
    tokens: int = 0
    batches: int = 0


Add = Callable[
    [LanguageModel, list[list[int]], Mapping[int, nn.Module], dict[int, SecondMoment], int], None
]
"""Adds what is collected of one batch to the moments; its arguments are those of `_add_keys`."""


def accumulate_moments(
    lm: LanguageModel,
    texts: Iterable[str],
    layers: Sequence[int],
    reading: Reading,
    moments: dict[int, SecondMoment],
    place: Place | None = None,
    add: Add | None = None,
) -> Iterator[Place]:
    """Add the keys of every token of `texts` to `moments`, layer by layer.

    Resumed from a place, with the moments as they were there, it adds the same numbers in the same
    order.

    Args:
        lm: the model.
        texts: documents, from those that `place` counts onwards.
        layers: whose keys are read.
        reading: how the text is read.
        moments: layer → moments so far, changed in place.
        place: where an earlier reading stopped; None for the beginning.
        add: collects something else than keys; None for `_add_keys`.

    Yields:
        The place after each batch and after each window.
    """
    place, add = place or Place(), add or _add_keys
    modules, done = {layer: lm.down_proj(layer) for layer in layers}, place.batches
    limit = min(reading.length or lm.max_positions, lm.max_positions)
    for window in _windows(texts, reading.window):
        left = None if reading.tokens is None else reading.tokens - place.tokens
        if left == 0:
            return
        rows = _within([row[:limit] for row in tokenise(lm, window).ids], left)
        check_ids(lm, rows, f"corpus, documents from {place.documents} on")
        batches = list(chunks([len(row) for row in rows], reading.batch_tokens))
        for i, batch in enumerate(batches[done:], start=done):
            add(lm, rows[batch], modules, moments, reading.chunk)
            place = Place(place.documents, place.tokens, i + 1)
            yield place
        read = sum(len(row) for row in rows)
        place, done = Place(place.documents + len(window), place.tokens + read), 0
        yield place


def collect_second_moments(
    lm: LanguageModel,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    batch_tokens: int = 16_384,
    progress: bool = True,
    add: Add | None = None,
) -> dict[int, SecondMoment]:
    """Return Σ k kᵀ and the number of keys over every token of `texts`, for each layer.

    Texts are cut to the model's positions and batched by length. Padding is not counted; the
    special tokens that the tokenizer adds are, as in the released statistics. `add` collects
    something else than keys, see `accumulate_moments`.

    Source:
        ROME (2202.05262) appendix E, MEMIT (2210.07229) appendix; the mean per token is
        `SecondMoment.mean`.
    """
    moments: dict[int, SecondMoment] = {}
    reading = Reading(window=None, batch_tokens=batch_tokens)
    bar = tqdm(unit="batch", desc="second moments", disable=None if progress else True, leave=False)
    for _ in accumulate_moments(lm, texts, layers, reading, moments, add=add):
        bar.update()
    bar.close()
    return moments


def _windows(texts: Iterable[str], size: int | None) -> Iterator[list[str]]:
    """Consecutive lists of texts with at least `size` characters each, but for the last list."""
    window: list[str] = []
    held = 0
    for text in texts:
        window.append(text)
        held += len(text)
        if size is not None and held >= size:
            yield window
            window, held = [], 0
    if window:
        yield window


def _within(rows: list[list[int]], left: int | None) -> list[list[int]]:
    """The first `left` tokens of all rows, as rows sorted by length; empty ones are dropped."""
    if left is not None:
        ends = accumulate(len(row) for row in rows)
        rows = [row[: max(0, left - end + len(row))] for row, end in zip(rows, ends, strict=True)]
    return sorted((row for row in rows if row), key=len)


def _add_keys(
    lm: LanguageModel,
    rows: list[list[int]],
    modules: Mapping[int, nn.Module],
    moments: dict[int, SecondMoment],
    chunk: int,
) -> None:
    """Add the keys of one batch to each layer's moments, on that layer's device.

    Args:
        lm: the model.
        rows: token ids in ascending order of length.
        modules: layer → the module that holds its edited matrix.
        moments: layer → moments so far, changed in place.
        chunk: keys of one product.
    """
    calls = observe(lm, padded(lm, rows), modules, last=max(modules))
    lengths = torch.tensor([[len(row)] for row in rows])  # (rows, 1)
    real = torch.arange(len(rows[-1]))[None] < lengths  # (rows, tokens), False for padding
    for layer in modules:
        keys = calls[layer].input  # (rows, tokens, d_ff)
        keys = keys[real.to(keys.device)]  # (n, d_ff)
        moments.setdefault(layer, SecondMoment(keys.shape[1], keys.device)).update(keys, chunk)
