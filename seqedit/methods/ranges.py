"""What is searched when the settings of a method are chosen for a model.

Published constants are not scale-free: a small model needs its own. Every range is wide enough that
a chosen value lies inside it, or says why a value at its end may stay.
"""

import math
from dataclasses import dataclass
from typing import Any

EDGE = 0.05
"""A value in the outer 5 % of a range, on its own scale, lies on the edge."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends.

    Attributes:
        low: smallest value.
        high: largest value.
        log: search on a logarithmic scale.
        above: the scale begins at this value, so that it is value − above that is searched.
        below: the scale ends at this value, so that it is below − value that is searched.
        integer: whole numbers only.
        low_may_stay: why a value at the lower end needs no wider range; empty if it does.
        high_may_stay: the same of the upper end.
    """

    low: float
    high: float
    log: bool = True
    above: float = 0.0
    below: float | None = None
    integer: bool = False
    low_may_stay: str = ""
    high_may_stay: str = ""

    def searched(self, value: float) -> float:
        """What is searched for a value; the inverse of `value`."""
        return value - self.above if self.below is None else self.below - value

    def value(self, searched: float) -> float:
        """The value for what is searched."""
        return self.above + searched if self.below is None else self.below - searched

    def place(self, value: float) -> float:
        """Where a value lies between the ends, from 0 to 1, on the scale of the search."""
        low, high, x = (self.searched(v) for v in (self.low, self.high, value))
        if self.log:
            low, high, x = (math.log(v) for v in (low, high, x))
        return (x - low) / (high - low)

    def edge(self, value: float) -> str | None:
        """What to say of a value on the edge of the range; None of a value inside it."""
        place = self.place(value)
        if EDGE <= place <= 1 - EDGE:
            return None
        end, reason = (
            ("lower", self.low_may_stay) if place < EDGE else ("upper", self.high_may_stay)
        )
        return f"at the {end} end of {self.low:g} … {self.high:g}" + (
            f": {reason}" if reason else ""
        )


@dataclass(frozen=True)
class Choice:
    """A few values, of which one is taken."""

    values: tuple[Any, ...]


Search = dict[str, Any]
"""Setting → `Range` or `Choice`; any other value is taken as it is."""

TARGET: Search = {
    "lr": Range(0.05, 5.0),
    "clamp": Range(0.1, 10.0),
    "steps": 25,
    "weight_decay": 0.05,
}
"""How targets are optimised. In the main tables one choice of these serves all methods that locate
and edit, so that a difference between them is none of their targets."""

LAMBDA = Range(1e-2, 1e5, low_may_stay="the price then vanishes beside the keys of a round")
L2 = Range(1e-3, 1e3, low_may_stay="below it the rest of the price decides")
TAU = Range(2e-3, 2.0, high_may_stay="the null space is then nearly the whole space")
ALL_LAYERS = (0, 1, 2)
EACH_LAYER = Choice(((0,), (1,), (2,), (3,)))

MEMIT: Search = {"layers": ALL_LAYERS, "lam": LAMBDA} | TARGET
ENCORE: Search = {
    "layers": ALL_LAYERS,
    "lam": LAMBDA,
    "gamma": Range(1e-3, 1e3, low_may_stay="the pull to the last weights then does nothing"),
} | TARGET
ALPHAEDIT: Search = {"layers": ALL_LAYERS, "l2": L2, "threshold": TAU} | TARGET
ROME: Search = {"layers": EACH_LAYER} | TARGET
NSE: Search = {
    "layers": ALL_LAYERS,
    "lam": LAMBDA,
    "done_below": Range(0.1, 30.0),
    "hopeless_from": 1e3,
    "mass": Range(0.3, 1.0, log=False, high_may_stay="all neurons are written"),
} | TARGET
FINE_TUNING: Search = {
    "layers": Choice(((0,), (1,), (2,), (3,), (0, 1, 2))),
    "steps": 25,
    "lr": Range(1e-5, 3e-2),
}
