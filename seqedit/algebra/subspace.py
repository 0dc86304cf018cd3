"""Subspaces of key space to which an update can be confined."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .compact import CompactMoment
from .restrain import check_share

LARGEST_REMEMBERED = 2048
"""The largest d_ff whose eigenpairs are remembered: 34 MB each in float64."""


@dataclass(frozen=True)
class Subspace:
    """A subspace of key space, stored by a basis of it or of its orthogonal complement.

    Functions that make a subspace store the basis with fewer columns.

    Attributes:
        vectors: orthonormal columns, (d_ff, k), float64.
        complement: whether `vectors` span the orthogonal complement instead of the subspace.
    """

    vectors: Float[Tensor, "d_ff k"]
    complement: bool

    def project(self, Y: Float[Tensor, "d_ff n"]) -> Float[Tensor, "d_ff n"]:
        """PY, the nearest points of the subspace, in float64; it costs d_ff · k per column."""
        inside = self.vectors @ (self.vectors.T @ Y.double())
        return Y.double() - inside if self.complement else inside

    @cached_property
    def basis(self) -> Float[Tensor, "d_ff r"]:
        """Orthonormal columns B that span the subspace, so that P = BBᵀ; float64."""
        if not self.complement:
            return self.vectors
        return torch.linalg.qr(self.vectors, mode="complete").Q[:, self.vectors.shape[1] :]


def null_space(C: Float[Tensor, "d_ff d_ff"] | CompactMoment, threshold: float) -> Subspace:
    """The directions that preserved keys hardly use: eigenvectors of C with eigenvalue below τ.

    Args:
        C: second moment of preserved keys, the mean of k kᵀ over tokens, in activations squared; or
            its compact form.
        threshold: τ, in the units of C. It is not scale-free: it has to fit the model's
            activations.

    Returns:
        The subspace whose projection P is AlphaEdit's. Every Δ with rows in it has
        tr(ΔCΔᵀ) ≤ τ‖Δ‖².

    Raises:
        ValueError: no eigenvalue is below the threshold (the message gives the smallest one), or
            the threshold is below the floor of a compact moment.

    Source:
        AlphaEdit (2410.02355) §3.2. The released code uses singular vectors of C. They are the same
        for a symmetric positive semi-definite matrix, but a symmetric eigensolver is faster and
        needs no sign convention.
    """
    if isinstance(C, CompactMoment):
        return _compact_null_space(C, threshold)
    eigenvalues, vectors = eigenpairs(C)
    kept = int((eigenvalues < threshold).sum())  # eigenvalues ascend
    if not kept:
        raise ValueError(
            f"no direction of key space has a second moment below threshold = {threshold:g}; the "
            f"smallest eigenvalue of C is {eigenvalues[0].item():.3g}: raise the threshold above it"
        )
    complement = 2 * kept > len(C)
    return Subspace((vectors[:, kept:] if complement else vectors[:, :kept]).clone(), complement)


def eigenpairs(
    C: Float[Tensor, "d_ff d_ff"],
) -> tuple[Float[Tensor, " d_ff"], Float[Tensor, "d_ff d_ff"]]:
    """Eigenvalues, ascending, and eigenvectors (columns) of a second moment, in float64.

    Those of the last few matrices up to `LARGEST_REMEMBERED` are remembered, by content: every
    writer that projects asks for the same ones. They are shared: do not change them in place.
    """
    if len(C) > LARGEST_REMEMBERED:
        return torch.linalg.eigh(C.double())
    return _remembered_eigenpairs(_ByContent(C))


class _ByContent:
    """A matrix that equals another of the same content, type and device."""

    def __init__(self, matrix: Tensor) -> None:
        content = matrix.detach().contiguous().cpu().view(torch.uint8).numpy()
        self.matrix = matrix
        self.identity = (
            hashlib.sha256(content.tobytes()).digest(),
            matrix.shape,
            matrix.dtype,
            matrix.device,
            torch.get_num_threads(),  # another number may change the last bits
        )

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContent) and self.identity == other.identity


@lru_cache(maxsize=6)
def _remembered_eigenpairs(C: _ByContent) -> tuple[Tensor, Tensor]:
    return torch.linalg.eigh(C.matrix.double())


def _compact_null_space(C: CompactMoment, threshold: float) -> Subspace:
    """`null_space` of a compact moment: the complement of its eigenvectors with λ ≥ τ."""
    if threshold < C.floor:
        raise ValueError(
            f"threshold is {threshold:g}, but these compact second moments keep nothing below "
            f"{C.floor.item():g}: raise it, or make them anew with a lower --floor"
        )
    removed = int((C.values >= threshold).sum())  # eigenvalues descend
    if removed == len(C.vectors):
        raise ValueError(
            f"no direction of key space has a second moment below threshold = {threshold:g}; the "
            f"smallest eigenvalue of C is {C.values[-1].item():.3g}: raise the threshold above it"
        )
    return Subspace(C.vectors[:, :removed].double(), complement=True)


def top_neurons(K: Float[Tensor, "d_ff n"], mass: float) -> Int[Tensor, "chosen"]:
    """Indices of the fewest neurons that hold the share `mass` of all activation, largest first.

    The activation of a neuron is the sum of abs(k) over the keys. A neuron that no key uses is
    never chosen, so with ReLUs `mass` = 1 does not select all neurons.

    Args:
        K: keys, one per column.
        mass: the share, above 0 and up to 1.

    Raises:
        ValueError: `mass` is not a share.

    Source:
        NSE (2410.04045) §3.2. The released code stops at the last neuron with which the sum is
        still at or below the share: one neuron fewer.
    """
    check_share("mass", mass)
    score, order = K.double().abs().sum(dim=1).sort(descending=True)
    count = int((score.cumsum(0) < mass * score.sum() * (1 - 1e-12)).sum()) + 1
    return order[:count]
