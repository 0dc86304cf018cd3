"""Run transformer blocks on the last tokens of a row, the others' keys and values being stored.

In a causal model, a change at one token reaches that token and later ones, never earlier ones. All
that a later token reads of an earlier one, within a block, is its attention key and value. A block
can therefore be run on the last tokens of a row alone, if the keys and values of the earlier ones
are stored. The tokens of all rows run as one matrix, (tokens, d_model); attention alone sees rows
(`row_attention`).

Words used here and in `layer_sweep`: a *row* is one text as token ids; its *tail* are the last
tokens of it, the only ones that are run; `Places` say where in its row each token stands.
"""

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from .hooks import Call, Stop, observe, recording
from .model import LanguageModel
from .places import Places
from .row_attention import attention_exchanged, by_row, exchangeable
from .tokens import padded

Stored = Float[Tensor, "rows heads seen width"]
KeysValues = tuple[Stored, Stored]
"""Attention keys and values of one block for whole rows, (rows, heads, seen, width) each."""


@dataclass(frozen=True)
class PartialBlock:
    """A transformer block that can be run on some tokens of each row.

    Attributes:
        module: the block.
        arguments: what the model passes to the block beside the hidden states, by name, as seen in
            a pass over one whole row; the same for all rows.
        stored_shape: shape of the attention keys of one row, (heads, tokens, width).
        attention: name of the model's attention in the registry of `transformers`.
        packs: whether the block's attention can be exchanged, so that the tokens of all rows run as
            one matrix; if not, rows with equally many tokens run together.
    """

    module: nn.Module
    arguments: dict[str, Any]
    stored_shape: tuple[int, int, int]
    attention: str
    packs: bool

    def run(
        self, hidden: Float[Tensor, "tokens d_model"], stored: KeysValues, places: Places
    ) -> tuple[Float[Tensor, "tokens d_model"], KeysValues]:
        """Run the block on some tokens.

        Args:
            hidden: the block's input at these tokens.
            stored: keys and values of whole rows; those of the tokens at `places` may hold
                anything.
            places: where the tokens stand.

        Returns:
            The block's output at these tokens, and `stored` with their keys and values filled in;
            both on the block's device.
        """
        return self._run(hidden, stored, places)

    def fill_in(
        self, hidden: Float[Tensor, "tokens d_model"], stored: KeysValues, places: Places
    ) -> KeysValues:
        """Return `stored` with keys and values of these tokens filled in; the block stops there."""
        return self._run(hidden, stored, places, stop=True)[1]

    def read(
        self,
        hidden: Float[Tensor, "tokens d_model"],
        stored: KeysValues,
        places: Places,
        inner: "Inner",
    ) -> Float[Tensor, "tokens d_read"]:
        """Run the block until a module inside it has been called; return what is read there.

        The arguments before the last are those of `run`.
        """
        return self._run(hidden, stored, places, inner=inner)[0]

    @cached_property
    def device(self) -> torch.device:
        """The device that the block's parameters are on."""
        return next(self.module.parameters()).device

    def _run(
        self,
        hidden: Tensor,
        stored: KeysValues,
        places: Places,
        *,
        stop: bool = False,
        inner: "Inner | None" = None,
    ) -> tuple[Tensor, KeysValues]:
        """Run the block; with `stop`, only until it has keys and values, and return its input."""
        hidden, places = hidden.to(self.device), places.to(self.device)
        keys, values = (x.to(self.device) for x in stored)
        if self.packs:
            whole = _Rectangle(slice(None), slice(None), places, 1)
            return self._run_rectangle(hidden, (keys, values), whole, stop, inner)
        outputs, order = [], []
        for part in _rectangles(places):
            own = keys[part.rows], values[part.rows]
            output, own = self._run_rectangle(hidden[part.tokens], own, part, stop, inner)
            keys = keys.index_copy(0, part.rows, own[0])
            values = values.index_copy(0, part.rows, own[1])
            outputs.append(output)
            order.append(part.tokens)
        return torch.cat(outputs)[torch.cat(order).argsort()], (keys, values)

    def _run_rectangle(
        self,
        hidden: Tensor,
        stored: KeysValues,
        part: "_Rectangle",
        stop: bool,
        inner: "Inner | None",
    ) -> tuple[Tensor, KeysValues]:
        """Run the block on tokens that it sees as a rectangle."""
        cache = _StoredCache(stored, part, stop)
        arguments = {n: _restrict(n, value, cache) for n, value in self.arguments.items()}
        with ExitStack() as around:
            if self.packs:
                exchange = partial(by_row, part.places)
                around.enter_context(attention_exchanged(self.module, self.attention, exchange))
            watched = "block" if inner is None else "inner"
            modules = {"block": self.module} if inner is None else {"inner": inner.module}
            calls = around.enter_context(recording(modules, last=watched))
            self.module(hidden.unflatten(0, (part.height, -1)), **arguments)
        if watched not in calls:  # it stopped before
            return hidden, cache.stored
        call = calls[watched]
        return (call.hidden if inner is None else inner.of(call)).flatten(0, -2), cache.stored


