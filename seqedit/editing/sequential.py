"""The loop: rounds of requests written into one model, with all that it remembers in the open."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ..algebra.diagnostics import condition_number, drift, largest_singular_value, spectrum
from ..base.clock import Clock
from ..lm.model import LanguageModel
from ..lm.targets import Targets
from ..lm.weights import apply_update, read_weight, restored, rewound, write_weight
from ..requests.request import EditRequest
from .contract import EditMethod, UpdateRefused, Writer, Written, guard
from .state import BESIDE, NAN, EditPlan, EditState, LayerObservation, Outcome, Round

NO_DISTANCES = (NAN, NAN, NAN)
NO_EFFECT = "the update changed no weight: it is zero, or too small for the weights' precision"
"""Why a request is refused whose targets were found and whose weights are the same afterwards."""


def run_sequential(
    lm: LanguageModel,
    rounds: Iterable[list[EditRequest]],
    method: EditMethod,
    plan: EditPlan,
    state: EditState | None = None,
) -> Iterator[Round]:
    """Edit `lm` round by round, yielding a `Round` after each. The model ends in its edited state.

    A round whose update is not finite or too large is undone, bit for bit, and its requests are
    refused. A round that ends in any other exception, an interruption by the user included, is
    undone too before the exception goes on.

    Args:
        state: the state of a finished run, whose weights are in the model, to continue from.
            Continuing equals never having stopped (`tests/test_sequential.py`).

    Raises:
        ValueError: layers or moments do not fit the model or the method, the method edits one
            layer and several are given, or a round holds no requests.
    """
    plan.check(lm)
    if method.one_at_a_time and len(plan.layers) != 1:
        raise ValueError(f"layers: {method.name} edits one layer, {list(plan.layers)} were given")
    state = state or EditState.start(lm, plan.layers)
    with rewound(lm, state.original):  # a writer is prepared on the unedited model
        writer = method.writer(lm, plan)
    for requests in rounds:
        done = edit_round(lm, requests, method, plan, state, writer)
        state = done.state
        yield done


def edit_round(
    lm: LanguageModel,
    requests: list[EditRequest],
    method: EditMethod,
    plan: EditPlan,
    state: EditState,
    writer: Writer,
) -> Round:
    """Write, restrain and observe one round; or undo it and refuse its requests.

    Raises:
        ValueError: there are no requests.
    """
    if not requests:
        raise ValueError(f"round {state.round} holds no requests; leave it out")
    clock = Clock()
    before = {layer: read_weight(lm, layer) for layer in plan.layers}
    try:
        outcomes, targets, after = write_all(lm, requests, method, plan, state, writer, clock)
        with clock.stage("observe"):
            distances = _distances(requests, writer, targets)
            layers = tuple(_observe(lm, plan, state, layer, before[layer]) for layer in plan.layers)
    except BaseException as error:  # whatever happened, no half-written round stays
        for layer, W in before.items():
            write_weight(lm, layer, W)
        if not isinstance(error, UpdateRefused | torch.linalg.LinAlgError):
            raise
        outcomes = [Outcome.refused(request.case_id, str(error)) for request in requests]
        layers, distances, after = (), NO_DISTANCES, state
    state_after = replace(after, round=state.round + 1)
    return Round(state.round, tuple(outcomes), layers, *distances, clock.seconds(), state_after)


@contextmanager
def handed_over(lm: LanguageModel, method: EditMethod, state: EditState) -> Iterator[None]:
    """Inside, the model is what the method hands over; afterwards it is as before.

    The total update is restrained (PRUNE), and what the method keeps beside the weights is at work.
    """
    with restored(lm, state.original), method.beside(lm, state):
        if method.restrain_total:
            restrain_sums(lm, state.original, method.restrain_total)
        yield


def restrain_sums(
    lm: LanguageModel, original: Mapping[int, Tensor], restrain: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Leave in the model what a restraint keeps of the sum of all updates of each layer.

    Args:
        lm: the edited model; it is changed.
        original: layer → W₀.
        restrain: as `EditMethod.restrain_total`.

    Raises:
        ValueError: a sum becomes far larger instead.
    """
    for layer, before in original.items():
        W0 = before.to(lm.device)
        total = read_weight(lm, layer) - W0
        kept = restrain(W0, total)
        _guard_total(kept, total, layer, W0)
        write_weight(lm, layer, W0)
        apply_update(lm, layer, kept)


def _guard_total(kept: Tensor, total: Tensor, layer: int, W0: Tensor) -> None:
    """Check that a restraint on the total update has not made it far larger instead.

    Raises:
        ValueError: it is now more than ten times the original matrix, and was not before.
    """
    limit = max(EditPlan.max_update_ratio, (total.norm() / W0.norm()).item())
    try:
        guard(kept, layer, W0, limit)
    except UpdateRefused as error:
        raise ValueError(
            f"the restraint on the total update: {error}; change its settings"
        ) from error


