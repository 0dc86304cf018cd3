"""The precision in which results leave a model."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay, so that a float64 model is edited in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
