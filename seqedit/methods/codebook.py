"""GRACE: nothing is written into the weights; a codebook beside one layer answers for inputs near its keys."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..base.clock import Clock
from ..editing.contract import (
    EditMethod,
    EditPlan,
    EditState,
    Outcome,
    UpdateRefused,
    Writer,
    Written,
)
from ..lm.hooks import forward_hooks
from ..lm.keys import BARE, read_keys
from ..lm.model import LanguageModel
from ..lm.targets import optimise_targets
from ..requests.request import EditRequest


@dataclass(frozen=True, kw_only=True)
class Codebook(EditMethod):
    """A layer's output is replaced by a stored value where its input lies within the radius of a stored key.

    The key is the input of the down-projection at the prompt's last token, the value an output found like a target
    there, on the model without its codebook. A new key far from all others opens a ball of the initial radius; near one
    with the same target it widens that ball; near one with another target the distance is split between both.

    Attributes:
        radius: initial radius ε, in units of key space.

    Source:
        GRACE (2211.11031). Here the rule holds at every token, where the released code knows which token ends the
        prompt; targets are the same when their text is; a ball that is widened keeps its value.
    """

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
        if "codebook.keys" not in state.memory:
            yield
            return
        keys, values, radii = (
            state.memory[f"codebook.{name}"].to(lm.device) for name in ("keys", "values", "radii")
        )

        def answer(module, args, kwargs, output):
            distance = torch.cdist(
                args[0].float().flatten(0, -2).to(keys.device), keys.T
            )  # (tokens, stored)
            nearest = distance.min(dim=1)
            fires = (nearest.values <= radii[nearest.indices]).view(*args[0].shape[:-1], 1)
            stored = values.T[nearest.indices].view_as(output).to(output)
            return torch.where(fires.to(output.device), stored, output)

        with forward_hooks(after=[(lm.down_proj(layer), answer)]):
            yield


class CodebookWriter(Writer):
    """Finds values for a round and places their keys one after the other."""

    def __init__(self, lm: LanguageModel, method: Codebook, plan: EditPlan):
        self.lm, self.method, self.plan, (self.layer,) = lm, method, plan, plan.layers

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        whole = [
            replace(r, prompt="{}", subject=r.text) for r in requests
        ]  # the prompt's last token
        with clock.stage("keys"):
            K = read_keys(self.lm, whole, BARE, self.layer)  # (d_ff, n)
        with clock.stage("targets"):
            found = optimise_targets(self.lm, whole, BARE, self.layer, self.plan.target, site="mlp")
        if not found.z.isfinite().all():
            raise UpdateRefused("a value is not finite; lower the target's learning rate")
        memory = state.memory
        with clock.stage("solve"):
            for i, request in enumerate(requests):
                memory = place(
                    memory,
                    K[:, i].cpu(),
                    found.z[i].cpu(),
                    label(request.target_new),
                    self.method.radius,
                )
        return Written(
            [
                Outcome(request.case_id, "edited", "stored in the codebook", loss, updates, False)
                for request, loss, updates in zip(
                    requests, found.loss.tolist(), found.updates.tolist(), strict=True
                )
            ],
            state.recalling(memory),
        )


def place(
    memory: dict[str, Tensor], key: Tensor, value: Tensor, label: int, radius: float
) -> dict[str, Tensor]:
    """The codebook with one more edit.

    Args:
        memory: "codebook.keys" (d_ff, m), "codebook.values" (d_model, m), "codebook.radii" and "codebook.labels" (m,);
            empty at the start.
    """
    keys = memory.get("codebook.keys", key.new_zeros(len(key), 0))
    values = memory.get("codebook.values", value.new_zeros(len(value), 0))
    radii = memory.get("codebook.radii", key.new_zeros(0)).clone()
    labels = memory.get("codebook.labels", torch.zeros(0, dtype=torch.long))
    if len(radii):
        distance, i = (keys - key[:, None]).norm(dim=0).min(dim=0)
        if distance <= radii[i] + radius:
            if labels[i] == label:
                radii[i] = max(radii[i], distance)
                return memory | {"codebook.radii": radii}
            radii[i], radius = distance / 2 - 1e-5, distance.item() / 2
    return memory | {
        "codebook.keys": torch.cat([keys, key[:, None]], dim=1),
        "codebook.values": torch.cat([values, value[:, None]], dim=1),
        "codebook.radii": torch.cat([radii, radii.new_tensor([radius])]),
        "codebook.labels": torch.cat([labels, torch.tensor([label])]),
    }


def label(target: str) -> int:
    """A number for a target's text."""
    return int.from_bytes(hashlib.blake2b(target.encode(), digest_size=7).digest(), "big")
