"""Carry rows of tokens up through the blocks, one layer at a time, and compute nothing twice.

Editing reads many short texts that begin alike: one context template before each of many subjects.
What the rows of such a group have in common is run once, and each row then continues from there on
its own. The sweep halts between layers, so that keys can be read and a matrix changed before it
goes on.
"""

from collections import defaultdict
from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .hooks import embed
from .model import LanguageModel
from .partial_forward import Inner, KeysValues, partial_blocks
from .places import Places
from .tokens import padded


class LayerSweep:
    """Rows of tokens on their way up through the blocks.

    Rows of a group share one pass over the beginning that they have in common. Their own tokens,
    from there on, run together as one matrix. So no token is computed twice, and none is padding.

    Attributes:
        layer: number of the next block.
        blocks: every block of the model, as `PartialBlock`.
        places: where the rows' own tokens stand.
        hidden: the next block's input at them, (tokens, d_model).
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
        self.lm, self.layer = lm, 0
        self.blocks = partial_blocks(lm, max(rows, key=len))
        self.group = torch.tensor(groups, device=lm.device)
        members: dict[int, list[int]] = defaultdict(list)
        for i, group in enumerate(groups):
            members[group].append(i)
        shared = [
            _common_length([rows[i][: own_from[i]] for i in members[group]])
            for group in range(len(members))
        ]  # number of tokens that all rows of a group begin with
        hidden = embed(lm, padded(lm, rows)).to(lm.device)  # (rows, tokens, d_model)
        starts, ends = [shared[group] for group in groups], [len(row) for row in rows]
        self.places = Places.of(starts, ends, lm.device)
        self.hidden = hidden[self.places.row, self.places.position]
        # of each group its beginning, from its first row; one token where nothing is shared
        first = torch.tensor([members[group][0] for group in range(len(members))]).to(lm.device)
        beginning = [max(length, 1) for length in shared]
        self.shared = Places.of([0] * len(beginning), beginning, lm.device)
        self.shared_hidden = hidden[first[self.shared.row], self.shared.position]

    @torch.no_grad()
    def advance(self) -> KeysValues:
        """Run the next block on all rows.

        Returns:
            The block's attention keys and values for whole rows; arbitrary where a row has no
            token.
        """
        self.shared_hidden, beginnings = self._run_beginnings()
        self.hidden, stored = self.blocks[self.layer].run(self.hidden, beginnings, self.places)
        self.layer += 1
        return stored

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
    def peek(self, inner: Inner, positions: Int[Tensor, "rows"]) -> Float[Tensor, "rows width"]:
        """Read one token of every row inside the next block, which is run for this but not passed.

        Args:
            inner: what is read.
            positions: the token to be read in each row, among the row's own ones.
        """
        _, beginnings = self._run_beginnings()
        read = self.blocks[self.layer].read(self.hidden, beginnings, self.places, inner)
        return read.to(self.lm.device)[self._index(positions)]

    def at(self, positions: Int[Tensor, "rows"]) -> Float[Tensor, "rows d_model"]:
        """Return the next block's input at one of the own tokens of every row."""
        return self.hidden.to(self.lm.device)[self._index(positions)]

    def branch(self, chosen: Bool[Tensor, "rows"]) -> "LayerSweep":
        """Return a sweep that goes on from here with some rows only, leaving this one where it is.

        Args:
            chosen: mask over rows; those that are chosen are numbered anew.
        """
        other = copy(self)
        other.group, other.places = self.group[chosen], self.places.select(chosen)
        other.hidden = self.hidden[chosen[self.places.row].to(self.hidden.device)]
        return other

    def _index(self, positions: Int[Tensor, "rows"]) -> Int[Tensor, "rows"]:
        """The index of one of the own tokens of every row."""
        return self.places.index(torch.arange(len(positions), device=positions.device), positions)

    def _run_beginnings(self) -> tuple[Float[Tensor, "shared d_model"], KeysValues]:
        """Run the next block on the shared beginnings.

        Returns:
            Its output at them, and keys and values of whole rows that hold those of the beginnings.
        """
        block = self.blocks[self.layer]
        empty = self.shared_hidden.new_zeros(self.shared.rows, *block.stored_shape)
        output, (keys, values) = block.run(self.shared_hidden, (empty, empty), self.shared)
        group = self.group.to(keys.device)
        return output, (keys[group], values[group])


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all rows begin with."""
    shortest = min(len(row) for row in rows)
    for i in range(shortest):
        if len({row[i] for row in rows}) > 1:
            return i
    return shortest