class Inner(NamedTuple):
    """What is read inside a block.

    Attributes:
        module: a part of the block that treats every token by itself.
        side: whether its input is read or its output.
    """

    module: nn.Module
    side: Literal["input", "output"]

    def of(self, call: Call) -> Tensor:
        """What is read of a call of the module."""
        return call.input if self.side == "input" else call.hidden


def partial_blocks(lm: LanguageModel, ids: Sequence[int]) -> list[PartialBlock]:
    """Prepare every block of the model to be run partially.

    Args:
        ids: token ids of the longest row; one pass over it shows what each block is called with.

    Raises:
        ValueError: a layer has no attention keys and values.
    """
    blocks, cache = [lm.block(i) for i in range(lm.n_layers)], DynamicCache()
    attention, last = lm.config._attn_implementation, lm.n_layers - 1
    with exchangeable(lm.model, blocks, attention) as packs:
        calls = observe(lm, padded(lm, [ids]), dict(enumerate(blocks)), last, cache)
    return [
        PartialBlock(
            module,
            _named_arguments(module, calls[i]),
            _stored_shape(cache, i),
            attention,
            packs=i in packs,
        )
        for i, module in enumerate(blocks)
    ]


class _Rectangle(NamedTuple):
    """Tokens that a block sees as a rectangle of `height` rows: whole rows, or all as one."""

    tokens: Any  # index of them
    rows: Any  # index of the rows that they belong to
    places: Places
    height: int


def _rectangles(places: Places) -> list[_Rectangle]:
    """Rows with equally many tokens; those without any are left out."""
    parts = []
    for length in places.length.unique().tolist():
        chosen = places.length == length
        if length:
            tokens, rows = chosen[places.row].nonzero()[:, 0], chosen.nonzero()[:, 0]
            parts.append(_Rectangle(tokens, rows, places.select(chosen), len(rows)))
    return parts


class _StoredCache:
    """Stands in for the cache that a block's attention reads and writes.

    Holds keys and values of whole rows, of which attention overwrites those at `places`. With
    `stop`, the block ends as soon as it has done so.
    """

    def __init__(self, stored: KeysValues, part: _Rectangle, stop: bool):
        self.stored, self.part, self.stop = stored, part, stop

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> KeysValues:
        """Take in keys and values of the tokens that are run, return those of the whole rows.

        Attention calls this with (height, heads, tokens, width) each.
        """
        at = self.part.places.row, self.part.places.position

        def put(whole: Tensor, new: Tensor) -> Tensor:
            by_token = new.transpose(1, 2).flatten(0, 1)  # (tokens, heads, width)
            return whole.transpose(1, 2).index_put(at, by_token).transpose(1, 2)

        self.stored = put(self.stored[0], keys), put(self.stored[1], values)
        if self.stop:
            raise Stop
        return self.stored


def _restrict(name: str, value: Any, cache: _StoredCache) -> Any:
    """What an argument for one whole row becomes for the tokens that are run."""
    if isinstance(value, Cache):
        return cache
    places, height = cache.part.places, cache.part.height
    if name == "attention_mask":
        return places.once(("mask", id(value)), lambda: _mask(value, cache))
    if name == "position_ids":
        return value.flatten().to(places.device)[places.position].view(height, -1)
    if name == "position_embeddings":  # cosines and sines, (1, tokens, width) each
        at = places.position.view(height, -1)
        return places.once(
            (name, id(value)), lambda: tuple(table[0].to(at.device)[at] for table in value)
        )
    return value


def _mask(value: Tensor | None, cache: _StoredCache) -> Tensor:
    """What each token sees of its row, (rows, 1, longest, tokens); one that is not there sees 0."""
    places, tokens = cache.part.places, cache.stored[0].shape[2]
    visible = _causal(tokens, places.device) if value is None else value[0, 0].to(places.device)
    position = places.position.new_zeros(places.rows * places.longest)
    position[places.slot] = places.position
    return visible[position.view(places.rows, -1)][:, None]


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
