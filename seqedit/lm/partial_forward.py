"""Running blocks on some tokens of a row, the others being known by their attention keys and values.

A change at some token of a causal model reaches that token and those after it, and texts that begin alike agree up to
where they part. What is the same is computed once.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from .hooks import (
    Call,
    Stop,
    embed,
    observe,
    recording,
)
from .model import LanguageModel
from .tokens import padded

KeysValues = tuple[Tensor, Tensor]
"""Attention keys and values of whole rows, (rows, heads, tokens, width) each."""


@dataclass(frozen=True)
class Block:
    """A block with what it is called with on whole rows, alike for all rows.

    Attributes:
        arguments: by name, after the first.
        shape: of the attention keys of one row, (heads, tokens, width).
    """

    module: nn.Module
    arguments: dict[str, Any]
    shape: tuple[int, int, int]

    def run(
        self,
        hidden: Float[Tensor, "rows length d_model"],
        kept: KeysValues,
        at: Int[Tensor, "rows length"],
    ) -> tuple[Tensor, KeysValues]:
        """Output at the tokens `at` of each row, given their input; and `kept` with their keys and values put in.

        All of it, whatever device it comes from, ends on that of the block.
        """
        hidden, kept, at = self.here(hidden, kept, at)
        cache = _Cache(kept, at)
        out = self.module(
            hidden, **{name: _cut(name, value, cache, at) for name, value in self.arguments.items()}
        )
        return out[0] if isinstance(out, tuple) else out, cache.kept

    def keys_and_values(self, hidden: Tensor, kept: KeysValues, at: Tensor) -> KeysValues:
        """`kept` with the keys and values of these tokens put in; the rest of the block is not run."""
        hidden, kept, at = self.here(hidden, kept, at)
        cache = _Cache(kept, at, stop=True)
        try:
            self.module(
                hidden,
                **{name: _cut(name, value, cache, at) for name, value in self.arguments.items()},
            )
        except Stop:
            pass
        return cache.kept

    @cached_property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def here(
        self, hidden: Tensor, kept: KeysValues, at: Tensor
    ) -> tuple[Tensor, KeysValues, Tensor]:
        """The same on the block's device."""
        where = self.device
        return hidden.to(where), (kept[0].to(where), kept[1].to(where)), at.to(where)


def all_blocks(lm: LanguageModel, ids: Sequence[int]) -> list[Block]:
    """Every block, with its arguments from a pass over one row of `ids`."""
    modules, cache = {i: lm.block(i) for i in range(lm.n_layers)}, DynamicCache()
    calls = observe(lm, padded(lm, [ids]), modules, last=lm.n_layers - 1, cache=cache)
    return [
        Block(module, _arguments(module, calls[i]), tuple(cache.layers[i].keys.shape[1:]))
        for i, module in modules.items()
    ]


@dataclass(frozen=True)
class Tails:
    """Rows of equally long tails, and the blocks that are to be run on them again and again.

    Attributes:
        at: position of each tail token in its row.
    """

    blocks: Sequence[Block]
    kept: Sequence[KeysValues]
    at: Int[Tensor, "rows length"]

    def __getitem__(self, rows: Tensor) -> "Tails":
        kept = [
            (keys[rows.to(keys.device)], values[rows.to(keys.device)]) for keys, values in self.kept
        ]
        return Tails(self.blocks, kept, self.at[rows])

    def run(
        self, hidden: Float[Tensor, "rows length d_model"], count: int
    ) -> Float[Tensor, "rows count d_model"]:
        """Output of the last block at the last `count` tokens of the tails, given the input of the first block.

        The last block tells the other tokens' keys and values only.
        """
        for i, (block, kept) in enumerate(zip(self.blocks, self.kept, strict=True)):
            at = self.at
            if i == len(self.blocks) - 1 and count < at.shape[1]:
                kept = block.keys_and_values(hidden, kept, at)
                hidden, at = hidden[:, -count:], at[:, -count:]
            hidden, _ = block.run(hidden, kept, at)
        return hidden[:, -count:].to(self.at.device)


@dataclass
class _Batch:
    """Rows that run together."""

    rows: Tensor  # their numbers, (r,)
    at: Tensor  # positions of the tokens that are run, (r, length)
    hidden: Tensor  # their residual stream, (r, length, d_model)


