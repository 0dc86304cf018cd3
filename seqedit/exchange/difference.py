"""Differences between two models of one architecture, tensor by tensor."""

from dataclasses import asdict, dataclass, replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..algebra.diagnostics import condition_number, spectrum
from ..algebra.low_rank import round_off
from ..lm.model import LanguageModel

WRITES = 1000
"""Number of float32 additions whose round-off does not count towards the rank of a difference."""


@dataclass(frozen=True)
class Difference:
    """A parameter that differs between two models, A in the first and B in the second.

    The last four attributes are None unless the parameter is a matrix.

    Attributes:
        name: of the parameter.
        shape: as stored.
        norm: ‖B − A‖.
        relative: ‖B − A‖ / ‖A‖; infinite if A is 0.
        rank: numerical rank of B − A.
        sigma_max: largest singular value of B − A.
        condition_a: κ(A).
        condition_b: κ(B).
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    relative: float
    rank: int | None = None
    sigma_max: float | None = None
    condition_a: float | None = None
    condition_b: float | None = None


def compare_models(a: LanguageModel, b: LanguageModel) -> list[Difference]:
    """Find the parameters in which two models differ, in the model's order.

    Raises:
        ValueError: the models' parameters differ in name or shape.
    """
    left, right = dict(a.model.named_parameters()), dict(b.model.named_parameters())
    for name in left | right:
        shapes = [tuple(side[name].shape) if name in side else "absent" for side in (left, right)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"diff: the models are of different kinds: {name} is {shapes[0]} in the "
                f"first and {shapes[1]} in the second"
            )
    return [
        difference(name, left[name].detach(), right[name].detach())
        for name in left
        if not torch.equal(left[name], right[name].to(left[name]))
    ]


def difference(name: str, A: Float[Tensor, "*shape"], B: Float[Tensor, "*shape"]) -> Difference:
    """Measure how one parameter differs, in float64.

    Args:
        name: of the parameter.
        A: its value in the first model, of any shape.
        B: its value in the second model, of the same shape.
    """
    A, B = A.double(), B.double().to(A.device)
    norm, size = (B - A).norm().item(), A.norm().item()
    found = Difference(name, tuple(A.shape), norm, norm / size if size > 0 else float("inf"))
    if A.dim() != 2:
        return found
    values = spectrum(B - A)
    return replace(
        found,
        rank=int((values > round_off(B, WRITES)).sum()),
        sigma_max=values[0].item(),
        condition_a=condition_number(A),
        condition_b=condition_number(B),
    )


def differences_text(found: list[Difference]) -> str:
    """Format differences as a table of text."""
    rows = pd.DataFrame([asdict(one) for one in found]).drop(columns="shape")
    return rows.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–")
