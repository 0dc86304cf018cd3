"""GRACE: a codebook beside one layer answers for inputs near its keys; no weight is written."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...base.clock import Clock
from ...editing.contract import EditMethod, UpdateRefused, Writer, Written
from ...editing.state import EditPlan, EditState, Outcome
from ...lm.hooks import AfterHook, forward_hooks
from ...lm.keys import BARE, read_keys
from ...lm.model import LanguageModel
from ...lm.targets import optimise_targets
from ...requests.request import EditRequest

KEYS, VALUES = "beside.codebook.keys", "beside.codebook.values"
RADII, LABELS = "beside.codebook.radii", "beside.codebook.labels"


@dataclass(frozen=True, kw_only=True)
class Codebook(EditMethod):
    """A layer's output is replaced by a stored value where its input is near a stored key.

    The key is the input of the down-projection at the prompt's last token. The value is an output
    found there like a target, on the model without its codebook. A new key far from all others
    opens a ball of the initial radius. Near a key with the same target it widens that ball; near
    one with another target the distance is split between both.

    Attributes:
        radius: initial radius ε, in units of key space.

    Source:
        GRACE (2211.11031). Departs from the released code: the rule holds at every token, where the
        released code knows which token ends the prompt; targets are the same when their text is; a
        ball that is widened keeps its value.
    """

    supports: ClassVar[frozenset[str]] = frozenset()

    radius: float

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "CodebookWriter":
        if len(plan.layers) != 1:
            raise ValueError(
                f"layers: {self.name} has its codebook at one layer, {list(plan.layers)} were given"
            )
        return CodebookWriter(lm, self, plan)

    @contextmanager
    def beside(self, lm: LanguageModel, state: EditState) -> Iterator[None]:
        (layer,) = state.original
        if KEYS not in state.memory:
            yield
            return
        keys, values, radii = (state.memory[name].to(lm.device) for name in (KEYS, VALUES, RADII))
        hook = _answering_hook(keys, values, radii)
        with forward_hooks(after=[(lm.down_proj(layer), hook)]):
            yield


def _answering_hook(
    keys: Float[Tensor, "d_ff m"], values: Float[Tensor, "d_model m"], radii: Float[Tensor, "m"]
) -> AfterHook:
    """A hook that puts stored values in the place of outputs whose inputs lie in a ball."""

    def hook(module, args, kwargs, output: Tensor) -> Tensor:
        inputs = args[0].float().flatten(0, -2).to(keys.device)  # (tokens, d_ff)
        nearest = torch.cdist(inputs, keys.T).min(dim=1)
        fires = (nearest.values <= radii[nearest.indices]).view(*args[0].shape[:-1], 1)
        stored = values.T[nearest.indices].view_as(output).to(output)
        return torch.where(fires.to(output.device), stored, output)

    return hook


class CodebookWriter(Writer):
    """Finds values for the requests of a round, then places their keys one after the other."""

    def __init__(self, lm: LanguageModel, method: Codebook, plan: EditPlan):
        self.lm, self.method, self.plan = lm, method, plan
        (self.layer,) = plan.layers

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        # with the whole prompt as its subject, a request is read at the prompt's last token
        whole = [replace(r, prompt="{}", subject_at=0, subject=r.text) for r in requests]
        with clock.stage("keys"):
            K = read_keys(self.lm, whole, BARE, self.layer)  # (d_ff, n)
        with clock.stage("targets"):
            found = optimise_targets(self.lm, whole, BARE, self.layer, self.plan.target, site="mlp")
        if not found.z.isfinite().all():
            raise UpdateRefused("a value is not finite; lower the target's learning rate")
        memory, outcomes = state.memory, []
        with clock.stage("solve"):
            for i, request in enumerate(requests):
                label = target_label(request.target_new)
                memory = place(memory, K[:, i].cpu(), found.z[i].cpu(), label, self.method.radius)
        for i, request in enumerate(requests):
            loss, updates = found.loss[i].item(), int(found.updates[i])
            outcomes.append(
                Outcome(request.case_id, "edited", "stored in the codebook", loss, updates, False)
            )
        return Written(outcomes, state.with_memory(memory))


def place(
    memory: dict[str, Tensor],
    key: Float[Tensor, "d_ff"],
    value: Float[Tensor, "d_model"],
    label: int,
    radius: float,
) -> dict[str, Tensor]:
    """The codebook with one more edit.

    Args:
        memory: the stored keys (d_ff, m), values (d_model, m), radii (m,) and labels (m,) under
            `KEYS`, `VALUES`, `RADII` and `LABELS`; empty at the start.
        label: see `target_label`.
        radius: of a ball that is opened.
    """
    keys = memory.get(KEYS, key.new_zeros(len(key), 0))
    values = memory.get(VALUES, value.new_zeros(len(value), 0))
    radii = memory.get(RADII, key.new_zeros(0)).clone()
    labels = memory.get(LABELS, torch.zeros(0, dtype=torch.long))
    if len(radii):
        distance, i = (keys - key[:, None]).norm(dim=0).min(dim=0)
        if distance <= radii[i] + radius:  # the balls would touch
            if labels[i] == label:
                radii[i] = max(radii[i], distance)
                return memory | {RADII: radii}
            radii[i], radius = distance / 2 - 1e-5, distance.item() / 2
    return memory | {
        KEYS: torch.cat([keys, key[:, None]], dim=1),
        VALUES: torch.cat([values, value[:, None]], dim=1),
        RADII: torch.cat([radii, radii.new_tensor([radius])]),
        LABELS: torch.cat([labels, torch.tensor([label])]),
    }


def target_label(target: str) -> int:
    """A number that stands for a target's text, from 56 bits of its BLAKE2 digest."""
    return int.from_bytes(hashlib.blake2b(target.encode(), digest_size=7).digest(), "big")
