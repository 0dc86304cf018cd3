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
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .algebra import restrain, subspace
from .algebra.recursion import Solver
from .lm.keys import Average


@dataclass(frozen=True, kw_only=True)
class Passes:
    """NSE's repeated sweeps over the requests of a round that are not yet written.

    Attributes:
        times: sweeps at most.
        done_below: α; a request is written when ‖z* − h‖ is no larger.
        hopeless_from: a request this far away is left alone for the sweep.
    """

    times: int
    done_below: float
    hopeless_from: float

    def reason(self, distance: float) -> tuple[str, str] | None:
        """Status and reason of a request that a sweep leaves alone; None for one that it takes."""
        if distance <= self.done_below:
            return "already satisfied", f"‖z* − h‖ is at most {self.done_below:g}"
        if distance >= self.hopeless_from:
            return "refused", f"‖z* − h‖ is {distance:.3g}, beyond {self.hopeless_from:g}"
        return None


@dataclass(frozen=True, kw_only=True)
class EditMethod:
    """How the keys and residuals of a round become an update.

    Attributes:
        name: as the field writes it.
        price: C → M₀, what moving along each key direction costs; a number c means cI.
        history: weight of the keys of all earlier edits in the price; 0 for none, ``inf`` to keep them where they are.
        directions: C → the subspace of key directions that an update may use; None allows all.
        mu: 0 for an exact fit, 1 for MEMIT's balance of fit and price.
        site: where targets are defined: the output of the block, or of the MLP (ROME).
        average: how a key is averaged over context templates.
        one_at_a_time: edit the requests of a round one after the other (ROME).
        key: "average" uses the averaged key throughout; "mixed" is released ROME, see `residuals`.
        patience: stop a target after so many passes in which it was most probable in all contexts; 0 never (ENCORE).
        rewind: find targets on the original weights (NSE).
        neurons: K → indices of the neurons that a sweep may change; None for all (NSE).
        passes: repeated sweeps over the layers (NSE).
        restrain_update: (W₀, W, Δ) → what is kept of a round's update, after all layers were swept (RECT).
        compensate: make good in the next round what `restrain_update` took (OTE-SE).
        restrain_total: (W₀, W_T − W₀) → what is kept of all updates when the model is handed over (PRUNE).
    """

    name: str
    price: Callable[[Tensor], Tensor | float]
    history: float = 0.0
    directions: Callable[[Tensor], subspace.Subspace] | None = None
    mu: float = 1.0
    site: Literal["block", "mlp"] = "block"
    average: Average = "groups"
    one_at_a_time: bool = False
    key: Literal["average", "mixed"] = "average"
    patience: int = 0
    rewind: bool = False
    neurons: Callable[[Tensor], Tensor] | None = None
    passes: Passes | None = None
    restrain_update: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    compensate: bool = False
    restrain_total: Callable[[Tensor, Tensor], Tensor] | None = None

    def solver(self, C: Tensor) -> Solver:
        """The one solver, prepared for a layer with second moment C."""
        C = C.double()
        return Solver(self.price(C), self.directions(C) if self.directions else None, self.mu, self.history or 1.0)


def residuals(method: EditMethod, R: Tensor, K: Tensor, bare: Tensor, W: Tensor, solver: Solver) -> Tensor:
    """What ROME's rank-one step writes at the averaged key, given the residual of the bare prompt.

    r-ROME measures the residual at the averaged key k̄ itself: v* − Wk̄ = R − W(k̄ − k). The released ROME
    divides by k·u, u = C⁻¹k̄, where the exact step divides by k̄·u: the same as writing R·(k̄·u)/(k·u).
    When the bare key and the average disagree in the C⁻¹ inner product, that factor is large.

    Args:
        R: v* − (Wk + b) at the bare prompt, (d_model, 1).
        K: averaged key k̄, (d_ff, 1); bare: key k of the bare prompt, (d_ff, 1).
        W: current weight; solver: of the layer.

    Source: ROME (2202.05262) eq. 2, its released code; Gupta et al. (2403.07175) for r-ROME.
    """
    if method.key == "average":
        return R - W.to(R) @ (K - bare).to(R)
    direction = solver.inverse(K)                                         # u = C⁻¹k̄
    return R * ((K.double() * direction).sum() / (bare.double() * direction).sum()).to(R)


def r_rome() -> EditMethod:
    """Rank-one constrained least squares, the averaged key used throughout (2403.07175)."""
    return EditMethod(name="r-ROME", price=lambda C: C, mu=0.0, site="mlp", average="uniform",
                      one_at_a_time=True)


def rome() -> EditMethod:
    """ROME as released: direction from the averaged key, scale from the bare one (2202.05262)."""
    return replace(r_rome(), name="ROME", key="mixed")


def memit(lam: float = 15_000.0) -> EditMethod:
    """Ridge least squares that prices movement by λC (2210.07229); forgets earlier edits."""
    return EditMethod(name="MEMIT", price=lambda C: lam * C)


def memit_seq(lam: float = 15_000.0) -> EditMethod:
    """MEMIT with the keys of all earlier edits in the price: recursive least squares."""
    return replace(with_history(memit(lam)), name="MEMIT-seq")


