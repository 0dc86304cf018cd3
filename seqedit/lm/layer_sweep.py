"""Carry rows of tokens up through the blocks, one layer at a time, and compute nothing twice.

Editing reads many short texts that begin alike: one context template before each of many subjects.
What the rows of such a group have in common is run once, and each row then continues from there on
its own. The sweep halts between layers, so that keys can be read and a matrix changed before it
goes on.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .hooks import Call, embed, recording
from .model import LanguageModel
from .partial_forward import KeysValues, partial_blocks
from .tokens import padded


@dataclass
class _Batch:
    """Tokens of several rows, equally many of each, that run together."""

    rows: Int[Tensor, "r"]  # which rows
    positions: Int[Tensor, "r length"]  # where the tokens stand in their rows
    hidden: Float[Tensor, "r length d_model"]  # residual stream at them


class LayerSweep:
    """Rows of tokens on their way up through the blocks.

    Rows of a group share one pass over the beginning that they have in common. Their own tokens,
    from there on, run in batches of rows with equally many of them. So no token is computed twice,
    and none is padding.

    Attributes:
        layer: number of the next block.
        blocks: every block of the model, as `PartialBlock`.
    """

    @torch.no_grad()
    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Sequence[int]],
        groups: Sequence[int],
        own_from: Sequence[int],
    ):
        """Embed the rows and halt before the first block.

        Args:
            lm: the model.
            rows: token ids of each row.
            groups: which group each row belongs to; groups are numbered from 0.
            own_from: position in each row from which nothing is shared, even if other rows agree.
        """
        self.lm, self.layer, self.count = lm, 0, len(rows)
        self.blocks = partial_blocks(lm, max(rows, key=len))
        self.group = torch.tensor(groups, device=lm.device)
        hidden = embed(lm, padded(lm, rows)).to(lm.device)  # (rows, tokens, d_model)
        members = _indices_by(groups)
        shared = {
            group: _common_length([rows[i][: own_from[i]] for i in of_group])
            for group, of_group in members.items()
        }  # number of tokens that all rows of a group begin with
        self.shared = self._shared_batch(hidden, members, shared)
        starts = [shared[group] for group in groups]
        self.batches = self._own_batches(hidden, rows, starts)

    def _shared_batch(
        self, hidden: Tensor, members: dict[int, list[int]], shared: dict[int, int]
    ) -> _Batch:
        """One row for each group: its beginning, taken from the group's first row.

        All are as long as the longest; what stands beyond a shorter one's end is computed, but
        never read.
        """
        order = range(len(members))
        first = torch.tensor([members[group][0] for group in order], device=self.lm.device)
        length = max(*shared.values(), 1)
        positions = torch.arange(length, device=self.lm.device).expand(len(first), -1)
        return _Batch(first, positions, hidden[first[:, None], positions])

    def _own_batches(
        self, hidden: Tensor, rows: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> list[_Batch]:
        """The rows' own tokens, from `starts` on, batched by their number."""
        device, batches = self.lm.device, []
        lengths = [len(row) - start for row, start in zip(rows, starts, strict=True)]
        for length, of_length in _indices_by(lengths).items():
            which = torch.tensor(of_length, device=device)  # (r,)
            begin = torch.tensor([starts[i] for i in of_length], device=device)
            positions = begin[:, None] + torch.arange(length, device=device)  # (r, length)
            batches.append(_Batch(which, positions, hidden[which[:, None], positions]))
        return batches

    @torch.no_grad()
    def advance(self) -> KeysValues:
        """Run the next block on all rows.

        Returns:
            The block's attention keys and values for whole rows; arbitrary where a row has no
            token.
        """
        block = self.blocks[self.layer]
        beginnings, self.shared.hidden = self._run_beginnings()
        keys, values = (x.new_empty(self.count, *block.stored_shape) for x in beginnings)
        for batch, stored in self._batches_after(beginnings):
            rows = batch.rows.to(keys.device)
            batch.hidden, (keys[rows], values[rows]) = block.run(
                batch.hidden, stored, batch.positions
            )
        self.layer += 1
        return keys, values

    def advance_to(self, layer: int) -> "LayerSweep":
        """Run blocks until `layer` is the next one, and return the sweep itself.

        Raises:
            ValueError: the sweep is beyond that layer already.
        """
        if self.layer > layer:
            raise ValueError(
                f"layer {layer} was asked for, but the sweep is at {self.layer} already"
            )
        while self.layer < layer:
            self.advance()
        return self

    @torch.no_grad()
    def peek(
        self,
        module: nn.Module,
        pick: Callable[[Call], Tensor],
        positions: Int[Tensor, "rows"],
    ) -> Float[Tensor, "rows width"]:
        """Read one token of every row inside the next block, which is run for this but not passed.

        Args:
            module: a part of the next block.
            pick: takes the input or the output, (r, length, width), from the call of `module`.
            positions: the token to be read in each row, among the row's own ones.
        """
        beginnings, _ = self._run_beginnings()
        found = []
        for batch, stored in self._batches_after(beginnings):
            with recording({"module": module}, last="module") as calls:
                self.blocks[self.layer].run(batch.hidden, stored, batch.positions)
            picked = pick(calls["module"]).to(self.lm.device)  # (r, length, width)
            column = positions[batch.rows] - batch.positions[:, 0]  # (r,)
            found.append(picked[torch.arange(len(column), device=column.device), column])
        read = found[0].new_empty(self.count, found[0].shape[-1])
        for batch, values in zip(self.batches, found, strict=True):
            read[batch.rows] = values
        return read

    def residual(self) -> Float[Tensor, "rows tokens d_model"]:
        """Return the next block's input at the rows' own tokens; the rest is arbitrary."""
        tokens, d_model = self.blocks[0].stored_shape[1], self.shared.hidden.shape[-1]
        stream = self.shared.hidden.new_empty(self.count, tokens, d_model, device=self.lm.device)
        for batch in self.batches:
            stream[batch.rows[:, None], batch.positions] = batch.hidden.to(self.lm.device)
        return stream

    def branch(self, chosen: Bool[Tensor, "rows"]) -> "LayerSweep":
        """Return a sweep that goes on from here with some rows only, leaving this one where it is.

        Args:
            chosen: mask over rows, which keep their numbers.
        """
        other = copy(self)
        other.shared = copy(self.shared)
        other.batches = []
        for batch in self.batches:
            keep = chosen[batch.rows]  # (r,)
            if keep.any():
                hidden = batch.hidden[keep.to(batch.hidden.device)]
                other.batches.append(_Batch(batch.rows[keep], batch.positions[keep], hidden))
        return other

    def _run_beginnings(self) -> tuple[KeysValues, Float[Tensor, "groups length d_model"]]:
        """Run the next block on the shared beginnings; return keys and values, and the output."""
        block, beginnings = self.blocks[self.layer], self.shared
        empty = beginnings.hidden.new_zeros(len(beginnings.rows), *block.stored_shape)
        output, stored = block.run(beginnings.hidden, (empty, empty), beginnings.positions)
        return stored, output

    def _batches_after(self, beginnings: KeysValues) -> Iterator[tuple[_Batch, KeysValues]]:
        """Every batch, with the keys and values of the beginnings of its rows."""
        keys, values = beginnings  # (groups, heads, tokens, width)
        for batch in self.batches:
            group = self.group[batch.rows].to(keys.device)
            yield batch, (keys[group], values[group])


def _indices_by(labels: Sequence[int]) -> dict[int, list[int]]:
    """label → indices at which it stands, in order of first appearance."""
    indices = defaultdict(list)
    for i, label in enumerate(labels):
        indices[label].append(i)
    return dict(indices)


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all rows begin with."""
    shortest = min(len(row) for row in rows)
    for i in range(shortest):
        if len({row[i] for row in rows}) > 1:
            return i
    return shortest
