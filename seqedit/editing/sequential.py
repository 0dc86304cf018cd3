"""The loop: rounds of requests written into one model, with everything it remembers held in the open."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ..algebra.diagnostics import condition_number, drift, spectrum
from ..base.clock import Clock
from ..lm.keys import read_values
from ..lm.model import LanguageModel
from ..lm.targets import Targets
from ..lm.weights import (
    apply_update,
    read_weight,
    restored,
    rewound,
    write_weight,
)
from ..requests.request import EditRequest
from .contract import (
    EditMethod,
    EditPlan,
    EditState,
    LayerObservation,
    Outcome,
    Round,
    UpdateRefused,
    Writer,
    Written,
)


def run_sequential(
    lm: LanguageModel,
    rounds: Iterable[list[EditRequest]],
    method: EditMethod,
    plan: EditPlan,
    state: EditState | None = None,
) -> Iterator[Round]:
    """Edit `lm` round by round, yielding a `Round` after each; the model ends in its edited state.

    A round whose update is not finite or too large is undone, bit for bit, and its requests are refused. A round that
    ends in any other exception, an interruption by the user included, is undone too before the exception goes on.
    Pass the `state` of a finished run, with its weights in the model, to continue it: continuing equals never
    having stopped (`tests/test_sequential.py`).

    Raises:
        ValueError: layers or moments do not fit the model or the method, the method edits one layer and several are
            given, or a round holds no requests.
    """
    plan.check(lm)
    if method.one_at_a_time and len(plan.layers) != 1:
        raise ValueError(f"layers: {method.name} edits one layer, {list(plan.layers)} were given")
    state = state or EditState.start(lm, plan.layers)
    with rewound(lm, state.original):  # prepared on the model as it was
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
    """One round: written, restrained, observed; or undone."""
    if not requests:
        raise ValueError(f"round {state.round} holds no requests; leave it out")
    clock = Clock()
    before = {layer: read_weight(lm, layer) for layer in plan.layers}
    groups = [[request] for request in requests] if method.one_at_a_time else [requests]
    targets, outcomes, after = [], [], state
    try:
        for group in groups:
            written = _write(lm, group, method, plan, after, writer, clock)
            targets.append(written.targets)
            outcomes += written.outcomes
            after = written.state
        with clock.stage("observe"):
            distances = _distances(lm, requests, method, plan, targets)
            layers = tuple(
                _observe(lm, layer, before[layer], state.original[layer], plan.moments[layer])
                for layer in plan.layers
            )
    except BaseException as error:  # no half-written round, whatever happened
        for layer, W in before.items():
            write_weight(lm, layer, W)
        if not isinstance(error, UpdateRefused | torch.linalg.LinAlgError):
            raise
        outcomes = tuple(
            Outcome(r.case_id, "refused", str(error), float("nan"), 0, False) for r in requests
        )
        return Round(
            state.round,
            outcomes,
            (),
            *3 * (float("nan"),),
            clock.seconds(),
            replace(state, round=state.round + 1),
        )
    return Round(
        state.round,
        tuple(outcomes),
        layers,
        *distances,
        clock.seconds(),
        replace(after, round=state.round + 1),
    )


@contextmanager
def handed_over(lm: LanguageModel, method: EditMethod, state: EditState) -> Iterator[None]:
    """Inside, the model is as the method hands it over, its total update restrained and what the method keeps beside
    the weights at work; afterwards as before."""
    with restored(lm, state.original), method.beside(lm, state):
        if method.restrain_total:
            for layer, W0 in state.original.items():
                W0 = W0.to(lm.device)
                kept = method.restrain_total(W0, read_weight(lm, layer) - W0)
                write_weight(lm, layer, W0)
                apply_update(lm, layer, kept)
        yield


def _write(
    lm: LanguageModel,
    requests: list[EditRequest],
    method: EditMethod,
    plan: EditPlan,
    state: EditState,
    writer: Writer,
    clock: Clock,
) -> Written:
    """Write requests together; then put the restrained update of every layer in place of the full one."""
    before = {layer: read_weight(lm, layer) for layer in plan.layers}
    written = writer.write(requests, state, clock)
    if method.restrain_update is None:
        return written
    taken = {}
    with clock.stage("solve"):
        for layer, W in before.items():
            update = read_weight(lm, layer) - W
            kept = method.restrain_update(state.original[layer].to(W), W, update)
            write_weight(lm, layer, W)
            apply_update(lm, layer, kept)
            taken[layer] = update - kept
        return (
            replace(written, state=writer.owe(written.state, taken))
            if method.compensate
            else written
        )


def _distances(
    lm: LanguageModel,
    requests: list[EditRequest],
    method: EditMethod,
    plan: EditPlan,
    targets: list[Targets | None],
) -> tuple[float, float, float]:
    """Mean ‖z* − h‖ over the requests before and after the round, and mean ‖z*‖; NaN for a method without targets."""
    if any(found is None for found in targets):
        return 3 * (float("nan"),)
    z, h = torch.cat([t.z for t in targets]), torch.cat([t.h for t in targets])
    now = read_values(lm, requests, plan.layers[-1], method.site).T
    return tuple(value.norm(dim=1).mean().item() for value in (z - h, z - now, z))


def _observe(lm, layer: int, before: Tensor, original: Tensor, C: Tensor) -> LayerObservation:
    W = read_weight(lm, layer)
    update, total = W - before, W - original.to(W)
    return LayerObservation(
        layer,
        update.norm().item(),
        spectrum(update)[0].item(),
        total.norm().item(),
        spectrum(W)[0].item(),
        condition_number(W),
        condition_number(W, without_mean=lm.removes_mean),
        drift(total, C.to(W.device)),
    )
