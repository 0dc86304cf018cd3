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
from torch import Tensor

from .algebra import restrain, subspace
from .editors.base import EditMethod
from .editors.codebook import Codebook
from .editors.fine_tuning import FineTuning
from .editors.gradients import FromGradients, Mend
from .editors.key_adaptor import RobustKeys
from .editors.least_squares import LeastSquares
from .editors.locate_then_edit import LocateThenEdit, Passes
from .editors.lyaplock import LyapLock


def r_rome() -> LocateThenEdit:
    """Rank-one constrained least squares, the averaged key used throughout (2403.07175)."""
    return LocateThenEdit(name="r-ROME", price=lambda C: C, mu=0.0, site="mlp", average="uniform",
                      one_at_a_time=True)


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
    return LocateThenEdit(name="ENCORE", price=lambda C: lam * C + gamma * torch.eye(len(C)).to(C), history=1.0,
                      patience=patience)


def bird(lam: float = 15_000.0, alpha: float = 2e-4, beta: float = 1.0) -> LocateThenEdit:
    """MEMIT whose targets are also drawn to where the new object would find the subject (2310.10322)."""
    return replace(memit(lam), name="BIRD", both_ways=(alpha, beta))


def alphaedit(threshold: float = 2e-2, l2: float = 10.0) -> LocateThenEdit:
    """Ridge in the null space of preserved keys, with history (2410.02355; L2 = 10 as released, 1 in the paper)."""
    return replace(null_space(with_history(_ridge(l2)), threshold), name="AlphaEdit")


def evoedit(threshold: float = 2e-2, l2: float = 1.0) -> LocateThenEdit:
    """AlphaEdit whose subspace loses the span of every edited key (2510.13851): history of infinite weight."""
    return replace(null_space(with_history(_ridge(l2), float("inf")), threshold), name="EvoEdit")


def nse(lam: float = 15_000.0, mass: float = 0.8, done_below: float = 15.0,
        hopeless_from: float = 100.0) -> LocateThenEdit:
    """MEMIT-seq on the strongest neurons, targets on the original weights, two sweeps; as released (2410.04045)."""
    return replace(nse_paper(lam, mass, done_below, hopeless_from), name="NSE",
                   neurons=lambda K: subspace.top_neurons(K, mass)[:-1])


def nse_paper(lam: float = 15_000.0, mass: float = 0.8, done_below: float = 15.0,
              hopeless_from: float = 100.0) -> LocateThenEdit:
    """NSE with one neuron more: the fewest that hold `mass` of Σ abs(k); the released code stays at or below it."""
    restrain.check_share("mass", mass)
    return replace(memit_seq(lam), name="NSE (paper)", rewind=True, neurons=lambda K: subspace.top_neurons(K, mass),
                   passes=Passes(times=2, done_below=done_below, hopeless_from=hopeless_from))


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
    return FromGradients(name="UltraEdit", price=lambda C: ridge, eta=eta)


def rledit(network: str = "rledit") -> FromGradients:
    """Ridge that writes what a network, trained along sequences of edits, makes of gradients (2502.05759)."""
    return FromGradients(name="RLEdit", price=lambda C: 1.0, network=network)


def rledit_released(network: str = "rledit_released") -> FromGradients:
    """RLEdit whose network took a single step of its optimiser, as the released defaults do."""
    return replace(rledit(network), name="RLEdit (released)")


def mend(network: str = "mend") -> Mend:
    """Gradients at all tokens, reshaped by a trained network and added up (2110.11309)."""
    return Mend(name="MEND", network=network)


def ft(lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2) -> FineTuning:
    """Adam on the edited matrix, every target token predicted from the end of the prompt, as released (2202.05262)."""
    return FineTuning(name="FT", lr=lr, steps=steps, stop_loss=stop_loss, objective="end of prompt")


def ft_l(lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2, epsilon: float = 5e-4) -> FineTuning:
    """FT that keeps every entry within ±ε of where the round found it (2012.00363, as released with 2202.05262)."""
    return replace(ft(lr, steps, stop_loss), name="FT-L", epsilon=epsilon)


def ft_m(lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2) -> FineTuning:
    """Adam on the edited matrix, every target token predicted from the tokens before it."""
    return replace(ft(lr, steps, stop_loss), name="FT-M", objective="every token")


def grace(radius: float = 1.0) -> Codebook:
    """Nothing written: a codebook beside one layer answers for inputs near stored keys (2211.11031)."""
    return Codebook(name="GRACE", radius=radius)


def _ridge(l2: float) -> LocateThenEdit:
    return LocateThenEdit(name="ridge", price=lambda C: l2)


def null_space(base: LeastSquares, threshold: float = 2e-2) -> LeastSquares:
    """`base`, with updates confined to directions that preserved keys hardly use: the "one line of projection"."""
    _needs_a_solve(base, "null_space")
    return replace(base, name=f"{base.name}+projection", directions=lambda C: subspace.null_space(C, threshold))


def with_history(base: LeastSquares, weight: float = 1.0) -> LeastSquares:
    """`base`, with the keys of all earlier edits priced like those of this round, or by another weight."""
    _needs_a_solve(base, "with_history")
    if isinstance(base, LyapLock):
        raise ValueError(f"with_history({base.name}): it solves for all earlier edits in every round already")
    return replace(base, name=f"{base.name}+history", history=weight)


