"""Restraints: changes to an update after it was solved for (RECT, PRUNE, REVIVE, SPHERE)."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Mode = Literal["log", "linear", "clip", "scale_free"]
"""How PRUNE compresses singular values above the limit, see `restrain_spectrum`."""


def keep_largest_relative(
    W: Float[Tensor, "d_model d_ff"], update: Float[Tensor, "d_model d_ff"], share: float = 0.4
) -> Float[Tensor, "d_model d_ff"]:
    """RECT: keep the entries of Δ that are largest relative to those of W, set the others to 0.

    Args:
        W: the matrix before the update.
        update: Δ.
        share: share of the entries that are kept, those with the largest
            abs(Δ_ij) / abs(W_ij + 1e-8); above 0 and up to 1.

    Raises:
        ValueError: `share` is not a share.

    Source:
        RECT (2401.04700) §4, with the rule and the constant of AlphaEdit's released variant.
    """
    check_share("share", share)
    ratio = (update / (W + 1e-8)).abs().flatten()
    rank = int((1 - share) * ratio.numel())  # rank of the smallest ratio that is kept
    if rank == 0:
        return update
    return torch.where(ratio.reshape(update.shape) >= ratio.kthvalue(rank).values, update, 0)


def restrain_spectrum(
    values: Float[Tensor, "k"], limit: float, alpha: float = math.e, mode: Mode = "log"
) -> Float[Tensor, "k"]:
    """PRUNE's F: keep singular values up to `limit` and compress larger ones.

    With s = `limit`, a value σ > s becomes

    * "log": log_α σ − log_α s + s. Continuous and increasing. The slope just above s is 1/(s ln α),
      so that values there are *enlarged* if s < 1/ln α.
    * "linear": (σ + s)/2.
    * "clip": s.
    * "scale_free": s(1 + log_α(σ/s)), for which F(cσ, cs) = cF(σ, s).

    Args:
        values: singular values σ.
        limit: s, positive; PRUNE takes σ_max(W₀).
        alpha: α > 1, the base of the logarithm.
        mode: which of the four forms.

    Raises:
        ValueError: `limit`, `alpha` or `mode` is out of range.

    Source:
        PRUNE (2405.16821) §4 and the options of its released code; "clip" and "scale_free" are
        ours.
    """
    check_alpha(alpha)
    if limit <= 0:
        raise ValueError(f"limit is {limit:g}; it must be positive, σ_max(W₀)")
    check_mode(mode)
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
    """PRUNE: compress the singular values of Δ above σ_max(W₀), keep its singular vectors.

    Args:
        W0: the matrix before any edit.
        update: Δ.
        alpha: see `restrain_spectrum`.
        mode: see `restrain_spectrum`.

    Raises:
        ValueError: W₀ is 0, or `alpha` or `mode` is out of range.

    Source:
        PRUNE (2405.16821) §4; the thin SVD replaces the full one of the released code.
    """
    U, values, Vh = torch.linalg.svd(update.double(), full_matrices=False)
    limit = torch.linalg.matrix_norm(W0.double(), ord=2).item()
    return ((U * restrain_spectrum(values, limit, alpha, mode)) @ Vh).to(update)


def outside_top_subspaces(
    W0: Float[Tensor, "d_model d_ff"], update: Float[Tensor, "d_model d_ff"], share: float = 0.9
) -> Float[Tensor, "d_model d_ff"]:
    """REVIVE: remove from Δ, on both sides, its part in the leading singular subspaces of W₀.

    Args:
        W0: the matrix before any edit.
        update: Δ.
        share: the leading subspaces belong to the fewest singular values whose sum exceeds this
            share of the total; above 0 and up to 1.

    Raises:
        ValueError: `share` is not a share.

    Source:
        REVIVE (2601.11042), known to us from secondary sources only.
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
    """SPHERE: Δ(I − αUUᵀ), where U are the principal directions of the normalised rows Ŵ of W.

    Args:
        W: the matrix before the update.
        update: Δ.
        share: η; the principal directions are the fewest that hold this share of the trace of ŴᵀŴ.
        strength: α; 1 removes the principal directions from the rows of Δ.

    Raises:
        ValueError: `share` is not a share.

    Source:
        SPHERE (2510.01172) in EasyEdit's form, which for GPT-2's transposed layout damps the other
        side.
    """
    check_share("share", share)
    rows = W.double() / W.double().norm(dim=1, keepdim=True)
    _, values, Vh = torch.linalg.svd(rows, full_matrices=False)
    energy = values**2
    U = Vh[: int((energy.cumsum(0) < share * energy.sum()).sum()) + 1].T  # (d_ff, k)
    return (update.double() - strength * (update.double() @ U) @ U.T).to(update)


def check_share(name: str, value: float) -> None:
    """Check that a parameter is a share.

    Args:
        name: of the parameter, for the message.
        value: must be above 0 and at most 1.

    Raises:
        ValueError: it is not.
    """
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value:g}; it must lie between 0 and 1")


def check_mode(mode: str) -> Mode:
    """The name of a way to compress a spectrum.

    Raises:
        ValueError: there is no such way.
    """
    for known in get_args(Mode):
        if mode == known:
            return known
    raise ValueError(f"mode is {mode!r}; known are {', '.join(get_args(Mode))}")


def check_alpha(alpha: float) -> None:
    """Check that alpha is the base of an increasing logarithm.

    Raises:
        ValueError: alpha is not above 1.
    """
    if not alpha > 1:
        raise ValueError(f"alpha is {alpha:g}; it must exceed 1")
