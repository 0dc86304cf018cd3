"""The precision in which results leave a model."""

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert half precision to float32; leave float32 and float64 as they are.

    A float64 model is therefore edited in float64.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
