"""What targets are optimised for: a loss of δ, prepared so that a step costs no more than what δ can reach.

That is the blocks above the edited layer, from the subject's last token to the last token whose prediction is asked
for. All else runs once, in `Problem.of`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax

from ..base.precision import at_least_float32
from ..requests.request import EditRequest
from .model import LanguageModel
from .partial_forward import LayerSweep, Tails
from .post_norm import Site
from .tokens import fill, lookup_rows


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """How targets are optimised; defaults are the published values for GPT-J.

    Attributes:
        steps: forward passes at most; the last one only measures, so there are steps − 1 updates.
        lr: Adam's step, in residual-stream activations.
        clamp: ‖δ‖ ≤ clamp · ‖h‖.
        kl: weight of KL(p_δ ‖ p_0) at the subject's last token of `kl_prompt`.
        weight_decay: weight of ‖δ‖ / ‖h‖² (the numerator is not squared, as released).
        stop_loss: a request ends when its total loss falls below this.
        kl_prompt: a neutral sentence about the subject.
        separator: between prompt and target; "" is what the released NSE does when it finds its targets beforehand.
    """

    steps: int = 25
    lr: float = 0.5
    clamp: float = 0.75
    kl: float = 0.0625
    weight_decay: float = 0.5
    stop_loss: float = 0.05
    kl_prompt: str = "{} is a"
    separator: str = " "


class Anchors(NamedTuple):
    """Points towards which, or away from which, targets pull the subject's last hidden state (BIRD).

    The loss of a request gains Σ_p weight_p · ‖h_s − point_p‖, h_s the output of the last block at the subject's last
    token of `kl_prompt`.
    """

    points: Float[Tensor, "n p d_model"]
    weights: Float[Tensor, "p"]

    def loss(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n"]:
        return (hidden[:, None] - self.points).norm(dim=2) @ self.weights

    def select(self, chosen) -> "Anchors":
        return self._replace(points=self.points[chosen])


class Row(NamedTuple):
    """A text of a request: its contexts with all but the target's last token, then the KL prompt up to the subject."""

    ids: list[int]
    at: int  # the subject's last token
    target: tuple[
        int, ...
    ]  # target tokens, told by the last places of the row; none in the KL prompt


def target_rows(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    templates: Sequence[str],
    config: TargetConfig,
) -> list[list[Row]]:
    """The rows of each request: contexts, then the KL prompt.

    What the target's last token or the rest of the KL prompt hold is never asked for, so they are left out.
    """
    filled = [row for r in requests for row in (*(fill(t, r) for t in templates), config.kl_prompt)]
    subjects = [r.subject for r in requests for _ in range(len(templates) + 1)]
    suffixes = [
        x for r in requests for x in (*[config.separator + r.target_new] * len(templates), "")
    ]
    tokens, positions = lookup_rows(lm, filled, subjects, suffixes)
    rows = []
    for row, (at, text, subject) in enumerate(zip(positions, filled, subjects, strict=True)):
        ids = tokens.ids[row]
        start = max(tokens.first_after(row, len(text.replace("{}", subject))), at + 1)
        rows.append(
            Row(ids[: at + 1], at, ())
            if row % (len(templates) + 1) == len(templates)
            else Row(ids[:-1], at, tuple(ids[start:]))
        )
    per = len(templates) + 1
    return [rows[i : i + per] for i in range(0, len(rows), per)]


class _Part(NamedTuple):
    """Rows with equally long tails and equally many target tokens, so that nothing is padded."""

    owner: Tensor  # request of each row, (rows,)
    site: Site  # of each row
    stem: Tensor  # edited layer's output from the subject's last token on, (rows, length, d_model)
    tails: Tails
    target: Tensor  # (rows, k); k is 0 for KL prompts

    def select(self, chosen: Tensor) -> "_Part":
        """The rows of chosen requests, which are renumbered; `chosen` is a mask over requests."""
        rows = chosen[self.owner]
        number = chosen.cumsum(0) - 1
        return _Part(
            number[self.owner[rows]],
            self.site[rows],
            self.stem[rows],
            self.tails[rows],
            self.target[rows],
        )

    def run(self, delta: Tensor, count: int) -> Tensor:
        """Output of the last block at the last tokens, (rows, count, d_model), with δ added at the first one."""
        first = self.stem[:, :1] + self.site.gain(delta[self.owner])[:, None].to(self.stem.dtype)
        return self.tails.run(torch.cat([first, self.stem[:, 1:]], dim=1), count)


