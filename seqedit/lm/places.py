"""Where the tokens of several rows stand that run together as one matrix."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Consecutive tokens of each of several rows, one row after the other, whatever their numbers.

    Attributes:
        row: the row of each token, ascending.
        position: where each token stands in its row.
        rows: number of rows.
        memo: what was computed for these places and may be used again, by a name.
    """

    row: Int[Tensor, "tokens"]
    position: Int[Tensor, "tokens"]
    rows: int
    memo: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, start: Sequence[int], end: Sequence[int], device: torch.device) -> "Places":
        """The places from `start` to `end`, which is excluded, of each row."""
        row = [i for i, (a, b) in enumerate(zip(start, end, strict=True)) for _ in range(a, b)]
        position = [p for a, b in zip(start, end, strict=True) for p in range(a, b)]
        both = torch.tensor([row, position], dtype=torch.long).to(device)
        return cls(both[0], both[1], len(start))

    @cached_property
    def length(self) -> Int[Tensor, "rows"]:
        """The number of tokens of each row."""
        return torch.bincount(self.row, minlength=self.rows)

    @cached_property
    def offset(self) -> Int[Tensor, "rows"]:
        """The index of each row's first token."""
        return self.length.cumsum(0) - self.length

    @cached_property
    def column(self) -> Int[Tensor, "tokens"]:
        """The number of each token among those of its row, from 0."""
        return torch.arange(len(self.row), device=self.device) - self.offset[self.row]

    @cached_property
    def longest(self) -> int:
        """The largest number of tokens of a row."""
        return int(self.length.max())

    @cached_property
    def slot(self) -> Int[Tensor, "tokens"]:
        """The index of each token in a rectangle of rows × longest."""
        return self.row * self.longest + self.column

    @property
    def device(self) -> torch.device:
        return self.row.device

    def index(self, row: Int[Tensor, "n"], position: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """The indices of tokens, given their rows and their positions in these."""
        return self.offset[row] + position - self.position[self.offset[row]]

    def select(self, chosen: Bool[Tensor, "rows"]) -> "Places":
        """The places of the rows that a mask chooses, numbered anew."""
        keep, number = chosen[self.row], chosen.cumsum(0) - 1
        return Places(number[self.row[keep]], self.position[keep], int(chosen.sum()))

    def narrow(self, tokens: Shaped[Tensor, "_"]) -> "Places":
        """Some of the tokens, by an ascending index or a mask; every row keeps its number."""
        return Places(self.row[tokens], self.position[tokens], self.rows)

    def once(self, name: Hashable, compute: Callable[[], Any]) -> Any:
        """What `compute` returns, computed for these places the first time only."""
        if name not in self.memo:
            self.memo[name] = compute()
        return self.memo[name]

    def to(self, device: torch.device) -> "Places":
        """The same on another device."""
        if self.device == device:
            return self
        return self.once(
            device, lambda: Places(self.row.to(device), self.position.to(device), self.rows)
        )