class LayerSweep:
    """Rows of tokens on their way up through the blocks.

    Rows of one group share the pass over the beginning that they have in common, and rows with equally many tokens
    left run together: no token is computed twice, and none is padding. A matrix of the next block may be changed
    before the sweep goes on.

    Args:
        rows: token ids.
        groups: number of the group of each row, from 0 on.
        own: position of the first token of each row that is not to be shared, whatever the others hold.

    Attributes:
        layer: the next block.
    """

    @torch.no_grad()
    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Sequence[int]],
        groups: Sequence[int],
        own: Sequence[int],
    ):
        self.lm, self.layer, self.count = lm, 0, len(rows)
        self.blocks = all_blocks(lm, max(rows, key=len))
        hidden = embed(lm, padded(lm, rows)).to(lm.device)  # (rows, tokens, d_model)
        self.group = torch.tensor(groups, device=lm.device)
        members = defaultdict(list)
        for i, group in enumerate(groups):
            members[group].append(i)
        shared = [
            _common([rows[i][: own[i]] for i in members[group]]) for group in range(len(members))
        ]
        first = torch.tensor([members[group][0] for group in range(len(members))], device=lm.device)
        at = torch.arange(max(*shared, 1), device=lm.device).expand(len(first), -1)
        self.shared = _Batch(
            first, at, hidden[first[:, None], at]
        )  # what is beyond a shorter beginning is unused
        alike = defaultdict(list)
        for i, row in enumerate(rows):
            alike[len(row) - shared[groups[i]]].append(i)
        self.batches = []
        for length, some in alike.items():
            starts = torch.tensor([shared[groups[i]] for i in some], device=lm.device)
            at = starts[:, None] + torch.arange(length, device=lm.device)
            some = torch.tensor(some, device=lm.device)
            self.batches.append(_Batch(some, at, hidden[some[:, None], at]))

    @torch.no_grad()
    def advance(self) -> KeysValues:
        """Runs the next block on all rows; returns its keys and values, without meaning where a row has no token."""
        block = self.blocks[self.layer]
        beginnings, self.shared.hidden = self._beginnings()
        heads, tokens, width = block.shape
        keys, values = (x.new_empty(self.count, heads, tokens, width) for x in beginnings)
        for batch, kept in self._kept(beginnings):
            rows = batch.rows.to(keys.device)
            batch.hidden, (keys[rows], values[rows]) = block.run(batch.hidden, kept, batch.at)
        self.layer += 1
        return keys, values

    @torch.no_grad()
    def peek(self, module: nn.Module, pick: Callable[[Call], Tensor], positions: Tensor) -> Tensor:
        """What `pick` takes from the call of a part of the next block, at one own position of every row, (rows, width).

        Nothing is advanced.
        """
        read = None
        for batch, kept in self._kept(self._beginnings()[0]):
            with recording({"module": module}, last="module") as calls:
                self.blocks[self.layer].run(batch.hidden, kept, batch.at)
            found = pick(calls["module"]).to(self.lm.device)  # (r, length, width)
            read = found.new_empty(self.count, found.shape[-1]) if read is None else read
            column = positions[batch.rows] - batch.at[:, 0]
            read[batch.rows] = found[torch.arange(len(column), device=column.device), column]
        return read

    def residual(self) -> Tensor:
        """The residual stream before the next block, (rows, tokens, d_model); without meaning where rows are shared."""
        stream = self.shared.hidden.new_empty(
            self.count, self.blocks[0].shape[1], self.shared.hidden.shape[-1], device=self.lm.device
        )
        for batch in self.batches:
            stream[batch.rows[:, None], batch.at] = batch.hidden.to(self.lm.device)
        return stream

    def branch(self, chosen: Tensor) -> "LayerSweep":
        """A sweep that goes its own way from here with some rows, `chosen` by mask, under their old numbers."""
        other = copy(self)
        other.shared = copy(self.shared)
        other.batches = [
            _Batch(b.rows[keep], b.at[keep], b.hidden[keep.to(b.hidden.device)])
            for b in self.batches
            if (keep := chosen[b.rows]).any()
        ]
        return other

    def _beginnings(self) -> tuple[KeysValues, Tensor]:
        """The next block on what groups share: its keys and values and its output."""
        block, at, hidden = self.blocks[self.layer], self.shared.at, self.shared.hidden
        empty = hidden.new_zeros(len(hidden), *block.shape)
        out, kept = block.run(hidden, (empty, empty), at)
        return kept, out

    def _kept(self, beginnings: KeysValues):
        """Every batch with the keys and values of its rows' beginnings."""
        for batch in self.batches:
            group = self.group[batch.rows].to(beginnings[0].device)
            yield batch, (beginnings[0][group], beginnings[1][group])


class _Cache:
    """In place of a cache: keys and values of whole rows, with those of the tokens `at` put in; may stop there."""

    def __init__(self, kept: KeysValues, at: Tensor, stop: bool = False):
        self.kept, self.stop = kept, stop
        self.at = at[:, None, :, None].expand(-1, kept[0].shape[1], -1, kept[0].shape[3])

    def update(self, keys: Tensor, values: Tensor, *_) -> KeysValues:
        self.kept = self.kept[0].scatter(2, self.at, keys), self.kept[1].scatter(2, self.at, values)
        if self.stop:
            raise Stop
        return self.kept


def _cut(name: str, value: Any, cache: _Cache, at: Tensor) -> Any:
    """What an argument for whole rows is for the tokens `at`."""
    if isinstance(value, Cache):
        return cache
    if name == "attention_mask":
        tokens = cache.kept[0].shape[2]
        seen = (
            torch.ones(tokens, tokens, dtype=torch.bool, device=at.device).tril()
            if value is None
            else value[0, 0]
        )
        return seen.to(at.device)[at][:, None]  # (rows, 1, length, tokens)
    if name == "position_ids":
        return value.flatten().to(at.device)[at]
    if name == "position_embeddings":
        return tuple(
            table[0].to(at.device)[at] for table in value
        )  # cosines and sines, (rows, length, width)
    return value


def _arguments(block: nn.Module, call: Call) -> dict[str, Any]:
    """The arguments of a block's call after the first, by name."""
    signature = inspect.signature(block.forward)
    named = dict(list(signature.bind(*call.args, **call.kwargs).arguments.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens the rows begin with alike."""
    shortest = min(map(len, rows))
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)
