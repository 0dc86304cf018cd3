"""Let attention see rows, where a block runs the tokens of many rows as one matrix.

Norms, projections and MLPs treat every token by itself; for them many short rows are one long one,
and one thick matrix product is faster than many thin ones. Attention alone has to know which tokens
belong together. It is the one part of a block that is exchanged: queries are laid out by rows
before it, and its outputs lined up again after it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .places import Places

Attention = Callable[..., tuple[Tensor, Any]]
"""Called with (module, query, key, value, mask, …); returns the output, (rows, tokens, heads,
width), and weights or None.
"""


@contextmanager
def attention_exchanged(
    block: nn.Module, name: str, exchange: Callable[[Attention], Attention]
) -> Iterator[None]:
    """Inside, what a block calls as its attention is `exchange` of its own.

    Families take their attention from the registry of `transformers`; GPT-J has a method for it.
    The registry is one for the whole process: only one thread may be inside.

    Args:
        block: a transformer block, or a whole model.
        name: the attention's name in the registry, which the model's configuration holds.
        exchange: takes the block's own attention and returns what is called instead.
    """
    methods: list[Any] = [m for m in block.modules() if callable(getattr(m, "_attn", None))]
    for module in methods:
        module._attn = partial(_method_by, exchange(_by_method(module._attn)), module)
    registered = ALL_ATTENTION_FUNCTIONS.get(name)
    ALL_ATTENTION_FUNCTIONS[name] = exchange(registered or _eager)
    try:
        yield
    finally:
        for module in methods:
            del module._attn
        del ALL_ATTENTION_FUNCTIONS[name]  # what was registered for all is seen again
        if registered is not ALL_ATTENTION_FUNCTIONS.get(name):
            ALL_ATTENTION_FUNCTIONS[name] = registered


@contextmanager
def exchangeable(model: nn.Module, blocks: Sequence[nn.Module], name: str) -> Iterator[set[int]]:
    """Find out, in a pass inside the `with` block, the blocks whose attention can be exchanged.

    Args:
        model: what is run, as it is.
        blocks: its transformer blocks.
        name: see `attention_exchanged`.

    Yields:
        The numbers of these blocks, once the pass has been made.
    """
    owner = {id(module): i for i, block in enumerate(blocks) for module in block.modules()}
    found: set[int] = set()

    def noticed(attention: Attention) -> Attention:
        def attend(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
            found.add(owner.get(id(module), -1))
            return attention(module, *args, **kwargs)

        return attend

    with attention_exchanged(model, name, noticed):
        yield found


SHORT = 64 * 64
"""Scores of a row and head up to which `short_attention` is used, which keeps them all."""


def by_row(places: Places, attention: Attention) -> Attention:
    """The attention of tokens of many rows, (1, tokens), by one of rectangles, (rows, longest).

    Args:
        places: where the tokens stand. The keys and values that attention gets are those of whole
            rows.
        attention: is called with queries that are 0 where a row has fewer tokens than the longest.
            `short_attention` takes the place of `transformers`' `sdpa` where rows are short.
    """

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, *args, **kwargs
    ) -> tuple[Tensor, Any]:
        here = places.to(query.device)
        short = here.longest * key.shape[2] <= SHORT and "position_bias" not in kwargs
        own = short_attention if attention is sdpa_attention_forward and short else attention
        tokens = query[0].transpose(0, 1)  # (tokens, heads, width)
        slots = tokens.new_zeros(here.rows * here.longest, *tokens.shape[1:])
        laid_out = slots.index_copy(0, here.slot, tokens).unflatten(0, (here.rows, here.longest))
        output, _ = own(module, laid_out.transpose(1, 2), key, value, mask, *args, **kwargs)
        return output.flatten(0, 1).index_select(0, here.slot)[None], None

    return attend


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
    """What a family computes where no attention is registered, named alike in all of them."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


def short_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads length width"],
    key: Float[Tensor, "rows kv_heads tokens width"],
    value: Float[Tensor, "rows kv_heads tokens value_width"],
    mask: Shaped[Tensor, "rows 1 length tokens"],
    scaling: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "rows length heads value_width"], None]:
    """Scaled dot-product attention for short rows, softmax((qkᵀ)·scaling + mask)v.

    Fused kernels are made for long rows. Their backward pass takes thirty times as long as this on
    a CPU in bfloat16, and they want the keys of grouped heads repeated. Here the queries of a group
    are one matrix.

    Args:
        module: not used; as the registry of `transformers` has it.
        query: of a few tokens of each row.
        key: of whole rows; a head of it serves heads ÷ kv_heads heads of queries.
        value: likewise.
        mask: what each token sees, as booleans or as numbers that are added.
        scaling: 1/√width unless given.
    """
    rows, heads, length, width = query.shape
    groups = (rows, key.shape[1], heads // key.shape[1] * length)
    scale = width**-0.5 if scaling is None else scaling
    scores = (query * scale).reshape(*groups, width) @ key.transpose(2, 3)
    by_head = scores.view(rows, heads, length, -1)
    if mask.dtype == torch.bool:
        by_head = by_head.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        by_head = by_head + mask
    weights = by_head.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    output = weights.to(value.dtype).view(*groups, -1) @ value
    return output.view(rows, heads, length, -1).transpose(1, 2), None


def _by_method(method: Callable[..., tuple[Tensor, Any]]) -> Attention:
    """GPT-J's method as an `Attention`; its output is (rows, heads, tokens, width)."""

    def attend(_: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        output, weights = method(*args, **kwargs)
        return output.transpose(1, 2), weights

    return attend


def _method_by(attention: Attention, module: nn.Module, *args: Any) -> tuple[Tensor, Any]:
    """An `Attention` as GPT-J's method."""
    output, weights = attention(module, *args)
    return output.transpose(1, 2), weights
