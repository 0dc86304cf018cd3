"""Target values z*: what the stream should hold at the subject for the model to say the target.

All requests are optimised together, each exactly as if it were alone: rows do not see each other,
Adam works on each component by itself, and every request has its own clamp and its own end. The
loss is in `target_problem`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..base.precision import at_least_float32
from ..requests.request import EditRequest
from .hooks import observe
from .keys import Contexts, Site
from .model import LanguageModel
from .target_loss import Anchors, TargetConfig, TargetRow, target_rows
from .target_problem import TargetProblem
from .tokens import chunks, padded, tokenise

BATCH_TOKENS, GPU_BATCH_TOKENS = 4_096, 16_384
"""Tokens of rows that run together in `optimise_targets`: about forty requests, or all of a round.

On a CPU products are as fast as they become with a few hundred tail tokens.
"""


@dataclass(frozen=True)
class Targets:
    """Targets of n requests, and how each optimisation went.

    Attributes:
        z: target values.
        h: values before.
        loss: the loss at the last forward pass, without the anchors' term.
        updates: Adam steps taken; 0 with `stopped` "loss" means that the loss was low from the
            start.
        stopped: why each request ended: "loss" (it fell below `stop_loss`), "most probable" (see
            `patience` of `optimise_targets`) or "steps" (all were used).
        clamped: whether ‖δ‖ ended at its limit.
        right: whether greedy decoding of the bare prompt gave every target token before any step.
    """

    z: Float[Tensor, "n d_model"]
    h: Float[Tensor, "n d_model"]
    loss: Float[Tensor, "n"]
    updates: Int[Tensor, "n"]
    stopped: list[str]
    clamped: Bool[Tensor, "n"]
    right: Bool[Tensor, "n"]

    def take(self, rows: Sequence[int]) -> "Targets":
        """The targets of some requests, in the given order."""
        of = [*rows]
        return Targets(
            self.z[of],
            self.h[of],
            self.loss[of],
            self.updates[of],
            [self.stopped[i] for i in of],
            self.clamped[of],
            self.right[of],
        )


def optimise_targets(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layer: int,
    config: TargetConfig,
    *,
    site: Site = "block",
    patience: int = 0,
    anchors: Anchors | None = None,
    protected: Sequence[Sequence[TargetRow]] | None = None,
    batch_tokens: int | None = None,
) -> Targets:
    """Return targets z* = h + δ of the requests at `layer`, under the current weights.

    Args:
        lm: the model.
        requests: what is to be said after each prompt.
        contexts: templates whose losses are averaged; the first is the bare prompt, where h is
            read.
        layer: the layer whose output δ changes.
        config: the loss, and when its minimisation ends.
        site: "block" (MEMIT and later: h is the block's output) or "mlp" (ROME: the MLP's output).
            δ is added to the residual stream either way, which is the same where the MLP's output
            is added to it unchanged; the site decides h, and with it clamp and decay. Where a norm
            stands between (`Architecture.post_norm`), δ is added before it, clamp and decay take
            the MLP's output for h, and z is the value at the site that follows from it.
        patience: a request also ends after this many forward passes, in a row or not, in which
            every target token is the most probable one in all contexts (ENCORE); 0 never ends it.
        anchors: another term of the loss, one row of points for each request; it does not count for
            `stop_loss`.
        protected: further rows of each request, as many for each, in which the same δ is added and
            the row's own target counts as one more context.
        batch_tokens: tokens of rows that run together; bounds memory, changes nothing else. By
            default `BATCH_TOKENS`, or `GPU_BATCH_TOKENS` on a GPU, which small products leave idle.

    Source:
        ROME (2202.05262) eq. 4, MEMIT (2210.07229) eq. 16, with the released stopping and decay;
        `patience` from ENCORE (2502.01636), here for targets of any number of tokens.
    """
    templates = [template for group in contexts for template in group]
    rows = target_rows(lm, requests, templates, config)
    if protected is not None:  # before the KL prompt
        rows = [[*own[:-1], *more, own[-1]] for own, more in zip(rows, protected, strict=True)]
    parts = []
    room = batch_tokens or (GPU_BATCH_TOKENS if lm.device.type == "cuda" else BATCH_TOKENS)
    for part in chunks([sum(len(row.ids) for row in own) for own in rows], room):
        chosen = None if anchors is None else anchors.select(part)
        problem = TargetProblem.prepare(lm, rows[part], layer, config, site, chosen)
        parts.append(_minimise(problem, patience))
    return join_targets(parts)


class _Adam:
    """Adam's running averages for δ of n requests, of which some at a time take a step."""

    def __init__(self, like: Float[Tensor, "n d_model"]):
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)

    def step(
        self, active: Int[Tensor, "active"], gradient: Float[Tensor, "active d_model"], count: int
    ) -> tuple[Tensor, Tensor]:
        """Take in the gradient of the active requests.

        Args:
            active: numbers of the requests.
            gradient: of the loss in their δ.
            count: number of this step, from 1.

        Returns:
            Numerator and denominator of Adam's direction, (active, d_model) each.
        """
        self.mean[active] = 0.9 * self.mean[active] + 0.1 * gradient
        self.square[active] = 0.999 * self.square[active] + 0.001 * gradient**2
        size = (self.square[active] / (1 - 0.999**count)).sqrt() + 1e-8
        return self.mean[active] / (1 - 0.9**count), size


