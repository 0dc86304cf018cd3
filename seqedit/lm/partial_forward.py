"""Run transformer blocks on the last tokens of a row, the others' keys and values being stored.

In a causal model, a change at one token reaches that token and later ones, never earlier ones. All
that a later token reads of an earlier one, within a block, is its attention key and value. A block
can therefore be run on the last tokens of a row alone, if the keys and values of the earlier ones
are stored.

Words used here and in `layer_sweep`: a *row* is one text as token ids; its *tail* are the last
tokens of it, the only ones that are run; `positions`, (rows, length), says where in its row each
token stands.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from .hooks import Call, Stop, observe
from .model import LanguageModel
from .tokens import padded

Stored = Float[Tensor, "rows heads tokens width"]
KeysValues = tuple[Stored, Stored]
"""Attention keys and values of one block for whole rows, (rows, heads, tokens, width) each."""


@dataclass(frozen=True)
class PartialBlock:
    """A transformer block that can be run on some tokens of each row.

    Attributes:
        module: the block.
        arguments: what the model passes to the block beside the hidden states, by name, as seen in
            a pass over one whole row; the same for all rows.
        stored_shape: shape of the attention keys of one row, (heads, tokens, width).
    """

    module: nn.Module
    arguments: dict[str, Any]
    stored_shape: tuple[int, int, int]

    def run(
        self,
        hidden: Float[Tensor, "rows length d_model"],
        stored: KeysValues,
        positions: Int[Tensor, "rows length"],
    ) -> tuple[Float[Tensor, "rows length d_model"], KeysValues]:
        """Run the block on the tokens at `positions`.

        Args:
            hidden: the block's input at these tokens.
            stored: keys and values of whole rows; those of the tokens at `positions` may hold
                anything.
            positions: where the tokens stand in their rows.

        Returns:
            The block's output at these tokens, and `stored` with their keys and values filled in;
            both on the block's device.
        """
        hidden, cache = self._prepare(hidden, stored, positions)
        output = self.module(hidden, **self._arguments(cache))
        return output[0] if isinstance(output, tuple) else output, cache.stored

    def fill_in(
        self,
        hidden: Float[Tensor, "rows length d_model"],
        stored: KeysValues,
        positions: Int[Tensor, "rows length"],
    ) -> KeysValues:
        """Return `stored` with keys and values of these tokens filled in; the block stops there."""
        hidden, cache = self._prepare(hidden, stored, positions, stop=True)
        try:
            self.module(hidden, **self._arguments(cache))
        except Stop:
            pass
        return cache.stored

    @cached_property
    def device(self) -> torch.device:
        """The device that the block's parameters are on."""
        return next(self.module.parameters()).device

    def _prepare(
        self, hidden: Tensor, stored: KeysValues, positions: Tensor, stop: bool = False
    ) -> tuple[Tensor, "_StoredCache"]:
        """Move all to the block's device, keys and values into what stands in for the cache."""
        keys, values = (x.to(self.device) for x in stored)
        return hidden.to(self.device), _StoredCache((keys, values), positions.to(self.device), stop)

    def _arguments(self, cache: "_StoredCache") -> dict[str, Any]:
        """The block's arguments for whole rows, restricted to the tokens that are run."""
        return {name: _restrict(name, value, cache) for name, value in self.arguments.items()}


@dataclass(frozen=True)
class Tails:
    """Rows with equally long tails, and blocks that are run on them again and again.

    Attributes:
        blocks: consecutive blocks, lowest first.
        stored: keys and values of the whole rows, for each block.
        positions: where the tail tokens stand in their rows.
    """

    blocks: Sequence[PartialBlock]
    stored: Sequence[KeysValues]
    positions: Int[Tensor, "rows length"]

    def select(self, chosen: Tensor) -> "Tails":
        """The rows that an index or a mask over rows chooses."""
        stored = [
            (keys[chosen.to(keys.device)], values[chosen.to(values.device)])
            for keys, values in self.stored
        ]
        return Tails(self.blocks, stored, self.positions[chosen])

    def run(
        self, hidden: Float[Tensor, "rows length d_model"], count: int
    ) -> Float[Tensor, "rows count d_model"]:
        """Return the last block's output at the last `count` tokens of each tail.

        Of the other tail tokens, the last block computes keys and values only.

        Args:
            hidden: input of the first block at the tail tokens.
        """
        positions = self.positions
        for i, (block, stored) in enumerate(zip(self.blocks, self.stored, strict=True)):
            if i == len(self.blocks) - 1 and count < positions.shape[1]:
                stored = block.fill_in(hidden, stored, positions)
                hidden, positions = hidden[:, -count:], positions[:, -count:]  # (rows, count, …)
            hidden, _ = block.run(hidden, stored, positions)
        return hidden[:, -count:].to(self.positions.device)


