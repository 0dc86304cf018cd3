"""What single methods do to keys, values and targets before the solve: ROME, NAS, BIRD and more."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...algebra.solver import Solver
from ...editing.contract import UpdateRefused
from ...lm.model import LanguageModel
from ...lm.target_loss import Anchors, TargetConfig, TargetRow, target_rows
from ...lm.targets import mean_states
from ...requests.request import EditRequest


def rome_residual(
    key: Literal["average", "mixed"],
    R: Float[Tensor, "d_model n"],
    K: Float[Tensor, "d_ff n"],
    bare: Float[Tensor, "d_ff n"],
    W: Float[Tensor, "d_model d_ff"],
    solver: Solver,
) -> Float[Tensor, "d_model n"]:
    """The residual that a rank-one step writes at the averaged key, given that of the bare prompt.

    With "average" (r-ROME) it is measured at the averaged key k̄ itself: v* − Wk̄ = R − W(k̄ − k).
    With "mixed" it makes the step equal to that of the released ROME, which divides by k·u,
    u = C⁻¹k̄, where the exact step divides by k̄·u. That is the same as writing R·(k̄·u)/(k·u). The
    factor is large when the bare key and the average disagree in the C⁻¹ inner product.

    Args:
        R: v* − (Wk + b) at the bare prompt; for "mixed" of one request, n = 1.
        K: averaged key k̄.
        bare: key k of the bare prompt.
        W: current matrix.
        solver: the layer's solver.

    Source:
        ROME (2202.05262) eq. 2, and its released code; Gupta et al. (2403.07175) for r-ROME.
    """
    if key == "average":
        return R - W.to(R) @ (K - bare).to(R)
    direction = solver.inverse(K)  # u = C⁻¹k̄
    return R * ((K.double() * direction).sum() / (bare.double() * direction).sum()).to(R)


def anchored_values(
    z: Float[Tensor, "n d_model"],
    h: Float[Tensor, "n d_model"],
    v: Float[Tensor, "n d_model"],
    norm: Tensor | None,
) -> tuple[Float[Tensor, "n d_model"], Tensor]:
    """Targets whose values are rescaled to one norm, and that norm (NAS).

    With v* = v + (z* − h), the target becomes h − v + norm · v*/‖v*‖.

    Args:
        z: targets.
        h: values before.
        v: the MLP's part of h.
        norm: mean of ‖v*‖ on the original model, a scalar. None takes the mean of these values.

    Source:
        NAS (2602.02543), commit 38ac1c8 of its code. Departs from it: there the mean is over the
        lower 95 % of a sample of other facts, and requests with ‖v*‖ of more than twice the mean
        are not written.
    """
    value = v + (z - h)
    norms = value.norm(dim=1, keepdim=True)  # (n, 1)
    norm = norms.mean() if norm is None else norm.to(norms)
    return h - v + value * (norm / norms), norm


def inverse_anchors(
    lm: LanguageModel, requests: list[EditRequest], alpha: float, beta: float
) -> Anchors:
    """BIRD's term of the target loss, as points that attract or repel the subject's state s.

    The term is α(‖s + r − o*‖ + ‖o* + r⁻¹ − s‖) − αβ(‖s + r − o‖ + ‖o + r⁻¹ − s‖). Here s, o and
    o* are the last hidden states of subject, old and new object, and r that of the prompt without
    its subject, each a mean over tokens. Only s moves with the target. r⁻¹ is the mean of subjects
    minus the mean of old objects over the requests of one relation that are edited together.

    Raises:
        UpdateRefused: a request has no target_true.

    Source:
        BIRD (2310.10322). Departs from it: there s is a mean over the subject's tokens, and r⁻¹
        comes from ten seed pairs.
    """
    for request in requests:
        if request.target_true is None:
            raise UpdateRefused(
                f"case_id {request.case_id!r}: target_true is needed to edit both ways"
            )
    texts: dict[str, None] = {}  # each once, in the order of the requests
    for request in requests:
        words = (request.subject, _old(request), request.target_new, _relation(request))
        texts.update(dict.fromkeys(words))
    state = dict(zip(texts, mean_states(lm, list(texts)), strict=True))

    differences = defaultdict(list)
    for request in requests:
        differences[request.relation_id].append(state[request.subject] - state[_old(request)])
    back = {relation: torch.stack(own).mean(dim=0) for relation, own in differences.items()}

    points = []
    for request in requests:
        own = []
        for word in (request.target_new, _old(request)):
            own.append(state[word] - state[_relation(request)])
            own.append(state[word] + back[request.relation_id])
        points.append(torch.stack(own))  # (4, d_model)
    stacked = torch.stack(points)
    return Anchors(stacked, alpha * stacked.new_tensor([1.0, 1.0, -beta, -beta]))


def _old(request: EditRequest) -> str:
    return request.target_true or ""


def _relation(request: EditRequest) -> str:
    """The prompt without its subject."""
    return request.before_subject + request.after_subject


def neighbour_rows(
    lm: LanguageModel, requests: Sequence[EditRequest], count: int, config: TargetConfig
) -> list[list[TargetRow]]:
    """`count` rows of each request: its first neighbours, with the object that they should keep.

    They are the neighbourhood prompts that have the form of the request's prompt, whose subjects
    are therefore known; the object is the request's true one. Where there are fewer, the bare
    prompt with the new object takes the place of each that is not there.

    Source:
        2503.11895, neighbour-assisted editing. Departs from it in what a neighbour is, and in that
        nothing but the object is learned after it. Neighbours are among the prompts by which edits
        are measured.
    """
    bare = [own[0] for own in target_rows(lm, requests, ["{}"], config)]
    others, owner = [], []
    for i, request in enumerate(requests):
        if (old := request.target_true) is not None:
            subjects = same_form_subjects(request)[:count]
            others += [replace(request, subject=one, target_new=old) for one in subjects]
            owner += [i] * len(subjects)
    rows: list[list[TargetRow]] = [[] for _ in requests]
    if others:
        found = target_rows(lm, others, ["{}"], replace(config, target_end=""))
        for i, own in zip(owner, found, strict=True):
            rows[i].append(own[0])
    return [own + [row] * (count - len(own)) for own, row in zip(rows, bare, strict=True)]


def same_form_subjects(request: EditRequest) -> list[str]:
    """Subjects of the neighbourhood prompts that are the request's prompt about another subject."""
    before, _, after = request.prompt.partition("{}")
    return [
        prompt[len(before) : len(prompt) - len(after)]
        for prompt in request.neighborhood_prompts
        if prompt.startswith(before) and prompt.endswith(after)
        if len(prompt) > len(before) + len(after)
    ]
