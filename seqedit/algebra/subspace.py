"""Directions of key space that an update may use."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from .compact import CompactMoment
from .restrain import check_share


@dataclass(frozen=True)
class Subspace:
    """A subspace of key space, held by the thinner of two sets of orthonormal columns.

    Attributes:
        vectors: columns that span the subspace, or what is orthogonal to it; (d_ff, k), float64.
        complement: whether they span what is orthogonal to it.
    """

    vectors: Float[Tensor, "d_ff k"]
    complement: bool

    def project(self, Y: Float[Tensor, "d_ff n"]) -> Float[Tensor, "d_ff n"]:
        """PY, the nearest point of the subspace, at a cost of d_ff · k per column."""
        inside = self.vectors @ (self.vectors.T @ Y.double())
        return Y.double() - inside if self.complement else inside

    @cached_property
    def basis(self) -> Float[Tensor, "d_ff r"]:
        """Orthonormal columns B that span the subspace: P = BBᵀ."""
        if not self.complement:
            return self.vectors
        return torch.linalg.qr(self.vectors, mode="complete").Q[:, self.vectors.shape[1] :]


def null_space(C: Float[Tensor, "d_ff d_ff"] | CompactMoment, threshold: float) -> Subspace:
    """The directions that preserved keys hardly use: eigenvectors of C with eigenvalue below `threshold`.

    Args:
        C: second moment of preserved keys, mean of k kᵀ per token, activations squared; or its compact form.
        threshold: τ, in the units of C. Not scale-free: it must fit the model's activations.

    Returns:
        The subspace whose projection P is AlphaEdit's, with tr(ΔCΔᵀ) ≤ τ‖Δ‖² for every Δ with rows in it.

    Raises:
        ValueError: no eigenvalue is below the threshold; the message gives the smallest one. Or the threshold is below
            the floor of a compact form.

    Source:
        AlphaEdit (2410.02355) §3.2. The released code takes singular vectors of C, which are the same for a
        symmetric positive semi-definite matrix; a symmetric eigensolver is faster and needs no sign convention.
    """
    if isinstance(C, CompactMoment):
        return _above(C, threshold)
    eigenvalues, vectors = torch.linalg.eigh(C.double())
    kept = int((eigenvalues < threshold).sum())  # eigenvalues ascend
    if not kept:
        raise ValueError(
            f"no direction of key space has a second moment below threshold = {threshold:g}; the smallest "
            f"eigenvalue of C is {eigenvalues[0].item():.3g}: raise the threshold above it"
        )
    complement = 2 * kept > len(C)
    return Subspace((vectors[:, kept:] if complement else vectors[:, :kept]).clone(), complement)


def _above(C: CompactMoment, threshold: float) -> Subspace:
    """`null_space` of a compact form: what the eigenvectors from the threshold on leave."""
    if threshold < C.floor:
        raise ValueError(
            f"threshold is {threshold:g}, but these compact second moments keep nothing below "
            f"{C.floor.item():g}: raise it, or make them anew with a lower --floor"
        )
    removed = int((C.values >= threshold).sum())  # eigenvalues descend
    if removed == len(C.vectors):
        raise ValueError(
            f"no direction of key space has a second moment below threshold = {threshold:g}; the smallest "
            f"eigenvalue of C is {C.values[-1].item():.3g}: raise the threshold above it"
        )
    return Subspace(C.vectors[:, :removed].double(), complement=True)


def top_neurons(K: Float[Tensor, "d_ff n"], mass: float) -> Tensor:
    """The fewest neurons whose summed abs(k) reaches the share `mass` of the total, largest first; indices.

    A neuron that no key uses is never among them: with ReLUs, `mass` = 1 is not all neurons.

    Source: NSE (2410.04045) §3.2. The released code stops at the last neuron with which the sum stays at or below the
    share: one fewer.
    """
    check_share("mass", mass)
    score, order = K.double().abs().sum(dim=1).sort(descending=True)
    count = int((score.cumsum(0) < mass * score.sum() * (1 - 1e-12)).sum()) + 1
    return order[:count]
