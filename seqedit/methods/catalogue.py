"""Every method as a value: a price on key space, allowed directions, and how targets are found.

| method | price M₀ | basis | μ | history |
|---|---|---|---|---|
| ROME, r-ROME | C | all | 0 | – |
| MEMIT | λC | all | 1 | – |
| MEMIT with history | λC | all | 1 | keys of all earlier edits |
| AlphaEdit | L2·I | eigenvectors of C below τ | 1 | keys of all earlier edits |

A history adds K_pK_pᵀ to the price: earlier keys cost like those of the round.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace

import torch

from ..algebra import restrain, subspace
from ..editing.contract import EditMethod
from .codebook import Codebook
from .combinators import (
    compensated,
    norm_anchor,
    null_space,
    prune,
    prune_added_twice,
    prune_rounds,
    rect,
    revive,
    rewind,
    robust_keys,
    sphere,
    with_history,
    without_history,
)
from .fine_tuning import FineTuning
from .gradients import FromGradients, Mend
from .locate_then_edit import LocateThenEdit, Passes
from .lyaplock import LyapLock


def r_rome() -> LocateThenEdit:
    """Rank-one constrained least squares, the averaged key used throughout (2403.07175)."""
    return LocateThenEdit(
        name="r-ROME", price=lambda C: C, mu=0.0, site="mlp", average="uniform", one_at_a_time=True
    )


def rome() -> LocateThenEdit:
    """ROME as released: direction from the averaged key, scale from the bare one (2202.05262)."""
    return replace(r_rome(), name="ROME", key="mixed")


def memit(lam: float = 15_000.0) -> LocateThenEdit:
    """Ridge least squares that prices movement by λC (2210.07229); forgets earlier edits."""
    return LocateThenEdit(name="MEMIT", price=lambda C: lam * C)


def memit_seq(lam: float = 15_000.0) -> LocateThenEdit:
    """MEMIT with the keys of all earlier edits in the price: recursive least squares."""
    return replace(with_history(memit(lam)), name="MEMIT-seq")


def emmet(lam: float = 10_000.0, ridge: float = 0.1) -> LocateThenEdit:
    """ROME's constraint for many requests, with a ridge on its n×n system (2403.14236); MEMIT with price ridge·λC."""
    return LocateThenEdit(name="EMMET", price=lambda C: lam * C, mu=ridge)


def encore(lam: float = 15_000.0, gamma: float = 10.0, patience: int = 3) -> LocateThenEdit:
    """MEMIT-seq with the norm of the total update in the price, and targets that stop when they are most probable."""
    return LocateThenEdit(
        name="ENCORE",
        price=lambda C: lam * C + gamma * torch.eye(len(C)).to(C),
        history=1.0,
        patience=patience,
    )


def bird(lam: float = 15_000.0, alpha: float = 2e-4, beta: float = 1.0) -> LocateThenEdit:
    """MEMIT whose targets are also drawn to where the new object would find the subject (2310.10322)."""
    return replace(memit(lam), name="BIRD", both_ways=(alpha, beta))


def alphaedit(threshold: float = 2e-2, l2: float = 10.0) -> LocateThenEdit:
    """Ridge in the null space of preserved keys, with history (2410.02355; L2 = 10 as released, 1 in the paper)."""
    return replace(null_space(with_history(_ridge(l2)), threshold), name="AlphaEdit")


def evoedit(threshold: float = 2e-2, l2: float = 1.0) -> LocateThenEdit:
    """AlphaEdit whose subspace loses the span of every edited key (2510.13851): history of infinite weight."""
    return replace(null_space(with_history(_ridge(l2), float("inf")), threshold), name="EvoEdit")


def nse(
    lam: float = 15_000.0, mass: float = 0.8, done_below: float = 15.0, hopeless_from: float = 100.0
) -> LocateThenEdit:
    """MEMIT-seq on the strongest neurons, targets on the original weights, two sweeps; as released (2410.04045)."""
    return replace(
        nse_paper(lam, mass, done_below, hopeless_from),
        name="NSE",
        neurons=lambda K: subspace.top_neurons(K, mass)[:-1],
    )


def nse_paper(
    lam: float = 15_000.0, mass: float = 0.8, done_below: float = 15.0, hopeless_from: float = 100.0
) -> LocateThenEdit:
    """NSE with one neuron more: the fewest that hold `mass` of Σ abs(k); the released code stays at or below it."""
    restrain.check_share("mass", mass)
    return replace(
        memit_seq(lam),
        name="NSE (paper)",
        rewind=True,
        neurons=lambda K: subspace.top_neurons(K, mass),
        passes=Passes(times=2, done_below=done_below, hopeless_from=hopeless_from),
    )


def memit_rect(lam: float = 15_000.0, share: float = 0.4) -> LocateThenEdit:
    """MEMIT that keeps the relatively largest entries of each update (2401.04700)."""
    return rect(memit(lam), share)


def memit_prune(lam: float = 15_000.0, alpha: float = math.e) -> LocateThenEdit:
    """MEMIT whose total update has its singular values restrained (2405.16821)."""
    return prune(memit(lam), alpha)


def rlsedit(lam: float = 15_000.0, gamma: float = 10.0) -> LocateThenEdit:
    """Recursive least squares anchored at preserved keys and at the original weights (2601.15686)."""
    return replace(encore(lam, gamma), name="RLSEdit", patience=0)


def lyaplock(lam: float = 15_000.0, budget: float = 60.0) -> LyapLock:
    """MEMIT-seq whose price of movement rises when the drift exceeds `budget` times the first round's (2505.15702)."""
    return LyapLock(name="LyapLock", price=lambda C: lam * C, budget=budget)


