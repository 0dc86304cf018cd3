"""The last tokens of rows, on which consecutive blocks are run again and again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Float
from torch import Tensor

from .partial_forward import KeysValues, PartialBlock
from .places import Places


@dataclass(frozen=True)
class Tails:
    """The last tokens of some rows, and blocks that are run on them again and again.

    Attributes:
        blocks: consecutive blocks, lowest first.
        stored: keys and values of the whole rows, for each block.
        places: where the tail tokens stand in their rows.
        wanted: mask over the tail tokens: those whose output is asked for.
    """

    blocks: Sequence[PartialBlock]
    stored: Sequence[KeysValues]
    places: Places
    wanted: Bool[Tensor, "tokens"]

    def select(self, chosen: Bool[Tensor, "rows"]) -> "Tails":
        """The rows that a mask chooses."""
        stored = [
            (keys[chosen.to(keys.device)], values[chosen.to(values.device)])
            for keys, values in self.stored
        ]
        wanted = self.wanted[chosen[self.places.row]]
        return Tails(self.blocks, stored, self.places.select(chosen), wanted)

    @cached_property
    def wanted_places(self) -> Places:
        """Where the tokens stand whose output is asked for."""
        return self.places.narrow(self.wanted)

    def run(self, hidden: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "wanted d_model"]:
        """Return the last block's output at the tokens that are wanted.

        Of the other tail tokens, the last block computes keys and values only.

        Args:
            hidden: input of the first block at the tail tokens.
        """
        places = self.places
        for i, (block, stored) in enumerate(zip(self.blocks, self.stored, strict=True)):
            if i == len(self.blocks) - 1:
                stored, places = block.fill_in(hidden, stored, places), self.wanted_places
                hidden = hidden[self.wanted.to(hidden.device)]
            hidden, _ = block.run(hidden, stored, places)
        return (hidden if self.blocks else hidden[self.wanted]).to(places.device)
