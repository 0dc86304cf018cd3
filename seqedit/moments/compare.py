"""How far second moments from one text are from those of another."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..algebra.compact import whole
from ..algebra.subspace import null_space
from .files import check_finite, load_moments


@dataclass(frozen=True)
class Difference:
    """How the second moment of a text differs from that of a reference, in one layer.

    Attributes:
        error: ‖C − C'‖ / ‖C'‖, Frobenius, C' the reference.
        scale: tr C / tr C': 1 if keys are as long on average.
        directions: dimension of the null space of C at a threshold.
        reference_directions: that of C'.
        overlap: share of the smaller of the two null spaces that lies in the other: 1 if it is
            inside, `chance` if the two have nothing to do with each other.
        chance: the larger of the two dimensions, as a share of the whole space.
    """

    error: float
    scale: float
    directions: int
    reference_directions: int
    overlap: float
    chance: float


def compare_moments(
    C: Float[Tensor, "d_ff d_ff"], reference: Float[Tensor, "d_ff d_ff"], threshold: float
) -> Difference:
    """Compare a second moment with a reference, as matrices and by their null spaces.

    Args:
        C: second moment of keys over a text.
        reference: second moment over another text, taken for the truth.
        threshold: τ of the null spaces, see `null_space`.

    Raises:
        ValueError: one of them has no eigenvalue below the threshold.
    """
    C, reference = C.double(), reference.double()
    mine, theirs = (null_space(moment, threshold).basis for moment in (C, reference))
    smaller, larger = sorted((mine.shape[1], theirs.shape[1]))
    return Difference(
        error=float((C - reference).norm() / reference.norm()),
        scale=float(C.trace() / reference.trace()),
        directions=mine.shape[1],
        reference_directions=theirs.shape[1],
        overlap=float((mine.T @ theirs).square().sum() / smaller),
        chance=larger / len(C),
    )


def compare_files(path: Path, reference: Path, threshold: float) -> pd.DataFrame:
    """Compare the layers that two files of second moments share; one row for each.

    Raises:
        ValueError: a file is not readable, they are of different models, or share no layer.
    """
    mine, theirs = load_moments(path), load_moments(reference)
    if mine.fingerprint != theirs.fingerprint:
        raise ValueError(f"{path} and {reference} are of different models")
    for file, moments in ((path, mine), (reference, theirs)):
        check_finite(file, moments)
    layers = [layer for layer in mine.C if layer in theirs.C]
    if not layers:
        raise ValueError(f"{path} and {reference} share no layer")
    if any(mine.C[layer].shape != theirs.C[layer].shape for layer in layers):
        raise ValueError(f"{path} and {reference} are of models with other widths")
    rows = [
        {"layer": layer}
        | asdict(compare_moments(whole(mine.C[layer]), whole(theirs.C[layer]), threshold))
        for layer in layers
    ]
    return pd.DataFrame(rows).set_index("layer")
