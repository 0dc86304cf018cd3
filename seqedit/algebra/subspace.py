"""Directions of key space that an update may use."""

import torch
from jaxtyping import Float
from torch import Tensor


def null_space(C: Float[Tensor, "d_ff d_ff"], threshold: float) -> Float[Tensor, "d_ff r"]:
    """The directions that preserved keys hardly use: eigenvectors of C with eigenvalue below `threshold`.

    Args:
        C: second moment of preserved keys, mean of k kᵀ per token, activations squared.
        threshold: τ, in the units of C. Not scale-free: it must fit the model's activations.

    Returns:
        Orthonormal columns B (float64), so that P = BBᵀ is AlphaEdit's projection and
        tr(ΔCΔᵀ) ≤ τ‖Δ‖² for every Δ with rows in its span.

    Raises:
        ValueError: no eigenvalue is below the threshold; the message gives the smallest one.

    Source:
        AlphaEdit (2410.02355) §3.2. The released code takes singular vectors of C, which are the same for a
        symmetric positive semi-definite matrix; a symmetric eigensolver is faster and needs no sign convention.
    """
    eigenvalues, vectors = torch.linalg.eigh(C.double())
    chosen = eigenvalues < threshold
    if not chosen.any():
        raise ValueError(f"no direction of key space has a second moment below threshold = {threshold:g}; the smallest "
                         f"eigenvalue of C is {eigenvalues[0].item():.3g}: raise the threshold above it")
    return vectors[:, chosen]
