"""Combinators that run a method more than once: SimIE, iterated editing."""

from dataclasses import replace

from ..editing.contract import EditMethod
from .composing import needs
from .kinds.iterated import Iterated
from .kinds.simie import SimIE


def simie(base: EditMethod, simie_ridge: float = 1e4) -> SimIE:
    """`base` with every edit made alone on the original model, joined by least squares (SimIE).

    Args:
        simie_ridge: λ, price of the distance from the original weights (released: 10,000).

    Source: SimIE, see `SimIE` for the departures.
    """
    needs(base, "weights", "simie")
    return SimIE(
        name=f"{base.name}+SimIE",
        one_at_a_time=base.one_at_a_time,
        restrain_total=base.restrain_total,
        base=replace(base, restrain_total=None),
        ridge=simie_ridge,
    )


def iterated(base: EditMethod, iterations: int = 5) -> Iterated:
    """`base` that searches targets and writes them up to `iterations` times in every round.

    Args:
        iterations: largest number of repetitions (published: 5 at most).

    Source: 2503.11895, see `Iterated` for the departures.
    """
    needs(base, "targets", "iterated")
    return Iterated(
        name=f"{base.name}+iterated",
        one_at_a_time=base.one_at_a_time,
        restrain_total=base.restrain_total,
        base=replace(base, restrain_total=None),
        times=iterations,
    )
