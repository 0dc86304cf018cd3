"""The tails of rows, all that δ can change of them, cut out of one pass over the whole rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..base.precision import at_least_float32
from .keys import Site
from .layer_sweep import LayerSweep
from .model import LanguageModel
from .partial_forward import Inner
from .places import Places
from .post_norm import Injection
from .tails import Tails
from .target_loss import TargetRow


@dataclass(frozen=True)
class TargetTails:
    """The tails of the rows of n requests: all prompts in their contexts, then the KL prompts.

    What is asked for is the output at `wanted` tokens: in contexts where the target's tokens are
    predicted, in the KL prompts at the subject.

    Attributes:
        owner: the request that each row belongs to.
        injection: how δ enters each row.
        stream: the edited layer's output at the tail tokens, without δ.
        tails: the blocks above, to be run on the same tokens.
        target: the tokens that the contexts' wanted tokens predict.
    """

    owner: Int[Tensor, "rows"]
    injection: Injection
    stream: Float[Tensor, "tokens d_model"]
    tails: Tails
    target: Int[Tensor, "places"]

    @property
    def asking(self) -> Int[Tensor, "places"]:
        """The request that each target token belongs to."""
        return self.owner[self._asking_row]

    @property
    def count(self) -> Int[Tensor, "places"]:
        """The number of target tokens in the row of each."""
        return torch.bincount(self._asking_row)[self._asking_row]

    @property
    def _asking_row(self) -> Int[Tensor, "places"]:
        return self.tails.wanted_places.row[: len(self.target)]

    def select(self, chosen: Bool[Tensor, "n"]) -> "TargetTails":
        """The rows of the requests that a mask chooses; these are renumbered from 0."""
        rows = chosen[self.owner]  # mask over rows
        number = chosen.cumsum(0) - 1  # request → its new number
        return TargetTails(
            number[self.owner[rows]],
            self.injection.select(rows),
            self.stream[rows[self.tails.places.row]],
            self.tails.select(rows),
            self.target[chosen[self.asking]],
        )

    def run(self, delta: Float[Tensor, "n d_model"]) -> Float[Tensor, "wanted d_model"]:
        """Return the last block's output at the wanted tokens, given each request's δ."""
        gain = self.injection.gain(delta[self.owner]).to(self.stream.dtype)  # (rows, d_model)
        subjects = self.tails.places.offset  # the tail's first token
        return self.tails.run(self.stream.index_add(0, subjects, gain))


class WholePass:
    """One pass over the whole rows of n requests, without δ, and what is kept of it.

    Attributes:
        tails: see `TargetTails`.
        injection: how δ enters the bare prompts.
        block_output: the edited layer's output at the subject's last token of the bare prompts.
        h: see `TargetProblem`.
        logits: after the last block at the wanted tokens, without δ.
    """

    def __init__(
        self,
        lm: LanguageModel,
        requests: Sequence[Sequence[TargetRow]],
        layer: int,
        site: Site,
    ):
        contexts = len(requests[0]) - 1
        rows = [row for own in requests for row in own[:-1]] + [own[-1] for own in requests]
        template = [*range(contexts)] * len(requests) + [contexts] * len(requests)
        owner = [i for i in range(len(requests)) for _ in range(contexts)] + [*range(len(requests))]
        at_subject, ends = [row.position for row in rows], [len(row.ids) for row in rows]
        position = torch.tensor(at_subject, device=lm.device)
        bare = torch.arange(len(requests), device=lm.device) * contexts

        sweep = LayerSweep(lm, [row.ids for row in rows], template, at_subject).advance_to(layer)
        norm, m = lm.post_norm(layer), None
        if site == "mlp" or norm is not None:
            m = sweep.peek(Inner(lm.mlp(layer), "output"), position)
        injection = Injection(norm, None if norm is None or m is None else at_least_float32(m))
        self.injection = injection.select(bare)
        sweep.advance()
        block_output = sweep.at(position)
        self.block_output = block_output[bare]
        self.h = (block_output if m is None else m)[bare]
        places = Places.of(at_subject, ends, lm.device)
        tail = sweep.places.index(places.row, places.position)
        stream = sweep.hidden.to(lm.device)[tail]
        blocks = sweep.blocks[layer + 1 :]
        stored = [sweep.advance() for _ in blocks]
        target = torch.tensor([token for row in rows for token in row.target], device=lm.device)
        count = torch.tensor([max(len(row.target), 1) for row in rows], device=lm.device)
        wanted = places.column >= (places.length - count)[places.row]
        self.tails = TargetTails(
            torch.tensor(owner, device=lm.device),
            injection,
            stream,
            Tails(blocks, stored, places, wanted),
            target,
        )
        self.logits = lm.logits(sweep.hidden.to(lm.device)[tail][wanted])

    def greedily_right(self) -> Bool[Tensor, "n"]:
        """Whether every target token of each bare prompt is the most probable one."""
        tails, n = self.tails, len(self.h)
        row = tails.tails.wanted_places.row[: len(tails.target)]
        in_bare = row % (row.max() // n + 1) == 0
        wrong = self.logits[: len(tails.target)].argmax(-1) != tails.target
        return torch.bincount(tails.asking[wrong & in_bare], minlength=n) == 0
