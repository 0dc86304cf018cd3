"""Families whose MLP output passes a norm before it joins the residual stream.

A block of these families adds N(m) to the residual stream, where m = Wk is the MLP's output and
N(m) = g ⊙ m / rms(m). The norm fixes the length of N(m), so an edit of W cannot write every change
of the residual stream. Targets are therefore moved at m, where every change can be written
(`target_problem`), and the change that the residual stream should see is translated here into a
change of m.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

FAINT = 0.01
"""A channel is left alone if its gain is, in absolute value, below this share of the root mean
square gain: what is added to m there hardly reaches the residual stream.
"""


@torch.no_grad()
def before_norm(
    norm: nn.Module, m: Float[Tensor, "d_model n"], gain: Float[Tensor, "d_model n"]
) -> Float[Tensor, "d_model n"]:
    """Return the change of m that makes N(m) change by `gain`, up to the length of N(m).

    The result is m′ − m with m′ ∥ (N(m) + gain) / g and ‖m′‖ = ‖m‖. If some m′ produces the gain
    exactly, this one does. Otherwise, as when the gain is shared among layers or beyond the norm's
    reach, N(m′) has the direction of N(m) + gain.

    Args:
        norm: N, a norm without bias.
        m: outputs of the MLP, one per column.
        gain: what is to be added to the residual stream, one column for each of `m`.
    """
    ones = torch.ones_like(m[:, :1]).T  # (1, d_model), of root mean square 1, so that N(ones) = g
    g = _apply(norm, ones)[0, :, None].to(m)  # (d_model, 1)
    faint = g.abs() < FAINT * g.square().mean().sqrt()
    rms = m.norm(dim=0) / len(m) ** 0.5  # (n,)
    wanted = m / rms + torch.where(faint, 0.0, gain / g)  # ∥ m′, (d_model, n)
    return wanted * (m.norm(dim=0) / wanted.norm(dim=0)) - m


@dataclass(frozen=True)
class Injection:
    """Where δ is added: to the residual stream, or to the MLP's output where a norm follows it.

    Attributes:
        norm: the norm behind the MLP, None where there is none.
        m: the MLP's output before δ, needed with a norm only.
    """

    norm: nn.Module | None
    m: Float[Tensor, "rows d_model"] | None

    def select(self, chosen: Shaped[Tensor, "_"]) -> "Injection":
        """The rows that an index or a mask over rows chooses."""
        return Injection(self.norm, None if self.m is None else self.m[chosen])

    def gain(self, delta: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_model"]:
        """Return what the residual stream gains by δ."""
        if self.norm is None or self.m is None:
            return delta
        return _apply(self.norm, self.m + delta) - _apply(self.norm, self.m)


def _apply(norm: nn.Module, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """N(x), computed on the norm's device and returned on that of x."""
    return norm(x.to(next(norm.parameters()).device)).to(x.device)