def write_all(
    lm: LanguageModel,
    requests: list[EditRequest],
    method: EditMethod,
    plan: EditPlan,
    state: EditState,
    writer: Writer,
    clock: Clock,
) -> tuple[list[Outcome], list[Targets | None], EditState]:
    """Write requests as `method` does, together or one at a time, each update restrained.

    Returns:
        The outcomes, the targets of each group that was written together, and the state after.

    Raises:
        UpdateRefused: an update is not finite or too large. The caller puts the matrices back.
    """
    groups = [[request] for request in requests] if method.one_at_a_time else [requests]
    outcomes: list[Outcome] = []
    targets: list[Targets | None] = []
    for group in groups:
        written = _write(lm, group, method, plan, state, writer, clock)
        outcomes += written.outcomes
        targets.append(written.targets)
        state = written.state
    return outcomes, targets, state


def _write(
    lm: LanguageModel,
    requests: list[EditRequest],
    method: EditMethod,
    plan: EditPlan,
    state: EditState,
    writer: Writer,
    clock: Clock,
) -> Written:
    """Write requests together and restrain the updates; an edit without any effect is none."""
    before = {layer: read_weight(lm, layer) for layer in plan.layers}
    written = writer.write(requests, state, clock)
    if method.restrain_update is not None:
        written = _restrain(lm, method, plan, state, writer, clock, before, written)
    for name, tensor in written.state.memory.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UpdateRefused(f"{name}, which {method.name} remembers, is not finite")
    return written if _has_effect(lm, before, state, written) else _without_effect(written, state)


def _has_effect(
    lm: LanguageModel, before: dict[int, Tensor], state: EditState, written: Written
) -> bool:
    """Whether a matrix was changed, or what acts beside the weights."""
    if any(not torch.equal(read_weight(lm, layer), W) for layer, W in before.items()):
        return True
    known, now = state.memory, written.state.memory
    return any(
        name.startswith(BESIDE) and not (name in known and torch.equal(now[name], known[name]))
        for name in now
    )


def _without_effect(written: Written, state: EditState) -> Written:
    """What was written without changing anything: refused, and nothing is remembered of it."""
    outcomes = [
        replace(outcome, status="refused", reason=NO_EFFECT)
        if outcome.status == "edited"
        else outcome
        for outcome in written.outcomes
    ]
    return replace(written, outcomes=outcomes, state=state)


def _restrain(
    lm: LanguageModel,
    method: EditMethod,
    plan: EditPlan,
    state: EditState,
    writer: Writer,
    clock: Clock,
    before: dict[int, Tensor],
    written: Written,
) -> Written:
    """Replace every layer's update by its restrained form."""
    assert method.restrain_update is not None
    removed = {}
    with clock.stage("solve"):
        for layer, W in before.items():
            update = read_weight(lm, layer) - W
            kept = method.restrain_update(state.original[layer].to(W), W, update)
            guard(kept, layer, state.original[layer], plan.max_update_ratio)
            write_weight(lm, layer, W)
            apply_update(lm, layer, kept)
            removed[layer] = update - kept
        return replace(written, state=writer.after_restraint(written.state, removed))


def _distances(
    requests: list[EditRequest], writer: Writer, targets: list[Targets | None]
) -> tuple[float, float, float]:
    """Means of ‖z* − h‖ before and after the round, and of ‖z*‖."""
    found = [t for t in targets if t is not None]
    now = writer.current_values(requests) if found else None
    if now is None:
        return NO_DISTANCES
    z, h = torch.cat([t.z for t in found]), torch.cat([t.h for t in found])  # (n, d_model)
    return _mean_norm(z - h), _mean_norm(z - now), _mean_norm(z)


def _mean_norm(rows: Tensor) -> float:
    return rows.norm(dim=1).mean().item()


def _observe(
    lm: LanguageModel, plan: EditPlan, state: EditState, layer: int, before: Tensor
) -> LayerObservation:
    W, C = read_weight(lm, layer), plan.moments[layer].to(lm.device)
    update, total, values = W - before, W - state.original[layer].to(W), spectrum(W)
    kappa = (values[0] / values[-1]).item() if values[-1] > 0 else float("inf")
    return LayerObservation(
        layer,
        update_norm=update.norm().item(),
        update_sigma_max=largest_singular_value(update),
        weight_norm=W.norm().item(),
        total_norm=total.norm().item(),
        sigma_max=values[0].item(),
        condition_number=kappa,
        condition_number_read=condition_number(W, True) if lm.removes_mean else kappa,
        drift=drift(total, C),
    )
