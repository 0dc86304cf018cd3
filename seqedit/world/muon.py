"""Muon (Jordan et al. 2024): momentum whose matrix updates are orthogonalised by an iteration.

`torch.optim.Muon` runs the Newton–Schulz iteration in bfloat16 only, which is slow on CPUs without
bfloat16 units and depends on the machine. This implementation runs it in float32.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def orthogonalise(
    G: Float[Tensor, "rows columns"], steps: int = 5
) -> Float[Tensor, "rows columns"]:
    """Return roughly the semi-orthogonal matrix nearest to G.

    Its singular values are in about [0.7, 1.2].

    Source:
        Jordan et al., "Muon" (2024), quintic iteration with coefficients 3.4445, −4.7750, 2.0315.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = G.shape[0] <= G.shape[1]
    X = (G if wide else G.T) / (G.norm() + 1e-7)
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X if wide else X.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates, for matrices; decoupled weight decay.

    Args:
        params: two-dimensional parameters.
        lr: step size; an update has spectral norm about lr·√max(1, rows/columns).
        momentum: decay of the running average of gradients.
        weight_decay: fraction of the weight removed per unit of lr.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures here
        """Take one step along the gradients in `grad`."""
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonalise(weight.grad.lerp(average, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = weight.shape
                weight.add_(direction, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
