"""NSE: targets on the original weights, written into the strongest neurons in two sweeps."""

from dataclasses import replace

from ..algebra import restrain, subspace
from . import ranges
from .entry import method
from .kinds.locate_then_edit import LocateThenEdit
from .kinds.passes import Passes
from .memit import memit_seq

SOURCE = "NSE (2410.04045); code: jianghoucheng/NSE, no licence"
TEST = {"lam": 0.5, "mass": 0.8, "done_below": 1e-3, "hopeless_from": 1e3}


@method(
    source=SOURCE,
    search=ranges.NSE,
    test=TEST,
    colour="#dd6900",
    fixed={"max_iterations": 3},
)
def nse(
    lam: float = 15_000.0,
    mass: float = 0.8,
    done_below: float = 15.0,
    hopeless_from: float = 100.0,
) -> LocateThenEdit:
    r"""MEMIT-seq on the strongest neurons, with targets on the original weights, as released.

    .. math::
        \Delta_S = R K_S^\top (\lambda C_{SS} + K_{p,S} K_{p,S}^\top + K_S K_S^\top)^{-1}

    :math:`S` holds the neurons with the largest :math:`\sum_i |k_{ji}|`, as many as stay at or
    below `mass` of the whole sum; the paper takes one more, see `nse_paper`. A second sweep takes
    the requests that the first one has not written.

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless (published: 15,000).
        mass: p, share of the activations that the neurons hold (published: 0.8).
        done_below: α, distance ‖z* − h‖ at which a request counts as written, activations
            (published: 15 for GPT-J).
        hopeless_from: distance ‖z* − h‖ from which a sweep leaves a request out, activations
            (released: 100).

    Example:
        >>> nse().rewind, nse().passes.times
        (True, 2)
    """
    return replace(
        nse_paper(lam, mass, done_below, hopeless_from),
        name="NSE",
        neurons=lambda K: subspace.top_neurons(K, mass)[:-1],
    )


@method(
    source=SOURCE,
    search=ranges.NSE,
    test=TEST,
    colour="#d95f02",
    fixed={"max_iterations": 3},
)
def nse_paper(
    lam: float = 15_000.0,
    mass: float = 0.8,
    done_below: float = 15.0,
    hopeless_from: float = 100.0,
) -> LocateThenEdit:
    r"""NSE with the neurons of the paper: the fewest that hold `mass` of the activations.

    .. math::
        \Delta_S = R K_S^\top (\lambda C_{SS} + K_{p,S} K_{p,S}^\top + K_S K_S^\top)^{-1}

    Args:
        lam: λ, weight of the preserved keys against one edit, dimensionless (published: 15,000).
        mass: p, share of Σ|k| that the neurons hold (published: 0.8).
        done_below: α, distance ‖z* − h‖ at which a request counts as written, activations
            (published: 15 for GPT-J).
        hopeless_from: distance ‖z* − h‖ from which a sweep leaves a request out, activations
            (released: 100).

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(nse_paper(lam=1.0, mass=1.0))
        [0.669, 0.662]
    """
    restrain.check_share("mass", mass)
    return replace(
        memit_seq(lam),
        name="NSE (paper)",
        rewind=True,
        neurons=lambda K: subspace.top_neurons(K, mass),
        passes=Passes(times=2, done_below=done_below, hopeless_from=hopeless_from),
    )
