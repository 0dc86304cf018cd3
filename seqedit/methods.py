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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from .algebra import subspace
from .algebra.recursion import Solver
from .lm.keys import Average


@dataclass(frozen=True, kw_only=True)
class EditMethod:
    """How the keys and residuals of a round become an update.

    Attributes:
        name: as the field writes it.
        price: C → M₀, what moving along each key direction costs; a number c means cI.
        history: price the keys of all earlier edits too.
        directions: C → the subspace of key directions that an update may use; None allows all.
        mu: 0 for an exact fit, 1 for MEMIT's balance of fit and price.
        site: where targets are defined: the output of the block, or of the MLP (ROME).
        average: how a key is averaged over context templates.
        one_at_a_time: edit the requests of a round one after the other (ROME).
        key: "average" uses the averaged key throughout; "mixed" is released ROME, see `residuals`.
    """

    name: str
    price: Callable[[Tensor], Tensor | float]
    history: bool = False
    directions: Callable[[Tensor], subspace.Subspace] | None = None
    mu: float = 1.0
    site: Literal["block", "mlp"] = "block"
    average: Average = "groups"
    one_at_a_time: bool = False
    key: Literal["average", "mixed"] = "average"

    def solver(self, C: Tensor) -> Solver:
        """The one solver, prepared for a layer with second moment C."""
        C = C.double()
        return Solver(self.price(C), self.directions(C) if self.directions else None, self.mu)


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
    """MEMIT with the keys of all earlier edits in the metric: recursive least squares."""
    return replace(with_history(memit(lam)), name="MEMIT-seq")


def alphaedit(threshold: float = 2e-2, l2: float = 10.0) -> EditMethod:
    """Ridge in the null space of preserved keys, with history (2410.02355; L2 = 10 as released, 1 in the paper)."""
    ridge = EditMethod(name="ridge", price=lambda C: l2)
    return replace(null_space(with_history(ridge), threshold), name="AlphaEdit")


def null_space(base: EditMethod, threshold: float = 2e-2) -> EditMethod:
    """`base`, with updates confined to directions that preserved keys hardly use: the "one line of projection"."""
    return replace(base, name=f"{base.name}+projection", directions=lambda C: subspace.null_space(C, threshold))


def with_history(base: EditMethod) -> EditMethod:
    """`base`, with the keys of all earlier edits priced like those of this round."""
    return replace(base, name=f"{base.name}+history", history=True)


METHODS = {make.__name__: make for make in (rome, r_rome, memit, memit_seq, alphaedit)}
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
