"""Targets that requests about one subject share (MEMIT-Merge)."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..requests.request import EditRequest
from .keys import Contexts, Site
from .model import LanguageModel
from .target_loss import TargetConfig, target_rows
from .target_problem import TargetProblem
from .targets import Targets, join_targets, optimise_targets


def subject_numbers(requests: Sequence[EditRequest]) -> Int[Tensor, "n"]:
    """For each request the number of its subject, from 0 on in the order of their first mention."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(r.subject, len(numbers)) for r in requests])


def mean_by(columns: Float[Tensor, "d n"], owner: Int[Tensor, "n"]) -> Float[Tensor, "d m"]:
    """The mean of the columns that belong together, for owners numbered from 0."""
    owner = owner.to(columns.device)
    count = torch.bincount(owner)
    total = columns.new_zeros(len(columns), len(count)).index_add(1, owner, columns)
    return total / count


def optimise_joint_targets(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layer: int,
    config: TargetConfig,
    *,
    site: Site = "block",
) -> Targets:
    """Targets z* = h + δ with one δ for all requests of a subject, which minimises their mean loss.

    It ends when that mean falls below `stop_loss`, and its limit is clamp times the mean ‖h‖. A
    subject with one request has the target of `optimise_targets`.

    Source:
        MEMIT-Merge (2502.07322), which has no released code.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        members[request.subject].append(i)
    alone = [i for own in members.values() for i in own if len(own) == 1]
    several = [own for own in members.values() if len(own) > 1]
    templates = [template for group in contexts for template in group]
    parts = []
    if alone:
        own = [requests[i] for i in alone]
        parts.append(optimise_targets(lm, own, contexts, layer, config, site=site))
    for group in several:
        rows = target_rows(lm, [requests[i] for i in group], templates, config)
        problem = TargetProblem.prepare(lm, rows, layer, config, site, None)
        parts.append(_minimise_mean(problem, config))
    order = alone + [i for group in several for i in group]
    back = sorted(range(len(order)), key=order.__getitem__)
    return join_targets(parts).take(back)


def _minimise_mean(problem: TargetProblem, config: TargetConfig) -> Targets:
    """Minimise the mean loss of all requests of a problem over one δ, by Adam."""
    h, n = problem.h, len(problem.h)
    limit = config.clamp * h.norm(dim=1).mean()
    delta = h.new_zeros(1, h.shape[1]).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=config.lr)
    stopped, updates = "steps", 0
    with torch.enable_grad():
        for step in range(1, config.steps + 1):
            loss = problem.losses(delta.expand(n, -1)).loss
            if loss.mean() < config.stop_loss:
                stopped = "loss"
                break
            if step == config.steps:
                break
            (delta.grad,) = torch.autograd.grad(loss.mean(), delta)
            optimizer.step()
            delta.data *= (limit / delta.data.norm()).clamp(max=1.0)
            updates += 1
    found = delta.detach().expand(n, -1)
    almost = 1 - 1e-4  # for the clamp's own rounding
    return Targets(
        *problem.values(found),
        loss.detach(),
        torch.full((n,), updates, device=h.device),
        [stopped] * n,
        found.norm(dim=1) >= limit * almost,
        problem.right,
    )
