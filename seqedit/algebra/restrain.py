"""Restraints: what may be done to an update after it was solved for."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Mode = Literal["log", "linear", "clip", "scale_free"]


def keep_largest_relative(
    W: Float[Tensor, "d_model d_ff"], update: Float[Tensor, "d_model d_ff"], share: float = 0.4
) -> Float[Tensor, "d_model d_ff"]:
    """RECT: the entries of Δ that are largest in proportion to W's; the others are zero.

    Args:
        W: the matrix before the update.
        share: of the entries that stay, those with the largest abs(Δ_ij) / abs(W_ij + 1e-8).

    Source:
        RECT (2401.04700) §4 with the rule and the constant of AlphaEdit's released variant.
    """
    check_share("share", share)
    ratio = (update / (W + 1e-8)).abs().flatten()
    rank = int((1 - share) * ratio.numel())  # of the smallest ratio that stays
    if rank == 0:
        return update
    return torch.where(ratio.reshape(update.shape) >= ratio.kthvalue(rank).values, update, 0)


def restrain_spectrum(
    values: Float[Tensor, "k"], limit: float, alpha: float = math.e, mode: Mode = "log"
) -> Float[Tensor, "k"]:
    """PRUNE's F on singular values: those up to `limit` stay, larger ones are compressed.

    * "log": log_α σ − log_α s + s for σ > s = `limit`. Continuous and increasing, with slope 1/(σ ln α) above s, so
      that it *enlarges* values just above s when s < 1/ln α.
    * "linear": (σ + s)/2. * "clip": s. * "scale_free": s(1 + log_α(σ/s)), for which F(cσ, cs) = cF(σ, s).

    Source:
        PRUNE (2405.16821) §4 and the options of its released code; "clip" and "scale_free" are ours.
    """
    check_alpha(alpha)
    if limit <= 0:
        raise ValueError(f"limit is {limit:g}; it must be positive, σ_max(W₀)")
    if mode not in Mode.__args__:
        raise ValueError(f"mode is {mode!r}; known are {', '.join(Mode.__args__)}")
    excess = (values.clamp(min=limit) / limit).log() / math.log(alpha)  # log_α(σ/s), 0 up to s
    large = {
        "log": limit + excess,
        "linear": (values + limit) / 2,
        "clip": torch.full_like(values, limit),
        "scale_free": limit * (1 + excess),
    }[mode]
    return torch.where(values > limit, large, values)


def compress(
    W0: Float[Tensor, "d_model d_ff"],
    update: Float[Tensor, "d_model d_ff"],
    alpha: float = math.e,
    mode: Mode = "log",
) -> Float[Tensor, "d_model d_ff"]:
    """PRUNE: Δ with its singular values restrained by σ_max(W₀), its singular vectors kept.

    Source: PRUNE (2405.16821) §4; the thin SVD replaces the full one of the released code.
    """
    U, values, Vh = torch.linalg.svd(update.double(), full_matrices=False)
    limit = torch.linalg.matrix_norm(W0.double(), ord=2).item()
    return ((U * restrain_spectrum(values, limit, alpha, mode)) @ Vh).to(update)


def outside_top_subspaces(
    W0: Float[Tensor, "d_model d_ff"], update: Float[Tensor, "d_model d_ff"], share: float = 0.9
) -> Float[Tensor, "d_model d_ff"]:
    """REVIVE: Δ without its part in the leading singular subspaces of W₀, on both sides.

    Args:
        share: the leading subspaces hold the fewest singular values whose sum exceeds this share of the total.

    Source: REVIVE (2601.11042), known to us from secondary sources only.
    """
    check_share("share", share)
    U, values, Vh = torch.linalg.svd(W0.double(), full_matrices=False)
    k = int((values.cumsum(0) <= share * values.sum()).sum()) + 1
    U, V = U[:, :k], Vh[:k].T
    left = update.double() - U @ (U.T @ update.double())
    return (left - (left @ V) @ V.T).to(update)


def damp_principal_directions(
    W: Float[Tensor, "d_model d_ff"],
    update: Float[Tensor, "d_model d_ff"],
    share: float = 0.5,
    strength: float = 0.5,
) -> Float[Tensor, "d_model d_ff"]:
    """SPHERE: Δ(I − αUUᵀ), U the principal directions of the matrix's normalised rows.

    Args:
        share: η, of the trace of ŴᵀŴ that the principal directions hold, at least.
        strength: α; 1 removes them.

    Source: SPHERE (2510.01172); EasyEdit's form, which damps the other side for GPT-2's transposed layout.
    """
    check_share("share", share)
    rows = W.double() / W.double().norm(dim=1, keepdim=True)
    _, values, Vh = torch.linalg.svd(rows, full_matrices=False)
    energy = values**2
    U = Vh[: int((energy.cumsum(0) < share * energy.sum()).sum()) + 1].T  # (d_ff, k)
    return (update.double() - strength * (update.double() @ U) @ U.T).to(update)


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless `value` can be a share."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value:g}; it must lie between 0 and 1")


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless `alpha` can be the base of a logarithm that grows."""
    if not alpha > 1:
        raise ValueError(f"alpha is {alpha:g}; it must exceed 1")