def rect(base: EditMethod, share: float = 0.4) -> EditMethod:
    """`base`, keeping the entries of each round's update that are largest in proportion to the matrix's (RECT)."""
    restrain.check_share("share", share)
    return _restrained(base, "RECT", lambda W0, W, update: restrain.keep_largest_relative(W, update, share))


def sphere(base: EditMethod, share: float = 0.5, strength: float = 0.5) -> EditMethod:
    """`base`, each update damped along the principal directions of the matrix's rows (SPHERE)."""
    restrain.check_share("share", share)
    return _restrained(base, "SPHERE",
                       lambda W0, W, update: restrain.damp_principal_directions(W, update, share, strength))


def revive(base: EditMethod, share: float = 0.9) -> EditMethod:
    """`base`, each update without its part in the leading singular subspaces of the original matrix (REVIVE)."""
    restrain.check_share("share", share)
    return _restrained(base, "REVIVE", lambda W0, W, update: restrain.outside_top_subspaces(W0, update, share))


def prune_rounds(base: EditMethod, alpha: float = math.e) -> EditMethod:
    """`base`, PRUNE's restraint applied to every round's update instead of once to their sum (OTE-SE's comparison)."""
    restrain.check_alpha(alpha)
    return _restrained(base, "PRUNE per round", lambda W0, W, update: restrain.compress(W0, update, alpha))


def compensated(base: LeastSquares) -> LeastSquares:
    """`base`, what its restraint takes from a round's normal equations made good in the next (OTE-SE, 2605.26670).

    Raises:
        ValueError: `base` has no restraint per round, or no history to be compensated against, or does not solve for
            whole updates at μ = 1, for which alone the compensation is exact.
    """
    _needs_a_solve(base, "compensated")
    if type(base) is not LocateThenEdit or base.neurons or base.mu != 1.0:
        raise ValueError(f"{base.name}: compensation is for methods that solve for whole updates with μ = 1 (MEMIT's)")
    if base.restrain_update is None or base.history != 1.0:
        raise ValueError(f"{base.name}: compensation needs a restraint of each round's update, and history")
    return replace(base, name=f"{base.name}+compensation", compensate=True)


def robust_keys(base: LocateThenEdit, rank: int = 32, adaptor_steps: int = 100,
                adaptor_lr: float = 1e-3) -> RobustKeys:
    """`base` with an adaptor before its edited matrices that leads perturbed subjects to the edited keys (REP)."""
    if type(base) is not LocateThenEdit or base.restrain_total or base.restrain_update:
        raise ValueError(f"robust_keys({base.name}): give it a locate-then-edit method without restraints")
    return RobustKeys(name=f"{base.name}+REP", one_at_a_time=base.one_at_a_time, base=base, rank=rank,
                      steps=adaptor_steps, lr=adaptor_lr)


def prune(base: EditMethod, alpha: float = math.e, mode: restrain.Mode = "log") -> EditMethod:
    """`base`, the singular values of its total update restrained when the model is handed over: W₀ + F(W_T − W₀)."""
    restrain.check_alpha(alpha)
    return replace(base, name=f"{base.name}+PRUNE",
                   restrain_total=lambda W0, total: restrain.compress(W0, total, alpha, mode))


def prune_added_twice(base: EditMethod, alpha: float = math.e) -> EditMethod:
    """`base` with W_T + F(W_T − W₀): not PRUNE, but what several repositories run under its name; for comparison."""
    restrain.check_alpha(alpha)
    return replace(base, name=f"{base.name}+PRUNE added twice",
                   restrain_total=lambda W0, total: total + restrain.compress(W0, total, alpha))


def _needs_a_solve(base: EditMethod, combinator: str) -> None:
    if not isinstance(base, LeastSquares):
        raise ValueError(f"{combinator}({base.name}): the method solves no least squares that this could act on")


def _restrained(base: EditMethod, name: str, restraint: Callable[[Tensor, Tensor, Tensor], Tensor]) -> EditMethod:
    before = base.restrain_update
    combined = restraint if before is None else lambda W0, W, update: restraint(W0, W, before(W0, W, update))
    return replace(base, name=f"{base.name}+{name}", restrain_update=combined)


METHODS = {make.__name__: make for make in (
    rome, r_rome, memit, memit_seq, emmet, encore, rlsedit, lyaplock, bird, alphaedit, evoedit, nse, nse_paper,
    memit_rect, memit_prune, ultraedit, rledit, rledit_released, mend, ft, ft_l, ft_m, grace)}
"""Methods by the name that the command line and the chapters use."""


COMBINATORS = {combine.__name__: combine for combine in (
    null_space, with_history, rect, sphere, revive, prune_rounds, compensated, prune, prune_added_twice, robust_keys)}
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
        own = {p.name: p.default for p in inspect.signature(make).parameters.values() if p.name != "base"}
        if shared := sorted(own.keys() & parameters):
            raise ValueError(f"{name}: {part} takes {', '.join(shared)}, as another part does; compose them in Python")
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
            raise ValueError(f"{name} has no parameter {parameter!r}; it takes "
                             f"{', '.join(known) if known else 'none'}")
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
            raise ValueError(f"{name}: nothing named {part!r} follows a method; known are {', '.join(COMBINATORS)}")
    return [(base, METHODS[base]), *((part, COMBINATORS[part]) for part in combinators)]
