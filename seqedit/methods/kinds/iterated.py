"""Iterated editing: a round is written several times, each time with targets found anew."""

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ...base.clock import Clock
from ...editing.contract import EditMethod, Writer, Written
from ...editing.sequential import write_all
from ...editing.state import EditPlan, EditState, Outcome
from ...lm.keys import Average
from ...lm.model import LanguageModel
from ...lm.targets import Targets
from ...requests.request import EditRequest


@dataclass(frozen=True, kw_only=True)
class Iterated(EditMethod):
    """A base that searches targets and writes them, again and again, for the same requests.

    Each repetition starts from the weights that the one before it left. The requests' own keys are
    no history to it: that begins with the next round.

    Attributes:
        base: a method with targets.
        times: largest number of repetitions.

    Source:
        Resolving UnderEdit and OverEdit (2503.11895). Departs from it in when it stops early: there
        when the perplexity after writing is close to that of the targets, here when no target of
        the round has moved from where the model is, which costs no further measurement.
    """

    supports: ClassVar[frozenset[str]] = frozenset()

    base: EditMethod
    times: int

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "IteratedWriter":
        return IteratedWriter(lm, self, plan)

    @property
    def key_average(self) -> Average | None:
        return self.base.key_average


class IteratedWriter(Writer):
    """Writes a round by the base until nothing is missing, or `times` times."""

    def __init__(self, lm: LanguageModel, method: Iterated, plan: EditPlan):
        self.lm, self.method, self.plan = lm, method, plan
        self.base = method.base.writer(lm, plan)

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        done: list[list[Outcome]] = []
        found: list[Targets] = []
        now = state
        for _ in range(self.method.times):
            outcomes, targets, after = write_all(
                self.lm, requests, self.method.base, self.plan, now, self.base, clock
            )
            done.append(outcomes)
            found += [one for one in targets if one is not None]
            now = replace(after, keys=state.keys, grams=state.grams)
            if not any(outcome.target_updates for outcome in outcomes):
                break
        joined = replace(found[-1], h=found[0].h)
        together = [joined_outcome(own) for own in zip(*done, strict=True)]
        return Written(together, after, joined)

    def current_values(self, requests: list[EditRequest]) -> Float[Tensor, "n d_model"] | None:
        return self.base.current_values(requests)

    def after_restraint(self, state: EditState, removed: dict[int, Tensor]) -> EditState:
        return self.base.after_restraint(state, removed)


def joined_outcome(steps: tuple[Outcome, ...]) -> Outcome:
    """One outcome of a request for all repetitions: the last one's, with the steps of all.

    A request that any of them edited is edited; otherwise it is what the first one says.
    """
    first, last = steps[0], steps[-1]
    status = "edited" if any(step.status == "edited" for step in steps) else first.status
    updates = sum(step.target_updates for step in steps)
    reason = last.reason if len(steps) == 1 else f"{last.reason}, repetition {len(steps)}"
    return replace(last, status=status, reason=reason, target_updates=updates)
