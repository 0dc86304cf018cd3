"""What differs between two models of one architecture: which tensors, and how the matrices among them changed."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from ..algebra.diagnostics import condition_number, spectrum
from ..algebra.low_rank import round_off
from ..lm.model import LanguageModel

WRITES = 1000
"""Additions in float32 whose round-off a difference may hold without counting for its rank."""


@dataclass(frozen=True)
class Difference:
    """A tensor that differs, B − A; only matrices have spectral figures.

    Attributes:
        name: of the parameter; shape: as stored.
        norm: ‖B − A‖; relative: ‖B − A‖ / ‖A‖.
        rank: numerical rank of B − A.
        sigma_max: its largest singular value.
        condition_a, condition_b: κ(A) and κ(B).
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    relative: float
    rank: int | None = None
    sigma_max: float | None = None
    condition_a: float | None = None
    condition_b: float | None = None


def compare(a: LanguageModel, b: LanguageModel) -> list[Difference]:
    """The parameters in which two models differ, in the model's order.

    Raises:
        ValueError: their parameters differ in name or shape.
    """
    left, right = (dict(lm.model.named_parameters()) for lm in (a, b))
    shapes = [
        {name: tuple(parameter.shape) for name, parameter in side.items()} for side in (left, right)
    ]
    if shapes[0] != shapes[1]:
        name = next(n for n in (shapes[0] | shapes[1]) if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(
            f"diff: the models are of different kinds: {name} is {shapes[0].get(name, 'absent')} in the "
            f"first and {shapes[1].get(name, 'absent')} in the second"
        )
    return [
        difference(name, left[name].detach(), right[name].detach())
        for name in left
        if not torch.equal(left[name], right[name].to(left[name]))
    ]


def difference(name: str, A: Tensor, B: Tensor) -> Difference:
    """How one parameter changed; products and spectra in float64."""
    A, B = A.double(), B.double().to(A.device)
    norm = (B - A).norm().item()
    told = Difference(
        name, tuple(A.shape), norm, norm / A.norm().item() if A.norm() > 0 else float("inf")
    )
    if A.dim() != 2:
        return told
    values = spectrum(B - A)
    return Difference(
        name,
        told.shape,
        norm,
        told.relative,
        int((values > round_off(B, WRITES)).sum()),
        values[0].item(),
        condition_number(A),
        condition_number(B),
    )


def table(found: list[Difference]) -> str:
    """The differences as text."""
    rows = pd.DataFrame([one.__dict__ for one in found]).drop(columns="shape")
    return rows.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–")
