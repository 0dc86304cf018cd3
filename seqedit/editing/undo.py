"""Take single edits out of a long run, as if they had never been made."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..lm.model import LanguageModel
from ..lm.weights import read_weight, rewound, write_weight
from .contract import EditMethod, guard
from .state import EditPlan, EditState, residuals_name

TOLERANCE = 1e-2
"""Largest distance between the run's update and what its equations give, relative to the update.

Rounds add up in float32; 1e-3 is usual. Other second moments than the run's give another update.
"""


def undo(
    lm: LanguageModel, method: EditMethod, plan: EditPlan, state: EditState, edits: Sequence[int]
) -> EditState:
    """Take edits out of an edited model; the others keep their keys and residuals.

    With history, W − W₀ of a layer is the least-squares solution for all edits so far. Here it
    becomes that for the edits that are left. This equals never having made the edits as far as keys
    and targets of the others are the same without them: exactly for one layer whose targets are
    given, and approximately in a network, where earlier edits move the keys and targets of later
    ones.

    Args:
        lm: the model, edited by all rounds of the run.
        method: the run's.
        plan: the run's, with `undoable`.
        state: the state after the run's last round.
        edits: numbers of edits, columns of the keys, from 0 on; refused requests have none.

    Returns:
        The state from which the run can be continued.

    Raises:
        ValueError: the method cannot, the run has not remembered what it takes, there is no such
            edit, or the run's update is not what its equations give. The model is then unchanged.
    """
    check_undoable(method)
    if any(residuals_name(layer) not in state.memory for layer in plan.layers):
        raise ValueError("undo: the run has not kept its residuals; make it anew as undoable")
    number = state.keys[plan.layers[0]].shape[1]
    if wrong := [edit for edit in edits if not 0 <= edit < number]:
        raise ValueError(f"undo: there is no edit {wrong[0]}; the run has {number}, from 0 on")
    with rewound(lm, state.original):
        writer = method.writer(lm, plan)
    kept = [edit for edit in range(number) if edit not in {*edits}]
    every, left = (writer.solved_again(state, chosen) for chosen in (range(number), kept))
    for layer, update in every.items():
        total = read_weight(lm, layer) - state.original[layer].to(lm.device)
        error = ((total - update).norm() / total.norm()).item()
        if error > TOLERANCE:
            raise ValueError(
                f"undo: the update of layer {layer} is {error:.2g} away from the solution of its "
                "equations; give the second moments and the settings that the run had"
            )
        guard(left[layer], layer, state.original[layer], plan.max_update_ratio)
    for layer, update in left.items():
        write_weight(lm, layer, state.original[layer].to(update) + update)
    return without_edits(state, kept)


def check_undoable(method: EditMethod) -> None:
    """Check that single edits of a method can be undone.

    Raises:
        ValueError: they cannot; the message says why.
    """
    if reason := method.cannot_undo:
        raise ValueError(
            f"undo: {method.name} cannot take one edit back: {reason}; a method with history can, "
            "such as memit_seq or alphaedit, and any run can be made anew without the request"
        )


def without_edits(state: EditState, kept: Sequence[int]) -> EditState:
    """The state with the keys, Gram matrices and residuals of some edits alone."""
    chosen, memory, grams = torch.tensor([*kept], dtype=torch.long), dict(state.memory), {}
    for layer, K in state.keys.items():
        memory[residuals_name(layer)] = memory[residuals_name(layer)][:, chosen]
        gram = state.grams[layer]
        whole = len(gram) == K.shape[1]  # else it was no longer extended, and is of no use
        grams[layer] = gram[chosen][:, chosen] if whole else gram[:0, :0]
    keys = {layer: K[:, chosen] for layer, K in state.keys.items()}
    return replace(state, keys=keys, grams=grams, memory=memory)
