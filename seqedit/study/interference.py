"""Predicts from keys alone, before any residual is known, what a sequence of edits does, and which
of its own facts it breaks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata
from torch import Tensor

from ..algebra.diagnostics import drift
from ..algebra.solver import Solver


@dataclass(frozen=True)
class Reach:
    """What one round is expected to do if residuals have unit length and are uncorrelated between
    edits.

    Attributes:
        written: share of its own residual that an edit of the round gets, mean over its edits.
        drift: expected tr(ΔCΔᵀ).
        cost: expected ‖Δ‖²_F.
        probes: expected ‖Δk‖² at each probe key, (n,).
    """

    written: float
    drift: float
    cost: float
    probes: Float[Tensor, "n"]


def reaches(
    solver: Solver,
    rounds: Sequence[Float[Tensor, "d_ff b"]],
    C: Float[Tensor, "d_ff d_ff"],
    probes: Float[Tensor, "d_ff n"],
    *,
    remembers: bool,
) -> Iterator[Reach]:
    r"""Yield the reach of each round of a method whose updates are Δ = RA.

    A follows by `solver` from the keys of the round and, for a method with a history, those of
    earlier rounds. With uncorrelated residuals of mean square ρ², expectations are those of A times
    ρ²: E‖RAk‖² = ρ²‖Ak‖² and E tr(RACAᵀRᵀ) = ρ² tr(ACAᵀ). Rounds add up. Keys are taken as they are
    before the first edit.

    Args:
        solver: of the method, for one layer.
        rounds: keys of each round.
        C: second moment of preserved keys.
        probes: keys at which the interference is asked for.
        remembers: whether the method has a history of keys.
    """
    for i, K in enumerate(rounds):
        past = torch.cat(list(rounds[:i]), dim=1) if remembers and i else None
        A = solver.update(K, torch.eye(K.shape[1], dtype=torch.float64), past)  # (b, d_ff)
        yield Reach(
            (A @ K.double()).diag().mean().item(),
            drift(A, C),
            A.square().sum().item(),
            (A @ probes.double()).square().sum(dim=0),
        )


def later_reach(
    solver: Solver,
    rounds: Sequence[Float[Tensor, "d_ff b"]],
    C: Float[Tensor, "d_ff d_ff"],
    *,
    remembers: bool,
) -> Float[Tensor, "n"]:
    """How strongly the rounds after an edit reach its key, for every edit in order.

    For edit i of round s it is the root of the sum over t > s of the squared length of A_t k_i. For
    MEMIT, A_t k is K_tᵀM⁻¹k with M = λC + K_tK_tᵀ, the similarity of k to the keys of round t,
    whitened by M.

    Args:
        solver, rounds, C, remembers: as in `reaches`.
    """
    keys = torch.cat(list(rounds), dim=1)
    owner = torch.arange(len(rounds)).repeat_interleave(torch.tensor([K.shape[1] for K in rounds]))
    total = torch.zeros(keys.shape[1], dtype=torch.float64)
    for t, one in enumerate(reaches(solver, rounds, C, keys, remembers=remembers)):
        total += torch.where(owner < t, one.probes, 0.0)
    return total.sqrt()


@dataclass(frozen=True)
class Ranking:
    """How well a score ranks facts that broke above those that were kept.

    Attributes:
        auc: area under the ROC curve; 0.5 for a score that says nothing.
        low, high: ends of its 95 % interval.
    """

    auc: float
    low: float
    high: float


def rank_broken(scores: Float[NDArray, "n"], kept: Bool[NDArray, "n"], *, seed: int = 0) -> Ranking:
    """Area under the ROC curve of a score for facts that are no longer right at the end.

    Early facts meet more later edits than late ones, so that the age of a fact alone makes
    `later_reach` a predictor; `rank_broken_within` compares facts of the same round.

    Args:
        scores: the higher, the more likely to break.
        kept: whether the fact is still right. Facts that were never right belong in neither.
        seed: of the bootstrap, which resamples the broken and the kept facts each for themselves.

    Raises:
        ValueError: no fact broke, or none was kept.
    """
    kept = np.asarray(kept, dtype=bool)
    broken, others = np.asarray(scores, dtype=float)[~kept], np.asarray(scores, dtype=float)[kept]
    if not len(broken) or not len(others):
        raise ValueError(
            f"kept: {len(others)} of {len(kept)} facts are kept; a ranking needs some of both"
        )

    data = (broken, others)
    ends = bootstrap(
        data, _area, vectorized=True, n_resamples=1999, method="percentile", rng=seed
    ).confidence_interval
    return Ranking(float(_area(*data)), float(ends.low), float(ends.high))


def _area(
    broken: Float[NDArray, "*s b"], kept: Float[NDArray, "*s k"], axis: int = -1
) -> Float[NDArray, "*s"]:
    """Area under the ROC curve: the share of pairs ranked right, ties counting one half."""
    return np.asarray(_pairs_right(broken, kept, axis) / (broken.shape[axis] * kept.shape[axis]))


def _pairs_right(
    broken: Float[NDArray, "*s b"], kept: Float[NDArray, "*s k"], axis: int = -1
) -> Float[NDArray, "*s"]:
    """How many pairs of a broken and a kept fact are ranked right, Mann and Whitney's U."""
    n = broken.shape[axis]
    ranks = rankdata(np.concatenate([broken, kept], axis=axis), axis=axis)
    return np.asarray(np.take(ranks, range(n), axis=axis).sum(axis=axis) - n * (n + 1) / 2)


def rank_broken_within(
    scores: Float[NDArray, "n"],
    kept: Bool[NDArray, "n"],
    rounds: Int[NDArray, "n"],
    *,
    seed: int = 0,
) -> Ranking:
    """The share of pairs of one broken and one kept fact *of the same round* that a score ranks
    right, ties counting one half: an area under the ROC curve without the effect of age.

    Args:
        scores, kept, seed: as in `rank_broken`; the bootstrap resamples rounds.
        rounds: in which each fact was edited.

    Raises:
        ValueError: fewer than two rounds hold both a broken and a kept fact.
    """
    x, whole, group = (
        np.asarray(scores, dtype=float),
        np.asarray(kept, dtype=bool),
        np.asarray(rounds),
    )
    right, pairs = [], []
    for one in np.unique(group):
        broken, others = x[(group == one) & ~whole], x[(group == one) & whole]
        if len(broken) and len(others):
            right.append(float(_pairs_right(broken, others)))
            pairs.append(float(len(broken) * len(others)))
    if len(pairs) < 2:
        raise ValueError(
            f"rounds: {len(pairs)} of {len(np.unique(group))} rounds hold both a broken and a kept "
            "fact; a ranking within rounds needs two"
        )

    def share(u: Float[NDArray, "*s r"], p: Float[NDArray, "*s r"], axis: int = -1) -> NDArray:
        return np.asarray(u.sum(axis=axis) / p.sum(axis=axis))

    data = (np.array(right), np.array(pairs))
    ends = bootstrap(
        data, share, paired=True, n_resamples=9999, method="percentile", rng=seed
    ).confidence_interval
    return Ranking(float(share(*data)), float(ends.low), float(ends.high))
