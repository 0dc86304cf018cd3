"""Lay out token sequences as trees, so that a beginning which several of them share runs once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass
class PackedRow:
    """One row of tokens that holds sequences as branches of a tree.

    A token belongs to every sequence that begins with it and with all tokens before it.

    Attributes:
        ids: the tokens, (length,).
        positions: where each stands in its sequences, (length,).
        paths: index of a sequence → indices in `ids` of its tokens, in order.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def grow(self, index: int, sequence: Sequence[int], trunk: list[int]) -> list[int]:
        """Add a sequence whose first tokens are there already.

        Args:
            index: of the sequence.
            sequence: its tokens.
            trunk: indices in `ids` of those that are there.

        Returns:
            The path of the sequence.
        """
        path = [*trunk, *range(len(self), len(self) + len(sequence) - len(trunk))]
        self.ids += sequence[len(trunk) :]
        self.positions += range(len(trunk), len(sequence))
        self.paths[index] = path
        return path


def pack(sequences: Sequence[Sequence[int]], room: int) -> list[PackedRow]:
    """Pack sequences into as few tokens as their common beginnings allow.

    In lexicographic order a sequence shares the longest beginning with the one before it. A
    beginning that sequences of two rows have is in both.

    Args:
        sequences: token ids of each.
        room: number of tokens of a row; a longer sequence has a row of its own.
    """
    rows = [PackedRow()]
    last: Sequence[int] = ()
    path: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        sequence = sequences[index]
        trunk = path[: _common(last, sequence)]
        if len(rows[-1]) and len(rows[-1]) + len(sequence) - len(trunk) > room:
            rows.append(PackedRow())
            trunk = []
        path, last = rows[-1].grow(index, sequence, trunk), sequence
    return rows if len(rows[0]) else []


def apart(sequences: Sequence[Sequence[int]]) -> list[PackedRow]:
    """Give each sequence a row of its own, in the order given."""
    rows = []
    for index, sequence in enumerate(sequences):
        row = PackedRow()
        row.grow(index, sequence, [])
        rows.append(row)
    return rows


def visible(rows: Sequence[PackedRow]) -> Bool[Tensor, "rows longest longest"]:
    """Which tokens each token sees: itself and those before it in its sequences.

    Padding on the right of a shorter row sees itself.
    """
    longest = max(map(len, rows))
    seen = torch.zeros(len(rows), longest, longest, dtype=torch.bool)
    seen.diagonal(dim1=1, dim2=2).fill_(True)
    for row, own in zip(rows, seen.numpy(), strict=True):  # numpy indexes small parts faster
        for path in row.paths.values():
            own[np.ix_(path, path)] = np.tri(len(path), dtype=bool)
    return seen


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    for place, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return place
    return min(len(a), len(b))
