"""NAS as its authors describe it now: one norm for the model, from pilot edits made beforehand."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...editing.state import EditPlan, EditState
from ...lm.keys import read_values
from ...lm.model import LanguageModel
from ...lm.targets import Targets, optimise_targets
from ...lm.validation import validate_requests
from ...lm.weights import rewound
from ...requests.published import load_requests
from ...requests.request import EditRequest
from .locate_then_edit import LocateThenEdit, TargetWriter

PILOTS = 200
"""The number of pilot edits whose values are measured, or all that there are."""

DROPPED = 0.05
"""The share of the largest norms that the anchor leaves out, as released."""

TOO_LARGE = 2.0
"""A value beyond this multiple of the anchor is not written, as released."""


@dataclass(frozen=True, kw_only=True)
class PilotAnchored(LocateThenEdit):
    """A method whose values v* are rescaled to an anchor, one number for each model.

    The anchor is the mean ‖v*‖ of pilot edits on the unedited model without the largest 5 %. A
    request whose ‖v*‖ is more than twice the anchor is left as it is, and reported.

    Attributes:
        pilot: file of other requests, as `load_requests` takes it; "" takes those of the first
            round.

    Source:
        NAS (2602.02543), commit 5acab48c of its code.
    """

    pilot: str = ""

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "PilotWriter":
        return PilotWriter(lm, self, plan)


class PilotWriter(TargetWriter):
    """Remembers the anchor."""

    method: PilotAnchored

    def __init__(self, lm: LanguageModel, method: PilotAnchored, plan: EditPlan):
        super().__init__(lm, method, plan)
        self.pilots: list[EditRequest] = []
        if method.pilot:
            self.pilots = load_requests(method.pilot)[:PILOTS]
            validate_requests(lm, self.pilots, plan.contexts)

    def _anchored(
        self, requests: list[EditRequest], targets: Targets, state: EditState
    ) -> tuple[Targets, EditState, dict[int, str]]:
        value, v = self._values(requests, targets)
        anchor = state.memory.get("value_norm")
        if anchor is None:
            anchor = anchor_norm(self._pilot_values(state) if self.pilots else value)
        z, skipped = to_anchor(targets.h, v, value, anchor.item())
        state = state.with_memory(state.memory | {"value_norm": anchor.cpu()})
        limit = TOO_LARGE * anchor.item()
        left: dict[int, str] = {
            i: f"‖v*‖ is {norm:.3g}, beyond {limit:.3g}, twice the anchor"
            for i, (norm, skip) in enumerate(
                zip(value.norm(dim=1).tolist(), skipped.tolist(), strict=True)
            )
            if skip
        }
        return replace(targets, z=z), state, left

    def _values(
        self, requests: list[EditRequest], targets: Targets
    ) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "n d_model"]]:
        """Values v* = v + (z − h) of requests, and the MLP's outputs v, under the weights now."""
        v = read_values(self.lm, requests, self.plan.layers[-1], "mlp").T
        return v + (targets.z - targets.h), v

    def _pilot_values(self, state: EditState) -> Float[Tensor, "n d_model"]:
        """Values of the pilot edits on the unedited model."""
        plan = self.plan
        with rewound(self.lm, state.original):
            found = optimise_targets(
                self.lm,
                self.pilots,
                plan.contexts,
                plan.layers[-1],
                plan.target,
                site=self.method.site,
                patience=self.method.patience,
            )
            return self._values(self.pilots, found)[0]


def anchor_norm(values: Float[Tensor, "n d_model"]) -> Float[Tensor, ""]:
    """The mean of the norms of values without the largest 5 % of them."""
    norms = values.norm(dim=1).sort().values
    return norms[: max(1, round(len(norms) * (1 - DROPPED)))].mean()


def to_anchor(
    h: Float[Tensor, "n d_model"],
    v: Float[Tensor, "n d_model"],
    value: Float[Tensor, "n d_model"],
    anchor: float,
) -> tuple[Float[Tensor, "n d_model"], Tensor]:
    """Targets whose values have the norm of the anchor, and which requests are left as they are.

    Args:
        h: values before, at the site of the targets.
        v: the MLP's part of h.
        value: v*.
        anchor: the norm.

    Returns:
        h − v + anchor · v*/‖v*‖, or h where ‖v*‖ is beyond twice the anchor; and where that is.
    """
    norms = value.norm(dim=1, keepdim=True)  # (n, 1)
    skipped = norms > TOO_LARGE * anchor
    return torch.where(skipped, h, h - v + value * (anchor / norms)), skipped[:, 0]