@dataclass(frozen=True)
class Problem:
    """The loss of n requests as a function of δ.

    Attributes:
        told: contexts with targets; neutral: the KL prompts, one row of one token for each request.
        log_p0: log-probabilities after the KL prompts without δ, (n, vocabulary).
        h: what clamp and decay measure δ by, (n, d_model).
        right: see `Targets`.
        out: output of the block in the bare prompts where targets are asked for there, but δ is added elsewhere.
        site: of the bare prompts.
    """

    lm: LanguageModel
    config: TargetConfig
    templates: int
    told: list[_Part]
    neutral: _Part
    log_p0: Tensor
    h: Tensor
    right: Tensor
    out: Tensor | None
    site: Site
    anchors: Anchors | None

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        lm: LanguageModel,
        requests: list[list[Row]],
        layer: int,
        config: TargetConfig,
        site: str,
        anchors: Anchors | None,
    ) -> "Problem":
        """One pass over the whole rows gives all that δ cannot reach."""
        rows, per, device = [row for own in requests for row in own], len(requests[0]), lm.device
        owner = torch.arange(len(requests), device=device).repeat_interleave(per)
        position = torch.tensor([row.at for row in rows], device=device)
        sweep = LayerSweep(
            lm,
            [row.ids for row in rows],
            [i % per for i in range(len(rows))],
            [row.at for row in rows],
        )
        for _ in range(layer):
            sweep.advance()
        norm = lm.post_norm(layer)
        place = (
            sweep.peek(lm.mlp(layer), lambda call: call.hidden, position)
            if site == "mlp" or norm
            else None
        )
        spot = Site(norm, at_least_float32(place) if norm else None)
        sweep.advance()
        stem = sweep.residual()  # (rows, tokens, d_model)
        out = stem[torch.arange(len(rows), device=device), position]
        place = out if place is None else place
        kept = [sweep.advance() for _ in range(layer + 1, lm.n_layers)]
        final = sweep.residual()

        def part(members: list[int]) -> _Part:
            row = torch.tensor(members, device=device)
            at = torch.tensor([range(rows[i].at, len(rows[i].ids)) for i in members], device=device)
            target = torch.tensor(
                [rows[i].target for i in members], dtype=torch.long, device=device
            )
            tails = Tails(
                sweep.blocks[layer + 1 :],
                [(keys[members], values[members]) for keys, values in kept],
                at,
            )
            return _Part(owner[row], spot[row], stem[row[:, None], at], tails, target)

        groups = defaultdict(list)
        for i, row in enumerate(rows):
            groups[len(row.target), len(row.ids) - row.at].append(i)
        kl_rows = groups.pop((0, 1))
        bare = list(range(0, len(rows), per))  # the bare prompt is each request's first row
        told = torch.cat([final[i, : len(rows[i].ids)][-len(rows[i].target) :] for i in bare])
        best = lm.logits(told).argmax(-1).split([len(rows[i].target) for i in bare])
        return cls(
            lm,
            config,
            per - 1,
            [part(members) for members in groups.values()],
            part(kl_rows),
            log_p0=log_softmax(lm.logits(final[kl_rows, position[kl_rows]]), dim=-1),
            h=at_least_float32(place[bare]),
            right=torch.tensor(
                [tuple(b.tolist()) == rows[i].target for i, b in zip(bare, best, strict=True)],
                device=device,
            ),
            out=at_least_float32(out[bare]) if norm and site == "block" else None,
            site=spot[bare],
            anchors=anchors,
        )

    @torch.no_grad()
    def values(self, delta: Float[Tensor, "n d_model"]) -> tuple[Tensor, Tensor]:
        """z and h at the site where targets are asked for, (n, d_model) each."""
        return (
            (self.h + delta, self.h)
            if self.out is None
            else (self.out + self.site.gain(delta), self.out)
        )

    def select(self, chosen: Tensor) -> "Problem":
        """Some of the requests; `chosen` is a mask."""
        told = [part.select(chosen) for part in self.told if chosen[part.owner].any()]
        return replace(
            self,
            told=told,
            neutral=self.neutral.select(chosen),
            log_p0=self.log_p0[chosen],
            h=self.h[chosen],
            right=self.right[chosen],
            site=self.site[chosen],
            out=self.out if self.out is None else self.out[chosen],
            anchors=self.anchors and self.anchors.select(chosen),
        )

    def loss(
        self, delta: Float[Tensor, "n d_model"]
    ) -> tuple[Float[Tensor, "n"], Tensor | float, Tensor]:
        """NLL of the target (mean over contexts and tokens) + KL + decay; the anchors' term; whether all contexts tell
        the target."""
        nll, missed = delta.new_zeros(len(delta)), delta.new_zeros(len(delta))
        for part in self.told:
            hidden = part.run(delta, part.target.shape[1])  # the places that tell the target
            log_p = log_softmax(self.lm.logits(hidden), dim=-1)
            said = log_p.gather(2, part.target[:, :, None])[:, :, 0].mean(dim=1)
            nll = nll.index_add(0, part.owner, said, alpha=-1 / self.templates)
            missed.index_add_(0, part.owner, (log_p.argmax(2) != part.target).any(dim=1).to(missed))
        neutral = self.neutral.run(delta, 1)[:, 0]  # at the subject's last token, (n, d_model)
        log_p = log_softmax(self.lm.logits(neutral), dim=-1)
        kl = (log_p.exp() * (log_p - self.log_p0)).sum(-1)  # KL(p_δ ‖ p_0), (n,)
        decay = delta.norm(dim=1) / self.h.norm(dim=1) ** 2
        more = self.anchors.loss(neutral) if self.anchors else 0.0
        return nll + self.config.kl * kl + self.config.weight_decay * decay, more, missed == 0