def emmet(lam: float = 10_000.0, ridge: float = 0.1) -> EditMethod:
    """ROME's constraint for many requests, with a ridge on its n×n system (2403.14236); MEMIT with price ridge·λC."""
    return EditMethod(name="EMMET", price=lambda C: lam * C, mu=ridge)


def encore(lam: float = 15_000.0, gamma: float = 10.0, patience: int = 3) -> EditMethod:
    """MEMIT-seq with the norm of the total update in the price, and targets that stop when they are most probable."""
    return EditMethod(name="ENCORE", price=lambda C: lam * C + gamma * torch.eye(len(C)).to(C), history=1.0,
                      patience=patience)


def alphaedit(threshold: float = 2e-2, l2: float = 10.0) -> EditMethod:
    """Ridge in the null space of preserved keys, with history (2410.02355; L2 = 10 as released, 1 in the paper)."""
    return replace(null_space(with_history(_ridge(l2)), threshold), name="AlphaEdit")


def evoedit(threshold: float = 2e-2, l2: float = 1.0) -> EditMethod:
    """AlphaEdit whose subspace loses the span of every edited key (2510.13851): history of infinite weight."""
    return replace(null_space(with_history(_ridge(l2), float("inf")), threshold), name="EvoEdit")


def nse(lam: float = 15_000.0, mass: float = 0.8, done_below: float = 15.0, hopeless_from: float = 100.0) -> EditMethod:
    """MEMIT-seq on neurons that hold `mass` of Σ abs(k), targets on the original weights, two sweeps (2410.04045)."""
    restrain.check_share("mass", mass)
    return replace(memit_seq(lam), name="NSE", rewind=True, neurons=lambda K: subspace.top_neurons(K, mass),
                   passes=Passes(times=2, done_below=done_below, hopeless_from=hopeless_from))


def nse_released(lam: float = 15_000.0, mass: float = 0.8, done_below: float = 15.0,
                 hopeless_from: float = 100.0) -> EditMethod:
    """NSE with one neuron fewer: those whose summed abs(k) stays at or below `mass`, as the released code selects."""
    return replace(nse(lam, mass, done_below, hopeless_from), name="NSE (released)",
                   neurons=lambda K: subspace.top_neurons(K, mass)[:-1])


def memit_rect(lam: float = 15_000.0, share: float = 0.4) -> EditMethod:
    """MEMIT that keeps the relatively largest entries of each update (2401.04700)."""
    return rect(memit(lam), share)


def memit_prune(lam: float = 15_000.0, alpha: float = math.e) -> EditMethod:
    """MEMIT whose total update has its singular values restrained (2405.16821)."""
    return prune(memit(lam), alpha)


def _ridge(l2: float) -> EditMethod:
    return EditMethod(name="ridge", price=lambda C: l2)


def null_space(base: EditMethod, threshold: float = 2e-2) -> EditMethod:
    """`base`, with updates confined to directions that preserved keys hardly use: the "one line of projection"."""
    return replace(base, name=f"{base.name}+projection", directions=lambda C: subspace.null_space(C, threshold))


def with_history(base: EditMethod, weight: float = 1.0) -> EditMethod:
    """`base`, with the keys of all earlier edits priced like those of this round, or by another weight."""
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


def compensated(base: EditMethod) -> EditMethod:
    """`base`, what its restraint takes from a round's normal equations made good in the next (OTE-SE, 2605.26670).

    Raises:
        ValueError: `base` has no restraint per round, or no history to be compensated against.
    """
    if base.restrain_update is None or base.history != 1.0:
        raise ValueError(f"{base.name}: compensation needs a restraint of each round's update, and history")
    return replace(base, name=f"{base.name}+compensation", compensate=True)


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


def _restrained(base: EditMethod, name: str, restraint: Callable[[Tensor, Tensor, Tensor], Tensor]) -> EditMethod:
    before = base.restrain_update
    combined = restraint if before is None else lambda W0, W, update: restraint(W0, W, before(W0, W, update))
    return replace(base, name=f"{base.name}+{name}", restrain_update=combined)


METHODS = {make.__name__: make for make in (rome, r_rome, memit, memit_seq, emmet, encore, alphaedit, evoedit, nse,
                                            nse_released, memit_rect, memit_prune)}
"""Methods by the name that the command line and the chapters use."""


def method_parameters(name: str) -> dict[str, float]:
    """The parameters a method takes, with their defaults.

    Raises:
        ValueError: no such method; the message lists those there are.
    """
    if name not in METHODS:
        raise ValueError(f"no method named {name!r}; known are {', '.join(METHODS)}")
    return {p.name: p.default for p in inspect.signature(METHODS[name]).parameters.values()}


def make_method(name: str, **parameters: float) -> EditMethod:
    """A method by name.

    Raises:
        ValueError: no such method, or it takes no such parameter; the message lists the known ones.
    """
    known = method_parameters(name)
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(f"{name} has no parameter {parameter!r}; it takes "
                             f"{', '.join(known) if known else 'none'}")
    return METHODS[name](**parameters)
