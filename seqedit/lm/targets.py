"""Target values z*: which residual-stream value at the subject's last token makes the model say the new object.

All requests are optimised together, and exactly as if alone: rows do not see each other, Adam is elementwise,
and each request has its own clamp and its own end. Blocks up to the edited layer run once; only the blocks
above it run again at each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax

from ..requests import EditRequest
from .hooks import observe
from .keys import Contexts
from .load import LanguageModel
from .tokens import chunks, fill, lookup_rows, padded


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
    """

    steps: int = 25
    lr: float = 0.5
    clamp: float = 0.75
    kl: float = 0.0625
    weight_decay: float = 0.5
    stop_loss: float = 0.05
    kl_prompt: str = "{} is a"


@dataclass(frozen=True)
class Targets:
    """Targets of n requests and how each optimisation went.

    Attributes:
        z: target values, (n, d_model); h: values before, (n, d_model).
        loss: total loss at the last forward pass, (n,).
        updates: Adam steps taken, (n,); 0 means the request was satisfied from the start.
        stopped: "loss" (fell below `stop_loss`) or "steps" (used them up), for each request.
    """

    z: Float[Tensor, "n d_model"]
    h: Float[Tensor, "n d_model"]
    loss: Tensor
    updates: Tensor
    stopped: list[str]


def optimise_targets(lm: LanguageModel, requests: Sequence[EditRequest], contexts: Contexts, layer: int,
                     config: TargetConfig, *, site: str = "block", batch_tokens: int = 16_384) -> Targets:
    """Targets z* = h + δ of the requests at `layer`, under the current weights, which stay as they are.

    Args:
        contexts: templates whose losses are averaged; the first is the bare prompt, where h is read.
        site: "block" (MEMIT and later: h is the block's output) or "mlp" (ROME: the MLP's output).
            δ is added to the residual stream either way, which is the same thing in these architectures;
            the site decides h, and so clamp and decay.
        batch_tokens: padded tokens that run together; bounds memory, changes nothing else.

    Source:
        ROME (2202.05262) eq. 4, MEMIT (2210.07229) eq. 16, with the released stopping and decay.
    """
    templates = [t for group in contexts for t in group]
    longest = [max(len(ids) for ids in _tokens(lm, [r], templates, config)[0].ids) for r in requests]
    parts = [_optimise(lm, requests[part], templates, layer, config, site)
             for part in chunks([n * (len(templates) + 1) for n in longest], batch_tokens)]
    return Targets(torch.cat([p.z for p in parts]), torch.cat([p.h for p in parts]),
                   torch.cat([p.loss for p in parts]), torch.cat([p.updates for p in parts]),
                   [reason for p in parts for reason in p.stopped])