def _minimise(problem: TargetProblem, patience: int) -> Targets:
    """Minimise the loss over δ, (n, d_model), by Adam; requests that have ended leave the batch."""
    whole, config, h = problem, problem.config, problem.h
    n = len(h)
    delta, adam, stopped = torch.zeros_like(h), _Adam(h), ["steps"] * n
    loss, updates = h.new_zeros(n), torch.zeros(n, dtype=torch.long, device=h.device)
    successes = torch.zeros_like(updates)  # passes in which the target was the most probable
    active = torch.arange(n, device=h.device)  # requests that have not ended
    for step in range(1, config.steps + 1):
        trial = delta[active].requires_grad_()
        found = problem.losses(trial)
        (gradient,) = torch.autograd.grad((found.loss + found.anchors).sum(), trial)
        loss[active] = found.loss.detach()
        successes[active] += found.most_probable
        low = found.loss.detach() < config.stop_loss  # False for NaN, which is refused later
        ended = low | ((successes[active] >= patience) & (patience > 0))
        for request, by_loss in zip(active[ended].tolist(), low[ended].tolist(), strict=True):
            stopped[request] = "loss" if by_loss else "most probable"
        active, gradient = active[~ended], gradient[~ended]
        if step == config.steps or not len(active):
            break
        if ended.any():
            problem = problem.select(~ended)
        direction, size = adam.step(active, gradient, step)
        moved = delta[active] - config.lr * direction / size
        limit = config.clamp * h[active].norm(dim=1, keepdim=True)  # (active, 1)
        delta[active] = moved * (limit / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
        updates[active] += 1
    almost = 1 - 1e-4  # for the clamp's own rounding
    clamped = delta.norm(dim=1) >= config.clamp * h.norm(dim=1) * almost
    return Targets(*whole.values(delta), loss, updates, stopped, clamped, whole.right)


def join_targets(parts: Sequence[Targets]) -> Targets:
    """The targets of all parts, one after the other."""
    return Targets(
        z=torch.cat([part.z for part in parts]),
        h=torch.cat([part.h for part in parts]),
        loss=torch.cat([part.loss for part in parts]),
        updates=torch.cat([part.updates for part in parts]),
        stopped=[reason for part in parts for reason in part.stopped],
        clamped=torch.cat([part.clamped for part in parts]),
        right=torch.cat([part.right for part in parts]),
    )


@torch.no_grad()
def mean_states(lm: LanguageModel, texts: Sequence[str]) -> Float[Tensor, "n d_model"]:
    """Return the last block's output, averaged over the tokens of each text."""
    last, ids = lm.n_layers - 1, tokenise(lm, texts).ids
    calls = observe(lm, padded(lm, ids), {last: lm.block(last)}, last=last)
    hidden = calls[last].hidden.to(lm.device)  # (n, tokens, d_model)
    means = [at_least_float32(hidden[i, : len(row)]).mean(dim=0) for i, row in enumerate(ids)]
    return torch.stack(means)
