"""Slow, literal transcriptions of the papers' equations in float64, one request at a time; none uses `seqedit.algebra`.

Keys, residuals and values are lists of vectors, one per request: k_i (d_ff,), r_i = v*_i − W k_i (d_model,).
"""

import torch
from torch import Tensor


def columns(A: Tensor) -> list[Tensor]:
    """The columns of a matrix as vectors."""
    return [A[:, i].double() for i in range(A.shape[1])]


def outer_sum(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Σ_i l_i r_iᵀ."""
    return sum(torch.outer(a, b) for a, b in zip(left, right, strict=True))


def rome(k: Tensor, r: Tensor, C: Tensor) -> Tensor:
    """ROME (2202.05262) eq. 2: Ŵ = W + Λ(C⁻¹k*)ᵀ, Λ = (v* − Wk*) / ((C⁻¹k*)ᵀk*)."""
    u = torch.linalg.inv(C) @ k
    return torch.outer(r / (u @ k), u)


def rome_released(averaged: Tensor, bare: Tensor, r: Tensor, C: Tensor) -> Tensor:
    """ROME's code: the left vector u is C⁻¹k̄, normalised; the right one is r / (k · u), k the bare prompt's key."""
    u = torch.linalg.inv(C) @ averaged
    u = u / u.norm()
    return torch.outer(r / (bare @ u), u)


def memit(keys: list[Tensor], residuals: list[Tensor], lam: float, C: Tensor) -> Tensor:
    """MEMIT (2210.07229) eq. 14: Δ = R Kᵀ (C₀ + K Kᵀ)⁻¹ with C₀ = λ C, sums written over requests."""
    return outer_sum(residuals, keys) @ torch.linalg.inv(lam * C + outer_sum(keys, keys))


def memit_seq(keys: list[Tensor], residuals: list[Tensor], lam: float, C: Tensor, past: list[Tensor]) -> Tensor:
    """AlphaEdit (2410.02355) eq. 15, MEMIT with the keys of earlier edits: Δ = R Kᵀ (C₀ + K_pK_pᵀ + K Kᵀ)⁻¹."""
    system = lam * C + outer_sum(keys, keys)
    for k in past:
        system = system + torch.outer(k, k)
    return outer_sum(residuals, keys) @ torch.linalg.inv(system)


def emmet(keys: list[Tensor], residuals: list[Tensor], C: Tensor, ridge: float = 0.0) -> Tensor:
    """EMMET (2403.14236) eq. 9: Δ = R (KᵀC⁻¹K + εI)⁻¹ Kᵀ C⁻¹, with its ridge ε on the n × n system."""
    inverse = torch.linalg.inv(C)
    gram = torch.stack([torch.stack([a @ inverse @ b for b in keys]) for a in keys])
    gain = torch.linalg.inv(gram + ridge * torch.eye(len(keys), dtype=gram.dtype)) @ torch.stack(keys) @ inverse
    return torch.stack(residuals, dim=1) @ gain


def projection(C: Tensor, threshold: float) -> Tensor:
    """AlphaEdit's P = ÛÛᵀ, from the singular vectors of C with singular value below the threshold."""
    U, values, _ = torch.linalg.svd(C.double())
    kept = [U[:, i] for i in range(len(values)) if values[i] < threshold]
    return outer_sum(kept, kept)


def alphaedit(keys: list[Tensor], residuals: list[Tensor], P: Tensor, l2: float, past: list[Tensor]) -> Tensor:
    """AlphaEdit as released: [P(K Kᵀ + K_pK_pᵀ) + L2·I] X = P K Rᵀ, Δ = Xᵀ; dense and not symmetric."""
    seen = outer_sum(keys + past, keys + past)
    system = P @ seen + l2 * torch.eye(len(P), dtype=P.dtype)
    return torch.linalg.solve(system, P @ outer_sum(keys, residuals)).T


def joint_ridge(keys: list[Tensor], residuals: list[Tensor], metric: Tensor, P: Tensor) -> Tensor:
    """argmin over Δ = ΔP of Σ ‖Δk_i − r_i‖² + tr(ΔMΔᵀ), by the normal equations of Δ's rows in vectors of P's range."""
    values, vectors = torch.linalg.eigh(P)
    N = vectors[:, values > 0.5]
    system = N.T @ (outer_sum(keys, keys) + metric) @ N
    return outer_sum(residuals, keys) @ N @ torch.linalg.inv(system) @ N.T
