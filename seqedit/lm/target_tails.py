"""The tails of rows, all that δ can change of them, cut out of one pass over the whole rows."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from ..base.precision import at_least_float32
from .keys import Site
from .layer_sweep import LayerSweep
from .model import LanguageModel
from .partial_forward import Tails
from .post_norm import Injection
from .target_loss import TargetRow


class TailGroup(NamedTuple):
    """Rows with equally long tails and equally many target tokens, so that nothing is padded.

    Attributes:
        owner: the request that each row belongs to.
        injection: how δ enters each row.
        stream: the edited layer's output at the tail tokens, without δ.
        tails: the blocks above, to be run on the same tokens.
        target: target tokens of each row, k of them; k is 0 for KL prompts.
    """

    owner: Int[Tensor, "rows"]
    injection: Injection
    stream: Float[Tensor, "rows length d_model"]
    tails: Tails
    target: Int[Tensor, "rows k"]

    def select(self, chosen: Bool[Tensor, "n"]) -> "TailGroup":
        """The rows of the requests that a mask chooses; these are renumbered from 0."""
        rows = chosen[self.owner]  # mask over rows
        number = chosen.cumsum(0) - 1  # request → its new number
        return TailGroup(
            number[self.owner[rows]],
            self.injection.select(rows),
            self.stream[rows],
            self.tails.select(rows),
            self.target[rows],
        )

    def run(
        self, delta: Float[Tensor, "n d_model"], count: int
    ) -> Float[Tensor, "rows count d_model"]:
        """Return the last block's output at the last `count` tokens, given each request's δ."""
        gain = self.injection.gain(delta[self.owner])[:, None]  # (rows, 1, d_model)
        subject = self.stream[:, :1] + gain.to(self.stream.dtype)  # the tail's first token
        return self.tails.run(torch.cat([subject, self.stream[:, 1:]], dim=1), count)


class WholePass:
    """One pass over the whole rows of some requests, without δ, and what is kept of it.

    Attributes:
        rows: the rows of all requests, one after the other.
        position: of the subject's last token in each row, (rows,).
        blocks: the blocks above the edited layer; `stored` their keys and values.
        injection: how δ enters each row.
        stream: the edited layer's output, (rows, tokens, d_model); final: that of the last block.
        block_output: the edited layer's output at the subject's last token, (rows, d_model).
        h: see `TargetProblem`, here for each row.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: list[TargetRow],
        per_request: int,
        layer: int,
        site: Site,
    ):
        self.lm, self.rows, self.per_request = lm, rows, per_request
        at_subject = [row.position for row in rows]
        self.position = torch.tensor(at_subject, device=lm.device)
        ids, template = [row.ids for row in rows], [i % per_request for i in range(len(rows))]
        sweep = LayerSweep(lm, ids, template, at_subject).advance_to(layer)
        norm, m = lm.post_norm(layer), None
        if site == "mlp" or norm is not None:
            m = sweep.peek(lm.mlp(layer), lambda call: call.hidden, self.position)
        self.injection = Injection(norm, None if norm is None or m is None else at_least_float32(m))
        sweep.advance()
        self.stream = sweep.residual()
        self.block_output = self.stream[torch.arange(len(rows), device=lm.device), self.position]
        self.h = self.block_output if m is None else m
        self.blocks = sweep.blocks[layer + 1 :]
        self.stored = [sweep.advance() for _ in self.blocks]
        self.final = sweep.residual()

    def tail_group(self, members: Sequence[int]) -> TailGroup:
        """The tails of some rows, all of one length and with equally many target tokens."""
        device, chosen = self.lm.device, list(members)
        index = torch.tensor(chosen, device=device)  # (r,)
        tails = [range(self.rows[i].position, len(self.rows[i].ids)) for i in chosen]
        positions = torch.tensor(tails, device=device)  # (r, length)
        target = [self.rows[i].target for i in chosen]
        stored = [(keys[chosen], values[chosen]) for keys, values in self.stored]
        return TailGroup(
            index // self.per_request,
            self.injection.select(index),
            self.stream[index[:, None], positions],
            Tails(self.blocks, stored, positions),
            torch.tensor(target, dtype=torch.long, device=device),  # (r, k)
        )

    def log_p_at_subject(self, members: Sequence[int]) -> Float[Tensor, "r vocabulary"]:
        """Log-probabilities of the token after the subject in some rows."""
        index = torch.tensor(members, device=self.lm.device)
        hidden = self.final[index, self.position[index]]  # (r, d_model)
        return log_softmax(self.lm.logits(hidden), dim=-1)

    def greedily_right(self, members: Sequence[int]) -> Bool[Tensor, "r"]:
        """Whether every target token of some rows is the most probable one."""
        predicting, counts = [], []
        for i in members:
            row = self.rows[i]
            predicting.append(self.final[i, len(row.ids) - len(row.target) : len(row.ids)])
            counts.append(len(row.target))
        best = self.lm.logits(torch.cat(predicting)).argmax(-1).split(counts)  # (k,) for each row
        right = [
            tuple(tokens.tolist()) == self.rows[i].target
            for i, tokens in zip(members, best, strict=True)
        ]
        return torch.tensor(right, device=self.lm.device)


def rows_alike(rows: Sequence[TargetRow], without: Sequence[int]) -> list[list[int]]:
    """Rows except those of `without`, by number of target tokens and length of the tail."""
    alike = defaultdict(list)
    for i, row in enumerate(rows):
        if i not in without:
            alike[len(row.target), len(row.ids) - row.position].append(i)
    return list(alike.values())
