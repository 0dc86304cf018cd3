"""Running the upper blocks again on the last tokens only.

A change at some token of a causal model reaches that token and those after it. Everything before keeps its keys and
values, so these are computed once, and a step costs the tail only.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

from .hooks import Call


@dataclass(frozen=True)
class Tails:
    """Rows of equally long tails, and the blocks that are to be run on them.

    Attributes:
        blocks: each block with the arguments, after the first, of its call on whole rows.
        kept: attention keys and values of each block over the whole rows, (rows, heads, tokens, width).
        at: position of each tail token in its row.
    """

    blocks: Sequence[tuple[nn.Module, dict[str, Any]]]
    kept: Sequence[tuple[Tensor, Tensor]]
    at: Int[Tensor, "rows length"]

    def __getitem__(self, rows: Tensor) -> "Tails":
        return Tails(self.blocks, [(keys[rows], values[rows]) for keys, values in self.kept], self.at[rows])

    def run(self, hidden: Float[Tensor, "rows length d_model"]) -> Float[Tensor, "rows length d_model"]:
        """Output of the last block at the tails, given the input of the first."""
        for (block, arguments), (keys, values) in zip(self.blocks, self.kept, strict=True):
            cache = _Kept(keys, values, self.at)
            out = block(hidden, **{name: self._cut(name, value, cache) for name, value in arguments.items()})
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    def _cut(self, name: str, value: Any, cache: "_Kept") -> Any:
        """What an argument for whole rows, alike for all, is for the tails."""
        if isinstance(value, Cache):
            return cache
        if name == "attention_mask":
            tokens = cache.keys.shape[2]
            seen = torch.ones(tokens, tokens, dtype=torch.bool, device=self.at.device).tril() if value is None else (
                value[0, 0])
            return seen[self.at][:, None]                                 # (rows, 1, length, tokens)
        if name == "position_ids":
            return value.flatten()[self.at]
        if name == "position_embeddings":
            return tuple(table[0][self.at] for table in value)            # cosines and sines, (rows, length, width)
        return value


class _Kept:
    """In place of a cache: the keys and values of the whole rows, with those of the tails put in."""

    def __init__(self, keys: Tensor, values: Tensor, at: Tensor):
        self.keys, self.values = keys, values
        self.at = at[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])

    def update(self, keys: Tensor, values: Tensor, *_) -> tuple[Tensor, Tensor]:
        return self.keys.scatter(2, self.at, keys), self.values.scatter(2, self.at, values)


def arguments_of(block: nn.Module, call: Call) -> dict[str, Any]:
    """The arguments of a block's call after the first, by name."""
    signature = inspect.signature(block.forward)
    named = dict(list(signature.bind(*call.args, **call.kwargs).arguments.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named