def partial_blocks(lm: LanguageModel, ids: Sequence[int]) -> list[PartialBlock]:
    """Prepare every block of the model to be run partially.

    Args:
        ids: token ids of the longest row; one pass over it shows what each block is called with.

    Raises:
        ValueError: a layer has no attention keys and values.
    """
    modules, cache = {i: lm.block(i) for i in range(lm.n_layers)}, DynamicCache()
    calls = observe(lm, padded(lm, [ids]), modules, last=lm.n_layers - 1, cache=cache)
    return [
        PartialBlock(module, _named_arguments(module, calls[i]), _stored_shape(cache, i))
        for i, module in modules.items()
    ]


class _StoredCache:
    """Stands in for the cache that a block's attention reads and writes.

    Holds keys and values of whole rows, of which attention overwrites those at `positions`. With
    `stop`, the block ends as soon as it has done so.
    """

    def __init__(
        self, stored: KeysValues, positions: Int[Tensor, "rows length"], stop: bool = False
    ):
        self.stored, self.positions, self.stop = stored, positions, stop

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> KeysValues:
        """Take in keys and values of the tokens that are run, return those of the whole rows.

        Attention calls this with (rows, heads, length, width) each.
        """
        heads, width = keys.shape[1], keys.shape[3]
        index = self.positions[:, None, :, None].expand(-1, heads, -1, width)
        whole_keys, whole_values = self.stored  # (rows, heads, tokens, width)
        self.stored = whole_keys.scatter(2, index, keys), whole_values.scatter(2, index, values)
        if self.stop:
            raise Stop
        return self.stored


def _restrict(name: str, value: Any, cache: _StoredCache) -> Any:
    """What an argument for one whole row becomes for the tokens that are run in each row."""
    positions = cache.positions  # (rows, length)
    if isinstance(value, Cache):
        return cache
    if name == "attention_mask":
        tokens = cache.stored[0].shape[2]
        visible = _causal(tokens, positions.device) if value is None else value[0, 0]
        return visible.to(positions.device)[positions][:, None]  # (rows, 1, length, tokens)
    if name == "position_ids":
        return value.flatten().to(positions.device)[positions]  # (rows, length)
    if name == "position_embeddings":  # cosines and sines, (1, tokens, width) each
        return tuple(table[0].to(positions.device)[positions] for table in value)
    return value


def _causal(tokens: int, device: torch.device) -> Bool[Tensor, "tokens tokens"]:
    """Which tokens each token sees: itself and those before it."""
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()


def _named_arguments(block: nn.Module, call: Call) -> dict[str, Any]:
    """The arguments of a block's call after the first one, by name."""
    signature = inspect.signature(block.forward)
    bound = signature.bind(*call.args, **call.kwargs).arguments
    named = dict(list(bound.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named


def _stored_shape(cache: DynamicCache, layer: int) -> tuple[int, int, int]:
    """Shape of the attention keys of one row at a layer, (heads, tokens, width)."""
    held = cache.layers[layer] if layer < len(cache.layers) else None
    if not isinstance(held, CacheLayerMixin) or held.keys is None:
        raise ValueError(
            f"layer {layer} has no attention keys and values in the model's cache "
            f"({type(held).__name__}); this architecture cannot be edited"
        )
    _, heads, tokens, width = held.keys.shape
    return heads, tokens, width