def _optimise(lm, requests, templates, layer, config, site) -> Targets:
    """Adam on δ (n, d_model). The batch is rebuilt once half of its requests are finished."""
    problem = _Problem(lm, requests, templates, layer, config, site)
    n, h = len(requests), problem.h
    delta, first, second = (torch.zeros_like(h) for _ in range(3))        # δ, Adam's two averages
    loss, updates = torch.zeros(n, device=h.device), torch.zeros(n, dtype=torch.long, device=h.device)
    active = torch.arange(n, device=h.device)                             # requests of `problem`, in its order
    running = torch.ones(n, dtype=torch.bool, device=h.device)            # over all requests
    for step in range(1, config.steps + 1):
        trial = delta[active].requires_grad_()
        value = problem.loss(trial)                                       # (active,)
        gradient, = torch.autograd.grad(value.sum(), trial)
        loss[active] = torch.where(running[active], value.detach(), loss[active])
        running[active] &= ~(value.detach() < config.stop_loss)           # NaN goes on, to be refused
        if step == config.steps or not running.any():
            break
        moving = running[active]
        rows, gradient = active[moving], gradient[moving]
        first[rows] = 0.9 * first[rows] + 0.1 * gradient
        second[rows] = 0.999 * second[rows] + 0.001 * gradient**2
        size = (second[rows] / (1 - 0.999**step)).sqrt() + 1e-8
        moved = delta[rows] - config.lr * (first[rows] / (1 - 0.9**step)) / size
        limit = config.clamp * h[rows].norm(dim=1, keepdim=True)
        delta[rows] = moved * (limit / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
        updates[rows] += 1
        if 2 * len(rows) <= len(active):
            active = rows
            problem = _Problem(lm, [requests[i] for i in rows.tolist()], templates, layer, config, site)
    return Targets(h + delta, h, loss, updates, ["steps" if r else "loss" for r in running.tolist()])


def _tokens(lm, requests, templates, config):
    """Rows of each request: its contexts with the target appended, then the KL prompt."""
    filled = [row for r in requests for row in (*(fill(t, r) for t in templates), config.kl_prompt)]
    subjects = [r.subject for r in requests for _ in range(len(templates) + 1)]
    suffixes = [x for r in requests for x in (*[" " + r.target_new] * len(templates), "")]
    tokens, positions = lookup_rows(lm, filled, subjects, suffixes)
    starts = [tokens.first_after(row, len(text.replace("{}", subject)))
              for row, (text, subject) in enumerate(zip(filled, subjects, strict=True))]
    return tokens, positions, starts


class _Problem:
    """The loss of some requests as a function of δ, with everything below the edited layer computed once."""

    def __init__(self, lm: LanguageModel, requests, templates, layer: int, config: TargetConfig, site: str):
        self.lm, self.config, self.count = lm, config, len(requests)
        per = len(templates) + 1                                          # rows of a request
        tokens, positions, starts = _tokens(lm, requests, templates, config)
        device = lm.device
        above = list(range(layer + 1, lm.n_layers))
        modules = {("block", i): lm.block(i) for i in range(layer, lm.n_layers)} | {"mlp": lm.mlp(layer)}
        calls = observe(lm, padded(lm, tokens.ids), modules, last=("block", lm.n_layers - 1))
        self.stem = calls["block", layer].hidden                          # (rows, tokens, d_model)
        self.above = [(lm.block(i), calls["block", i].args[1:], calls["block", i].kwargs) for i in above]
        self.rows = torch.arange(len(tokens.ids), device=device)
        self.at = torch.tensor(positions, device=device)
        self.owner = self.rows // per
        place = self.stem if site == "block" else calls["mlp"].hidden
        bare = self.rows[::per]
        self.h = place[bare, self.at[bare]].float()                       # (n, d_model)
        spans = [(row, p, tokens.ids[row][p], row // per, 1 / ((per - 1) * (len(tokens.ids[row]) - starts[row])))
                 for row in range(len(tokens.ids)) if row % per != per - 1
                 for p in range(starts[row], len(tokens.ids[row]))]       # one entry for each target token
        row, position, token, owner, weight = zip(*spans, strict=True)
        self.row, self.before = torch.tensor(row, device=device), torch.tensor(position, device=device) - 1
        self.token, self.token_owner = torch.tensor(token, device=device), torch.tensor(owner, device=device)
        self.weight = torch.tensor(weight, device=device)
        self.kl_row = self.rows[per - 1::per]
        with torch.no_grad():
            last = calls["block", lm.n_layers - 1].hidden
            self.log_p0 = log_softmax(lm.logits(last[self.kl_row, self.at[self.kl_row]]).float(), dim=-1)

    def loss(self, delta: Float[Tensor, "n d_model"]) -> Float[Tensor, "n"]:
        """NLL of the target (mean over contexts, then tokens) + KL + decay, for each request."""
        hidden = self.stem.index_put((self.rows, self.at), delta[self.owner].to(self.stem.dtype), accumulate=True)
        for block, args, kwargs in self.above:
            out = block(hidden, *args, **kwargs)
            hidden = out[0] if isinstance(out, tuple) else out
        rows = torch.cat([self.row, self.kl_row])
        places = torch.cat([self.before, self.at[self.kl_row]])
        log_p = log_softmax(self.lm.logits(hidden[rows, places]).float(), dim=-1)
        told = log_p[:len(self.row)].gather(1, self.token[:, None])[:, 0] * self.weight
        nll = -told.new_zeros(self.count).index_add(0, self.token_owner, told)
        log_p = log_p[len(self.row):]
        kl = (log_p.exp() * (log_p - self.log_p0)).sum(-1)                # KL(p_δ ‖ p_0), (n,)
        decay = delta.norm(dim=1) / self.h.norm(dim=1) ** 2
        return nll + self.config.kl * kl + self.config.weight_decay * decay
