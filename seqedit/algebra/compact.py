"""A second moment by its largest eigenvalues and their vectors; what lies below a floor, by its mean alone."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class CompactMoment:
    """C ≈ V diag(λ) Vᵀ + rest · (I − VVᵀ), exact in the directions that are kept.

    A null space with τ at or above the floor is that of C: it is what the eigenvectors above τ leave.

    Attributes:
        values: eigenvalues λ that are kept, descending, all at least `floor`; (k,).
        vectors: their eigenvectors V, orthonormal columns; (d_ff, k).
        rest: mean of the eigenvalues below the floor; a scalar tensor.
        floor: see `compacted`; a scalar tensor.
    """

    values: Float[Tensor, "k"]
    vectors: Float[Tensor, "d_ff k"]
    rest: Float[Tensor, ""]
    floor: Float[Tensor, ""]

    @property
    def shape(self) -> tuple[int, int]:
        """That of C."""
        return 2 * (len(self.vectors),)

    def tensors(self) -> dict[str, Tensor]:
        return {
            "values": self.values,
            "vectors": self.vectors,
            "rest": self.rest,
            "floor": self.floor,
        }

    def to(self, where: torch.device | str | torch.dtype) -> "CompactMoment":
        return replace(self, **{name: tensor.to(where) for name, tensor in self.tensors().items()})

    def isfinite(self) -> Tensor:
        return torch.cat([tensor.isfinite().flatten() for tensor in self.tensors().values()])

    def drift(self, update: Float[Tensor, "d_model d_ff"]) -> float:
        """tr(ΔCΔᵀ), with the mean in place of each eigenvalue below the floor."""
        delta = update.double()
        seen = (delta @ self.vectors.double()).square().sum(0)  # ‖Δv‖² of each v, (k,)
        return (
            seen @ self.values.double() + self.rest.double() * (delta.square().sum() - seen.sum())
        ).item()

    def __mul__(self, factor: float) -> Tensor:
        """Raises ValueError: a price λC moves in every direction, also in those that are no longer known."""
        return whole(self)

    __rmul__ = __mul__


def compacted(C: Float[Tensor, "d_ff d_ff"], floor: float) -> CompactMoment:
    """The compact form of C: eigenvalues from `floor` on, the others' mean.

    Args:
        floor: in the units of C; the smallest τ that can still be asked for.

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


def whole(C: Tensor | CompactMoment) -> Tensor:
    """C itself, for what needs every direction of it.

    Raises:
        ValueError: it is compact.
    """
    if isinstance(C, Tensor):
        return C
    raise ValueError(
        f"moments: they are compact, without the eigenvalues below {C.floor.item():g}, but this method "
        "prices movement in every direction; give it the whole second moments (AlphaEdit and others that "
        "need no more than a null space take compact ones)"
    )
