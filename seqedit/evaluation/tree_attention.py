"""Run a model over sequences that are packed as trees."""

import inspect
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..lm.hooks import BeforeHook, forward_hooks, observe, recording
from ..lm.model import LanguageModel
from ..lm.partial_forward import partial_blocks
from ..lm.tokens import padded
from .packing import PackedRow, apart, pack, visible

Masks = list[Tensor | None]
"""For each layer what its attention reads of whole rows, (tokens, tokens): booleans, or numbers
that are added; None where every token sees all before it.
"""


def plain_hidden(
    lm: LanguageModel, rows: Sequence[PackedRow]
) -> Float[Tensor, "rows longest d_model"]:
    """The last block's output at every token of rows that hold one sequence each."""
    last = lm.n_layers - 1
    seen = observe(lm, padded(lm, [row.ids for row in rows]), {last: lm.block(last)}, last=last)
    return seen[last].hidden.to(lm.device)


@torch.no_grad()
def packed_hidden(
    lm: LanguageModel, rows: Sequence[PackedRow], masks: Masks
) -> Float[Tensor, "rows longest d_model"]:
    """The last block's output at every token of packed rows.

    The model runs as it is, with the positions that tokens have in their sequences; only what
    attention may see is narrowed to a token's own sequences.

    Args:
        lm: the model.
        rows: packed sequences, none longer than the row of which `masks` are.
        masks: see `own_masks`.
    """
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    positions = [row.positions + gap for row, gap in zip(rows, gaps, strict=True)]
    place = torch.tensor(positions, device=lm.device)  # (rows, longest)
    tree = visible(rows).to(lm.device)
    narrowed = {id(mask): _narrowed(mask, tree, place) for mask in masks}
    before = [(lm.block(i), _seeing(narrowed[id(mask)])) for i, mask in enumerate(masks)]
    ids = padded(lm, [row.ids for row in rows])
    last = lm.n_layers - 1
    with forward_hooks(before=before), recording({last: lm.block(last)}, last=last) as seen:
        lm.model.base_model(input_ids=ids, position_ids=place, use_cache=False)
    return seen[last].hidden.to(lm.device)


def own_masks(lm: LanguageModel, ids: Sequence[int]) -> Masks:
    """What each layer's attention sees in a plain row, windows included.

    Args:
        lm: the model.
        ids: token ids of the row, which should be the longest.

    Raises:
        ValueError: a layer has no attention.
    """
    masks = [block.arguments.get("attention_mask") for block in partial_blocks(lm, ids)]
    return [None if mask is None else mask[0, 0] for mask in masks]


def runs_packed(lm: LanguageModel) -> bool:
    """Whether a model computes the same of packed rows as of plain ones, up to round-off.

    It does if all its layers mix tokens by attention with a mask. This is tried once for each
    model, on two short sequences with a common beginning.
    """
    if lm.model not in _RUNS_PACKED:
        _RUNS_PACKED[lm.model] = _agrees(lm)
    return _RUNS_PACKED[lm.model]


_RUNS_PACKED: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def _agrees(lm: LanguageModel) -> bool:
    """Whether packed rows give the plain output for two sequences that fork after 8 tokens."""
    if lm.config._attn_implementation not in ("sdpa", "eager"):  # others take no such masks
        return False
    start = lm.config.vocab_size // 2  # any tokens do
    ids = [*range(start, start + 16)]
    sequences = [ids, [*ids[:8], *ids[:7:-1]]]
    (row,) = pack(sequences, 2 * len(ids))
    plain = plain_hidden(lm, apart(sequences))
    try:
        packed = packed_hidden(lm, [row], own_masks(lm, ids))[0]
    except (RuntimeError, TypeError, ValueError):  # a block that takes no mask, or not of this form
        return False
    error = max((packed[row.paths[i]] - plain[i]).norm() / plain[i].norm() for i in row.paths)
    return bool(error < torch.finfo(plain.dtype).eps ** 0.5)


def _narrowed(
    mask: Tensor | None,
    tree: Bool[Tensor, "rows longest longest"],
    place: Int[Tensor, "rows longest"],
) -> Tensor:
    """A layer's mask for packed rows, (rows, 1, longest, longest)."""
    if mask is None:
        return tree[:, None]
    own = mask.to(place.device)[place[:, :, None], place[:, None, :]]  # (rows, longest, longest)
    if own.dtype == torch.bool:
        return (own & tree)[:, None]
    return own.masked_fill(~tree, torch.finfo(own.dtype).min)[:, None]


def _seeing(mask: Tensor) -> BeforeHook:
    """A hook that gives a block this mask."""

    def give(module, args, kwargs):
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        bound.arguments["attention_mask"] = mask
        return bound.args, bound.kwargs

    return give
