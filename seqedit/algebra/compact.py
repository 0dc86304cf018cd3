"""A second moment stored as its largest eigenvalues and their eigenvectors.

The eigenvalues below a floor are replaced by their mean.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class CompactMoment:
    """C ≈ V diag(λ) Vᵀ + rest · (I − VVᵀ), exact in the directions that are kept.

    For a threshold τ at or above the floor, the null space equals that of C: it is the orthogonal
    complement of the eigenvectors with eigenvalues of at least τ.

    Attributes:
        values: the eigenvalues λ that are kept, descending, all at least `floor`; (k,).
        vectors: their eigenvectors V as orthonormal columns; (d_ff, k).
        rest: mean of the eigenvalues below the floor, 0 if there are none; a scalar tensor.
        floor: the smallest eigenvalue that is kept; a scalar tensor in the units of C.
    """

    values: Float[Tensor, "k"]
    vectors: Float[Tensor, "d_ff k"]
    rest: Float[Tensor, ""]
    floor: Float[Tensor, ""]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of C, (d_ff, d_ff)."""
        return len(self.vectors), len(self.vectors)

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors by attribute name, as they are saved."""
        return {
            "values": self.values,
            "vectors": self.vectors,
            "rest": self.rest,
            "floor": self.floor,
        }

    def to(self, where: torch.device | str | torch.dtype) -> "CompactMoment":
        """A copy with all tensors on a device or in a dtype, as `Tensor.to`."""
        return replace(self, **{name: tensor.to(where) for name, tensor in self.tensors().items()})

    def isfinite(self) -> Bool[Tensor, "entries"]:
        """Whether each entry of the four tensors is finite, flattened into one vector."""
        return torch.cat([tensor.isfinite().flatten() for tensor in self.tensors().values()])

    def drift(self, update: Float[Tensor, "d_model d_ff"]) -> float:
        """tr(ΔCΔᵀ), with the mean in place of each eigenvalue below the floor."""
        delta = update.double()
        seen = (delta @ self.vectors.double()).square().sum(0)  # ‖Δv‖² of each v, (k,)
        kept = seen @ self.values.double()
        return (kept + self.rest.double() * (delta.square().sum() - seen.sum())).item()


def compacted(C: Float[Tensor, "d_ff d_ff"], floor: float) -> CompactMoment:
    """Compute the compact form of C: its eigenvalues from `floor` up and the mean of the others.

    Args:
        C: second moment, symmetric positive semi-definite.
        floor: in the units of C; the smallest threshold τ that can be used with the result.

    Returns:
        The compact form in float64.

    Raises:
        ValueError: the floor is not positive.
    """
    if not floor > 0:
        raise ValueError(
            f"floor is {floor:g}; it must be positive, the smallest threshold τ that is to be used"
        )
    values, vectors = torch.linalg.eigh(C.double())
    cut = int((values < floor).sum())  # eigenvalues ascend
    rest = values[:cut].mean() if cut else values.new_zeros(())
    return CompactMoment(
        values[cut:].flip(0), vectors[:, cut:].flip(1), rest, torch.tensor(floor).to(values)
    )


def whole(C: Float[Tensor, "d_ff d_ff"] | CompactMoment) -> Float[Tensor, "d_ff d_ff"]:
    """Return C unchanged; for computations that need every direction of it.

    Raises:
        ValueError: C is compact.
    """
    if isinstance(C, Tensor):
        return C
    raise ValueError(
        f"moments: they are compact, without the eigenvalues below {C.floor.item():g}, but this "
        "method prices movement in every direction; give it the whole second moments (AlphaEdit "
        "and other methods that need only a null space accept compact ones)"
    )
