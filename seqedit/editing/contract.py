"""What the loop asks of a method, and what a method may count on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..base.clock import Clock
from ..lm.keys import Average
from ..lm.model import LanguageModel
from ..lm.targets import Targets
from ..requests.request import EditRequest
from .state import EditPlan, EditState, Outcome


class UpdateRefused(Exception):
    """An update that must not reach the model. The message says why."""


@dataclass(frozen=True)
class Written:
    """What became of requests that were written together.

    Attributes:
        outcomes: one for each request, in order.
        state: what is remembered from now on.
        targets: the target values that were found; None for a method without targets.
    """

    outcomes: list[Outcome]
    state: EditState
    targets: Targets | None = None


class Writer(ABC):
    """Writes requests into one model by one method. It is prepared once for a run."""

    @abstractmethod
    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        """Change the model's matrices so that it answers the requests.

        Raises:
            UpdateRefused: the update is not finite or too large. The caller puts the matrices back.
        """

    def current_values(self, requests: list[EditRequest]) -> Float[Tensor, "n d_model"] | None:
        """What the model computes now where the targets of the requests are defined.

        None for a method without targets.
        """
        return None

    def solved_again(
        self, state: EditState, edits: Sequence[int]
    ) -> dict[int, Float[Tensor, "d_model d_ff"]]:
        """Layer → W − W₀ as it were if these edits alone had been made, their keys as they are.

        For methods that say in `EditMethod.cannot_undo` that they can.

        Args:
            edits: numbers of edits, columns of the keys.

        Raises:
            NotImplementedError: the method says that it can, and its writer lacks this.
        """
        raise NotImplementedError

    def after_restraint(
        self, state: EditState, removed: dict[int, Float[Tensor, "d_model d_ff"]]
    ) -> EditState:
        """The state after a restraint removed something from each layer's update.

        A method that makes good in the next round what was removed (error compensation) notes it
        here. The others forget it, which is what happens unless a writer says otherwise.

        Args:
            removed: layer → full update − kept update.
        """
        return state


@dataclass(frozen=True, kw_only=True)
class EditMethod(ABC):
    """How requests become updates.

    Attributes:
        name: as the field writes it.
        one_at_a_time: edit the requests of a round one after the other, at one layer (ROME).
        restrain_update: (W₀, W, Δ) → what is kept of a round's update, applied after all layers
            were written (RECT).
        restrain_total: (W₀, W_T − W₀) → what is kept of the sum of all updates, applied when the
            model is handed over (PRUNE).
    """

    supports: ClassVar[frozenset[str]] = frozenset({"weights"})
    """Which changes by `methods.combinators` have an effect on methods of this kind.

    "weights": its edits are in the matrices and nowhere else. A kind that keeps something beside
    them leaves it out.
    """

    name: str
    one_at_a_time: bool = False
    restrain_update: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    restrain_total: Callable[[Tensor, Tensor], Tensor] | None = None

    @abstractmethod
    def writer(self, lm: LanguageModel, plan: EditPlan) -> Writer:
        """The writer of this method for `lm`, which is unedited at this moment.

        Raises:
            ValueError: the plan does not suit the method.
        """

    @property
    def key_average(self) -> Average | None:
        """How keys are averaged over contexts; None for a method whose keys are not averages."""
        return None

    @property
    def cannot_undo(self) -> str | None:
        """Why one edit cannot be taken out of a run; None if it can, see `editing.undo`."""
        return "its rounds are not solutions of equations from which one edit could be taken out"

    @property
    def needs_gradients(self) -> bool:
        """Whether the plan must hold second moments of gradients."""
        return False

    def beside(self, lm: LanguageModel, state: EditState) -> AbstractContextManager[None]:
        """A context in which what the method keeps beside the weights is at work (GRACE).

        Most methods keep nothing there, and the context does nothing.
        """
        return nullcontext()


def guard(update: Tensor, layer: int, original: Tensor, limit: float) -> None:
    """Let an update pass that is finite and not too large.

    Args:
        update: Δ, (d_model, d_ff).
        layer: number of the layer, for the message.
        original: W₀, (d_model, d_ff).
        limit: largest allowed ‖Δ‖ / ‖W₀‖.

    Raises:
        UpdateRefused: Δ has an entry that is not finite, or ‖Δ‖ exceeds limit · ‖W₀‖.
    """
    if not update.isfinite().all():
        raise UpdateRefused(f"the update of layer {layer} is not finite")
    ratio = (update.norm() / original.norm()).item()  # infinite for a matrix of zeros
    if ratio > limit:
        raise UpdateRefused(
            f"the update of layer {layer} is {ratio:.3g} times as large as the original matrix "
            f"(max_update_ratio {limit:g})"
        )
