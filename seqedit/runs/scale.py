"""Prices for a model for which nothing was published or searched, from its own second moments.

A key k that is edited alone by MEMIT gets the share s / (1 + s) of its residual, with
s = kᵀC⁻¹k / λ; by AlphaEdit it is kᵀPk / (kᵀPk + L2). Averaged over the text that C is of,
kᵀC⁻¹k is d_ff, the length of a key, and kᵀPk is tr(PC), whatever the model. So a λ or L2 that is
published for one model writes nothing in another, while a share carries over.

Keys of subjects are less ordinary than those of a text: in SmolLM2-135M both numbers are three
times as large for them.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..algebra.compact import CompactMoment
from ..methods import ranges
from ..methods.catalogue import base_entry
from .config import Say, ignore
from .settings import Settings

PRICE = 0.1
"""Price of movement beside an ordinary key, which so gets ten elevenths of its residual."""

QUIET = 0.7
"""Share of the directions of key space that a null space has: that of SmolLM2 at the published τ,
on average over its layers."""


def scaled_to(
    settings: Settings,
    moments: Mapping[int, Tensor | CompactMoment],
    given: Mapping[str, object],
    say: Say = ignore,
) -> Settings:
    """Settings with λ, L2 and τ that fit the second moments, but for those that are given.

    Only prices that the method's ranges name as such are set; those of combinators are not.
    """
    search = base_entry(settings.method).search
    kinds = {"lam": ranges.LAMBDA, "threshold": ranges.TAU, "l2": ranges.L2}
    wanted = {name for name, kind in kinds.items() if search.get(name) is kind} - set(given)
    found: dict[str, float] = {}
    if "lam" in wanted:
        found["lam"] = PRICE * next(iter(moments.values())).shape[0]
    if wanted & {"threshold", "l2"}:
        spectra = torch.stack([_spectrum(C) for C in moments.values()])  # (layers, d_ff)
        threshold = float(settings.parameters.get("threshold", 0))
        if "threshold" in wanted:
            threshold = found["threshold"] = torch.quantile(spectra, QUIET).item()
        if "l2" in wanted:
            quiet = torch.where(spectra < threshold, spectra, 0).sum(dim=1)  # tr(PC) of each layer
            found["l2"] = PRICE * quiet.mean().item()
    found = {name: float(f"{value:.3g}") for name, value in found.items()}
    if found:
        shown = ", ".join(f"{name} {value:g}" for name, value in found.items())
        say(f"settings scaled to the model's second moments: {shown} (--set gives others)")
    return replace(settings, parameters={**settings.parameters, **found})


def _spectrum(C: Tensor | CompactMoment) -> Float[Tensor, "d_ff"]:
    """The eigenvalues of a second moment; of a compact one their mean below its floor."""
    if isinstance(C, CompactMoment):
        others = C.rest.double().expand(len(C.vectors) - len(C.values))
        return torch.cat([others, C.values.double().flip(0)])
    return torch.linalg.eigvalsh(C.double())
