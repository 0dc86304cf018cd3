"""The loss of δ, prepared so that a step computes only what δ can change.

δ is added in the edited layer at the subject's last token. It can change only what the blocks above
that layer compute from this token on. Everything else is computed once, by one pass over the whole
rows in `TargetProblem.prepare`; each step of the optimisation then re-runs the blocks above on the
tails, the tokens from the subject's last one to the last whose prediction enters the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import log_softmax

from ..base.precision import at_least_float32
from .keys import Site
from .model import LanguageModel
from .post_norm import Injection
from .target_loss import Anchors, TargetConfig, TargetRow
from .target_tails import TargetTails, WholePass


class Losses(NamedTuple):
    """The loss of each of n requests and what else decides when its optimisation ends.

    Attributes:
        loss: NLL of the target, mean over contexts and tokens, + KL + decay; what `stop_loss` is
            held against.
        anchors: the anchors' term, 0 without anchors; minimised too, but never a reason to stop.
        most_probable: whether every target token is the most probable one in all contexts.
    """

    loss: Float[Tensor, "n"]
    anchors: Float[Tensor, "n"]
    most_probable: Bool[Tensor, "n"]


@dataclass(frozen=True)
class TargetProblem:
    """The loss of n requests as a function of δ, (n, d_model).

    Attributes:
        lm: the model, whose weights stay as they are.
        config: weights of the terms.
        templates: number of contexts of each request.
        tails: the prompts in their contexts, with targets, and the KL prompts.
        log_p0: log-probabilities after the KL prompts without δ.
        h: what clamp and decay measure δ by: the output of the MLP where δ is added to it or the
            site is "mlp", else that of the block.
        right: see `Targets`.
        injection: how δ enters the bare prompts.
        block_output: the block's output in the bare prompts, where targets are asked for there
            although δ is added before a norm; else None.
        anchors: the points of another term, if any.
    """

    lm: LanguageModel
    config: TargetConfig
    templates: int
    tails: TargetTails
    log_p0: Float[Tensor, "n vocabulary"]
    h: Float[Tensor, "n d_model"]
    right: Bool[Tensor, "n"]
    injection: Injection
    block_output: Float[Tensor, "n d_model"] | None
    anchors: Anchors | None

    @classmethod
    @torch.no_grad()
    def prepare(
        cls,
        lm: LanguageModel,
        requests: Sequence[Sequence[TargetRow]],
        layer: int,
        config: TargetConfig,
        site: Site,
        anchors: Anchors | None,
    ) -> "TargetProblem":
        """Compute everything that δ cannot change.

        Args:
            lm: the model.
            requests: the rows of each request, as `target_rows` returns them.
            layer: the edited layer.
            config: weights of the terms.
            site: where targets are asked for.
            anchors: one row of points for each request, or None.
        """
        whole = WholePass(lm, requests, layer, site)
        return cls(
            lm=lm,
            config=config,
            templates=len(requests[0]) - 1,
            tails=whole.tails,
            log_p0=log_softmax(whole.logits[len(whole.tails.target) :], dim=-1),
            h=at_least_float32(whole.h),
            right=whole.greedily_right(),
            injection=whole.injection,
            block_output=at_least_float32(whole.block_output)
            if whole.injection.norm is not None and site == "block"
            else None,
            anchors=anchors,
        )

    @torch.no_grad()
    def values(
        self, delta: Float[Tensor, "n d_model"]
    ) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "n d_model"]]:
        """Return z and h at the site where targets are asked for."""
        if self.block_output is None:
            return self.h + delta, self.h
        return self.block_output + self.injection.gain(delta), self.block_output

    def select(self, chosen: Bool[Tensor, "n"]) -> "TargetProblem":
        """The problem of some of the requests only; `chosen` is a mask."""
        return replace(
            self,
            tails=self.tails.select(chosen),
            log_p0=self.log_p0[chosen],
            h=self.h[chosen],
            right=self.right[chosen],
            injection=self.injection.select(chosen),
            block_output=None if self.block_output is None else self.block_output[chosen],
            anchors=None if self.anchors is None else self.anchors.select(chosen),
        )

    def losses(self, delta: Float[Tensor, "n d_model"]) -> Losses:
        """Return the losses at δ, differentiable in it."""
        n, tails = len(delta), self.tails
        hidden = tails.run(delta)  # (wanted, d_model): the work that grows with the model
        log_p = log_softmax(self.lm.logits(hidden), dim=-1)  # (wanted, vocabulary)
        of_contexts, of_neutral = log_p[:-n], log_p[-n:]
        of_target = of_contexts.gather(1, tails.target[:, None])[:, 0] / tails.count
        nll = self.h.new_zeros(n).index_add(0, tails.asking, of_target, alpha=-1 / self.templates)
        missed = tails.asking[of_contexts.argmax(1) != tails.target]
        kl = (of_neutral.exp() * (of_neutral - self.log_p0)).sum(-1)  # KL(p_δ ‖ p_0), (n,)
        decay = delta.norm(dim=1) / self.h.norm(dim=1) ** 2
        return Losses(
            nll + self.config.kl * kl + self.config.weight_decay * decay,
            delta.new_zeros(n) if self.anchors is None else self.anchors.loss(hidden[-n:]),
            torch.bincount(missed, minlength=n) == 0,
        )
