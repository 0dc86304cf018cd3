"""Families whose MLP output passes a norm before it joins the residual stream: what their edited matrix can write.

A block adds N(m) to the residual stream, m = Wk the MLP's output and N(m) = g ⊙ m / rms(m). N(m) keeps the norm
that g gives it, so not every change of the residual stream can be written. Targets are therefore moved at m, where
everything can be (`lm.target_loss`), and what the residual stream shall gain is turned into what m must gain here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

FAINT = 0.01
"""Channels whose gain is below this share of the root mean square gain are left alone: they hardly reach the stream."""


@torch.no_grad()
def before_norm(
    norm: nn.Module, m: Float[Tensor, "d_model n"], gain: Float[Tensor, "d_model n"]
) -> Float[Tensor, "d_model n"]:
    """What m must gain so that N(m), up to its length, which nothing changes, gains `gain`.

    Returns m′ − m with m′ ∥ (N(m) + gain) / g and ‖m′‖ = ‖m‖. If some m′ gives the gain exactly, so does this one; what
    several layers share, and what lies beyond the norm's reach, is met in direction.
    """
    g = _through(norm, torch.ones_like(m[:, :1]).T)[0, :, None].to(
        m
    )  # N of ones, of root mean square 1, is g
    faint = g.abs() < FAINT * g.square().mean().sqrt()
    rms = m.norm(dim=0) / len(m) ** 0.5
    wanted = m / rms + torch.where(faint, 0.0, gain / g)
    return wanted * (m.norm(dim=0) / wanted.norm(dim=0)) - m


@dataclass(frozen=True)
class Site:
    """Where δ is added: to the residual stream, or to the MLP's output before its norm.

    Attributes:
        m: MLP's output where there is a norm, (rows, d_model).
    """

    norm: nn.Module | None
    m: Tensor | None

    def __getitem__(self, rows: Tensor) -> "Site":
        return self if self.norm is None else Site(self.norm, self.m[rows])

    def gain(self, delta: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_model"]:
        """What the residual stream gains by δ."""
        return (
            delta
            if self.norm is None
            else _through(self.norm, self.m + delta) - _through(self.norm, self.m)
        )


def _through(norm: nn.Module, x: Tensor) -> Tensor:
    """N(x), computed where the norm is."""
    return norm(x.to(next(norm.parameters()).device)).to(x.device)
