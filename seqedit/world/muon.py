"""Muon (Jordan et al. 2024): momentum whose matrix updates are orthogonalised by a Newton–Schulz iteration.

`torch.optim.Muon` runs the iteration in bfloat16 only, which is slow on CPUs without bfloat16 units and
depends on the machine; this one runs it in float32.
"""

import torch
from torch import Tensor


def orthogonalise(G: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix to G, roughly: singular values land in about [0.7, 1.2].

    Source: Jordan et al., "Muon" (2024), quintic iteration with coefficients 3.4445, −4.7750, 2.0315.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = G.shape[0] <= G.shape[1]
    X = (G if wide else G.T) / (G.norm() + 1e-7)
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X if wide else X.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for matrices; decoupled weight decay.

    Args:
        params: two-dimensional parameters.
        lr: step; an update has spectral norm about lr·√max(1, rows/columns).
        momentum: decay of the gradient average.
        weight_decay: fraction of the weight removed per unit of lr.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonalise(weight.grad.lerp(average, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = weight.shape
                weight.add_(direction, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