def ultraedit(eta: float = 1e-6, ridge: float = 1.0) -> FromGradients:
    """Ridge that writes standardised gradients at the inputs they came with, one pass (2505.14679)."""
    return FromGradients(name="UltraEdit", price=ridge, eta=eta)


def rledit(network: str = "rledit") -> FromGradients:
    """Ridge that writes what a network, trained along sequences of edits, makes of gradients (2502.05759)."""
    return FromGradients(name="RLEdit", price=1.0, network=network)


def rledit_released(network: str = "rledit_released") -> FromGradients:
    """RLEdit whose network took a single step of its optimiser, as the released defaults do."""
    return replace(rledit(network), name="RLEdit (released)")


def mend(network: str = "mend") -> Mend:
    """Gradients at all tokens, reshaped by a trained network and added up (2110.11309)."""
    return Mend(name="MEND", network=network)


def ft(lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2) -> FineTuning:
    """Adam on the edited matrix, every target token predicted from the end of the prompt, as released (2202.05262)."""
    return FineTuning(name="FT", lr=lr, steps=steps, stop_loss=stop_loss, objective="end of prompt")


def ft_l(
    lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2, epsilon: float = 5e-4
) -> FineTuning:
    """FT that keeps every entry within ±ε of where the round found it (2012.00363, as released with 2202.05262)."""
    return replace(ft(lr, steps, stop_loss), name="FT-L", epsilon=epsilon)


def ft_m(lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2) -> FineTuning:
    """Adam on the edited matrix, every target token predicted from the tokens before it."""
    return replace(ft(lr, steps, stop_loss), name="FT-M", objective="every token")


def grace(radius: float = 1.0) -> Codebook:
    """Nothing written: a codebook beside one layer answers for inputs near stored keys (2211.11031)."""
    return Codebook(name="GRACE", radius=radius)


def betaedit(threshold: float = 2e-2, lam: float = 3_000.0, l2: float = 10.0) -> LocateThenEdit:
    """AlphaEdit that still prices what its subspace lets through by λC (2605.09285).

    The released code (commit 2934b3f) also finds the subspace anew every thousand edits, from a second moment in which
    the edited keys count 1/(λ + 1); not done here.
    """
    ridge = LocateThenEdit(name="ridge", price=lambda C: lam * C + l2 * torch.eye(len(C)).to(C))
    return replace(null_space(with_history(ridge), threshold), name="BetaEdit")


def nas(threshold: float = 2e-2, l2: float = 10.0) -> LocateThenEdit:
    """AlphaEdit with values rescaled to the norm that they have on the original model (2602.02543)."""
    return replace(norm_anchor(alphaedit(threshold, l2)), name="NAS")


def _ridge(l2: float) -> LocateThenEdit:
    return LocateThenEdit(name="ridge", price=l2)


METHODS = {
    make.__name__: make
    for make in (
        rome,
        r_rome,
        memit,
        memit_seq,
        emmet,
        encore,
        rlsedit,
        lyaplock,
        bird,
        alphaedit,
        evoedit,
        betaedit,
        nas,
        nse,
        nse_paper,
        memit_rect,
        memit_prune,
        ultraedit,
        rledit,
        rledit_released,
        mend,
        ft,
        ft_l,
        ft_m,
        grace,
    )
}
"""Methods by the name that the command line and the chapters use."""


COMBINATORS = {
    combine.__name__: combine
    for combine in (
        null_space,
        with_history,
        without_history,
        rewind,
        rect,
        sphere,
        revive,
        prune_rounds,
        compensated,
        norm_anchor,
        prune,
        prune_added_twice,
        robust_keys,
    )
}
"""What may follow a method's name, joined by "+": ``memit+with_history+prune``."""


SHORT = {"rect": "memit_rect", "prune": "memit_prune"}
"""What the field calls a restraint on MEMIT when it names no base."""


def canonical(name: str) -> str:
    """The name under which a method is registered: ``rect+with_history`` is ``memit_rect+with_history``."""
    base, plus, rest = name.partition("+")
    return SHORT.get(base, base) + plus + rest


def method_parameters(name: str) -> dict[str, float | int | str]:
    """The parameters a method takes, with their defaults; those of its combinators too.

    Raises:
        ValueError: no such method or combinator, or two of them take a parameter of the same name; the message lists
            those there are.
    """
    parameters: dict[str, float | int | str] = {}
    for part, make in _parts(name):
        own = {
            p.name: p.default
            for p in inspect.signature(make).parameters.values()
            if p.name != "base"
        }
        if shared := sorted(own.keys() & parameters):
            raise ValueError(
                f"{name}: {part} takes {', '.join(shared)}, as another part does; compose them in Python"
            )
        parameters |= own
    return parameters


def make_method(name: str, **parameters: float | int | str) -> EditMethod:
    """A method by name, such as ``memit`` or ``memit+with_history+prune``.

    Raises:
        ValueError: no such method, or it takes no such parameter; the message lists the known ones.
    """
    known = method_parameters(name)
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(
                f"{name} has no parameter {parameter!r}; it takes "
                f"{', '.join(known) if known else 'none'}"
            )
    method: EditMethod | None = None
    for _, make in _parts(name):
        own = {p: parameters[p] for p in inspect.signature(make).parameters if p in parameters}
        method = make(**own) if method is None else make(method, **own)
    return method


def _parts(name: str) -> list[tuple[str, Callable]]:
    base, *combinators = canonical(name).split("+")
    if base not in METHODS:
        raise ValueError(f"no method named {base!r}; known are {', '.join(METHODS)}")
    for part in combinators:
        if part not in COMBINATORS:
            raise ValueError(
                f"{name}: nothing named {part!r} follows a method; known are {', '.join(COMBINATORS)}"
            )
    return [(base, METHODS[base]), *((part, COMBINATORS[part]) for part in combinators)]
