"""Target values z*: which residual-stream value at the subject's last token makes the model say the new object.

All requests are optimised together, and exactly as if alone: rows do not see each other, Adam is elementwise,
and each request has its own clamp and its own end. What is optimised is in `target_loss`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.precision import at_least_float32
from ..requests.request import EditRequest
from .hooks import observe
from .keys import Contexts
from .model import LanguageModel
from .target_loss import (
    Anchors,
    Problem,
    TargetConfig,
    target_rows,
)
from .tokens import chunks, padded, tokenise


@dataclass(frozen=True)
class Targets:
    """Targets of n requests and how each optimisation went.

    Attributes:
        z: target values, (n, d_model); h: values before, (n, d_model).
        loss: total loss at the last forward pass, (n,).
        updates: Adam steps taken, (n,); 0 with `stopped` "loss" means the loss was low from the start.
        stopped: "loss" (fell below `stop_loss`), "most probable" or "steps" (used them up), for each request.
        clamped: whether ‖δ‖ ended at its limit, (n,).
        right: whether greedy decoding of the bare prompt gave every target token before any step, (n,).
    """

    z: Float[Tensor, "n d_model"]
    h: Float[Tensor, "n d_model"]
    loss: Tensor
    updates: Tensor
    stopped: list[str]
    clamped: Tensor
    right: Tensor


def optimise_targets(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layer: int,
    config: TargetConfig,
    *,
    site: str = "block",
    patience: int = 0,
    anchors: Anchors | None = None,
    batch_tokens: int = 16_384,
) -> Targets:
    """Targets z* = h + δ of the requests at `layer`, under the current weights, which stay as they are.

    Args:
        contexts: templates whose losses are averaged; the first is the bare prompt, where h is read.
        site: "block" (MEMIT and later: h is the block's output) or "mlp" (ROME: the MLP's output).
            δ is added to the residual stream either way, which is the same thing where the MLP's output is added as it
            is; the site decides h, and so clamp and decay. Where a norm stands between (`Architecture.post_norm`), δ is
            added before it, clamp and decay take the MLP's output for h, and z is what follows at the site.
        patience: a request also ends after this many forward passes, in a row or not, in which every target token is
            the most probable one in all contexts (ENCORE); 0 never.
        anchors: another term of the loss, one row of points for each request; early stopping takes no notice of it.
        batch_tokens: padded tokens that run together; bounds memory, changes nothing else.

    Source:
        ROME (2202.05262) eq. 4, MEMIT (2210.07229) eq. 16, with the released stopping and decay; `patience` from
        ENCORE (2502.01636), here for targets of any number of tokens.
    """
    templates = [t for group in contexts for t in group]
    rows = target_rows(lm, requests, templates, config)
    parts = [
        _optimise(
            Problem.of(lm, rows[part], layer, config, site, anchors and anchors.select(part)),
            patience,
        )
        for part in chunks([sum(len(row.ids) for row in own) for own in rows], batch_tokens)
    ]
    return Targets(
        torch.cat([p.z for p in parts]),
        torch.cat([p.h for p in parts]),
        torch.cat([p.loss for p in parts]),
        torch.cat([p.updates for p in parts]),
        [reason for p in parts for reason in p.stopped],
        torch.cat([p.clamped for p in parts]),
        torch.cat([p.right for p in parts]),
    )


def _optimise(problem: Problem, patience: int) -> Targets:
    """Adam on δ (n, d_model); requests that are finished leave the batch."""
    whole, config, h = problem, problem.config, problem.h
    n = len(h)
    delta, first, second = (torch.zeros_like(h) for _ in range(3))  # δ, Adam's two averages
    loss, updates = h.new_zeros(n), torch.zeros(n, dtype=torch.long, device=h.device)
    active = torch.arange(n, device=h.device)  # requests still running
    times_told, stopped = torch.zeros_like(updates), ["steps"] * n
    for step in range(1, config.steps + 1):
        trial = delta[active].requires_grad_()
        value, more, told = problem.loss(trial)  # (active,) each
        (gradient,) = torch.autograd.grad((value + more).sum(), trial)
        loss[active] = value.detach()
        times_told[active] += told
        low = value.detach() < config.stop_loss  # not NaN, which goes on, to be refused
        enough = (times_told[active] >= patience) & (patience > 0)
        for i, by_loss in zip(
            active[low | enough].tolist(), low[low | enough].tolist(), strict=True
        ):
            stopped[i] = "loss" if by_loss else "most probable"
        moving = ~(low | enough)
        active, gradient = active[moving], gradient[moving]
        if step == config.steps or not len(active):
            break
        if not moving.all():
            problem = problem.select(moving)
        first[active] = 0.9 * first[active] + 0.1 * gradient
        second[active] = 0.999 * second[active] + 0.001 * gradient**2
        size = (second[active] / (1 - 0.999**step)).sqrt() + 1e-8
        moved = delta[active] - config.lr * (first[active] / (1 - 0.9**step)) / size
        limit = config.clamp * h[active].norm(dim=1, keepdim=True)
        delta[active] = moved * (limit / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
        updates[active] += 1
    clamped = delta.norm(dim=1) >= config.clamp * h.norm(dim=1) * (
        1 - 1e-4
    )  # the clamp's own rounding
    return Targets(*whole.values(delta), loss, updates, stopped, clamped, whole.right)


@torch.no_grad()
def mean_states(lm: LanguageModel, texts: Sequence[str]) -> Float[Tensor, "n d_model"]:
    """Output of the last block, mean over the tokens of each text alone."""
    last, ids = lm.n_layers - 1, tokenise(lm, texts).ids
    hidden = observe(lm, padded(lm, ids), {last: lm.block(last)}, last=last)[last].hidden.to(
        lm.device
    )
    return torch.stack(
        [at_least_float32(hidden[i, : len(row)]).mean(dim=0) for i, row in enumerate(ids)]
    )
