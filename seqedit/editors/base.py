"""What all kinds of methods have in common: a name, restraints, and a writer for a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from ..clock import Clock
from ..lm.load import LanguageModel
from ..lm.targets import Targets
from ..requests import EditRequest
from ..rounds import EditPlan, EditState, Outcome


class UpdateRefused(Exception):
    """An update that must not reach the model; the message says why."""


@dataclass(frozen=True)
class Written:
    """What became of requests that were written together.

    Attributes:
        targets: those that were found, for a method that has targets.
        state: what is remembered now.
    """

    outcomes: list[Outcome]
    state: EditState
    targets: Targets | None = None


class Writer(ABC):
    """Writes requests into one model by one method; prepared once for a run."""

    @abstractmethod
    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        """Change the model's matrices so that it answers the requests.

        Raises:
            UpdateRefused: the update is not finite or too large; the caller puts the matrices back.
        """


@dataclass(frozen=True, kw_only=True)
class EditMethod(ABC):
    """How requests become updates.

    Attributes:
        name: as the field writes it.
        one_at_a_time: edit the requests of a round one after the other, at one layer (ROME).
        restrain_update: (W₀, W, Δ) → what is kept of a round's update, after all layers were swept (RECT).
        compensate: make good in the next round what `restrain_update` took (OTE-SE); for methods that solve least
            squares, whose writer knows what it owes.
        restrain_total: (W₀, W_T − W₀) → what is kept of all updates when the model is handed over (PRUNE).
    """

    name: str
    one_at_a_time: bool = False
    restrain_update: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    compensate: bool = False
    restrain_total: Callable[[Tensor, Tensor], Tensor] | None = None

    @abstractmethod
    def writer(self, lm: LanguageModel, plan: EditPlan) -> Writer:
        """What writes rounds into `lm`, which is unedited now.

        Raises:
            ValueError: the plan does not suit the method.
        """

    def beside(self, lm: LanguageModel, state: EditState) -> AbstractContextManager:
        """Inside, what the method keeps beside the weights is at work in `lm` (GRACE's codebook); mostly nothing."""
        return nullcontext()


def guard(update: Tensor, layer: int, original: Tensor, limit: float) -> None:
    """Lets pass an update that is finite and not larger than `limit` times the original matrix.

    Raises:
        UpdateRefused: it is not.
    """
    if not update.isfinite().all():
        raise UpdateRefused(f"the update of layer {layer} is not finite")
    ratio = update.norm().item() / original.norm().item()
    if ratio > limit:
        raise UpdateRefused(f"the update of layer {layer} is {ratio:.3g} times as large as the original matrix "
                            f"(max_update_ratio {limit:g})")
