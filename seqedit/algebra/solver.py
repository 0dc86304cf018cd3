"""The closed form over many rounds: the price of movement is factored once, edits enter by their number."""

import torch
from jaxtyping import Float
from torch import Tensor

from .solve import solve_update, spd_solve
from .subspace import Subspace


class Solver:
    r"""`solve_update` for one layer and all of its rounds, with the metric M₀ + ωK_pK_pᵀ.

    With :math:`A = B(B^\top M_0B)^{-1}B^\top`, B a basis of the allowed directions (the factor is made once), and past
    keys :math:`K_p`,

    .. math::
        Q &= A\,\bigl(K - K_p (\omega^{-1}I + K_p^\top A K_p)^{-1} K_p^\top A K\bigr) \\
        \Delta &= R\,(\mu I + K^\top Q)^{-1} Q^\top

    which is Woodbury's identity twice. A round costs d² per new key and N² per past one instead of d³, and history is
    kept as N keys and their N×N Gram matrix :math:`K_p^\top AK_p` instead of a d×d sum. Beyond `dense_from` keys
    the plain form is cheaper, and is used.

    Args:
        M: M₀, (d_ff, d_ff), symmetric positive definite on the subspace; or c, which means cI and is never made d×d.
        subspace: allowed directions, or None for all.
        mu: see `solve_update`; any value from 0 on.
        weight: ω, what an earlier key counts against one of the round; ``inf`` forbids all movement at earlier keys,
            which for M₀ = cI takes their span out of the subspace (EvoEdit).

    Raises:
        torch.linalg.LinAlgError: M is singular on the subspace.

    Source:
        Recursive least squares; the equations of MEMIT (2210.07229) 14 and AlphaEdit (2410.02355) 14 solved in the
        space of edits. Equal to `solve_update` up to round-off: `tests/test_recursion.py`.
    """

    def __init__(
        self,
        M: Float[Tensor, "d_ff d_ff"] | float,
        subspace: Subspace | None = None,
        mu: float = 1.0,
        weight: float = 1.0,
    ):
        self.M, self.subspace, self.mu, self.weight = M, subspace, mu, weight
        self._factor = self._lu = self._basis = None
        if isinstance(M, Tensor):
            reduced = M.double()
            if subspace is not None:
                self._basis = subspace.basis
                reduced = self._basis.T @ reduced @ self._basis
            self._factor, failed = torch.linalg.cholesky_ex((reduced + reduced.T) / 2)
            if failed.item():  # rounding may have made M indefinite
                *self._lu, singular = torch.linalg.lu_factor_ex(reduced)
                if singular.item():
                    raise torch.linalg.LinAlgError(
                        "the price of movement is singular on the allowed directions; add γI"
                    )

    def inverse(
        self,
        Y: Float[Tensor, "d_ff n"],
        keys: Float[Tensor, "d_ff N"] | None = None,
        gram: Float[Tensor, "N N"] | None = None,
    ) -> Float[Tensor, "d_ff n"]:
        """AY in float64, without a subspace M₀⁻¹Y; with keys the same for M₀ + ω · keys · keysᵀ.

        Args:
            gram: Gram matrix of the keys from `extend`, made here if it is not given.
        """
        solved = self._inverse(Y.double())
        if keys is None or keys.shape[1] == 0:
            return solved
        p = keys.double()
        if gram is None or len(gram) != p.shape[1]:
            gram = p.T @ self._inverse(p)
        if self.weight == float("inf"):  # keys may depend on each other
            seen = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ (p.T @ solved)
        else:
            ridge = torch.eye(len(gram)).to(gram) / self.weight
            seen = torch.cholesky_solve(p.T @ solved, torch.linalg.cholesky(gram + ridge))
        return solved - self._inverse(p @ seen)

    def _inverse(self, y: Tensor) -> Tensor:
        if self._factor is None:
            return (y if self.subspace is None else self.subspace.project(y)) / self.M
        y = y if self._basis is None else self._basis.T @ y
        solved = (
            torch.cholesky_solve(y, self._factor)
            if self._lu is None
            else torch.linalg.lu_solve(*self._lu, y)
        )
        return solved if self._basis is None else self._basis @ solved

    def dense_from(self, d_ff: int) -> float:
        """The number of keys, past and new, beyond which the plain form is cheaper; there is none for ω = ∞."""
        return float("inf") if self.weight == float("inf") else d_ff

    def update(
        self,
        K: Float[Tensor, "d_ff n"],
        R: Float[Tensor, "d_model n"],
        past: Float[Tensor, "d_ff N"] | None = None,
        gram: Float[Tensor, "N N"] | None = None,
        carry: Float[Tensor, "d_model d_ff"] | None = None,
    ) -> Float[Tensor, "d_model d_ff"]:
        """The round's update Δ in the dtype of R; the solve runs in float64.

        Args:
            past: keys of earlier edits, none for a method without history.
            gram: their Gram matrix from `extend`, made here if it is not given.
            carry: E of an earlier round's `error`, to be made good: Δ = (RKᵀ − E)(M₀ + ωK_pK_pᵀ + KKᵀ)⁻¹ (μ = 1).
        """
        k, r = K.double(), R.double()
        if (
            past is not None
            and 0 < past.shape[1]
            and past.shape[1] + k.shape[1] > self.dense_from(len(k))
        ):
            return self._plain(K, R, past.double(), carry)
        Q = self.inverse(k, past, gram)  # (M₀ + ωK_pK_pᵀ)⁻¹K
        system = k.T @ Q
        system = (system + system.T) / 2 + self.mu * torch.eye(len(system)).to(system)
        gain = spd_solve(system, Q.T)  # (n, d_ff)
        if carry is None:
            return (r @ gain).to(R.dtype)
        owed = self.inverse(carry.T, past, gram).T  # E(M₀ + ωK_pK_pᵀ)⁻¹
        return (r @ gain - owed + (owed @ k) @ gain).to(R.dtype)

    def update_neurons(
        self,
        K: Float[Tensor, "d_ff n"],
        R: Float[Tensor, "d_model n"],
        neurons: Tensor,
        past: Float[Tensor, "d_ff N"] | None = None,
    ) -> Float[Tensor, "d_model d_ff"]:
        """Δ with the columns of some neurons only, by the plain form on their rows and columns of the metric.

        Source: NSE (2410.04045) eq. 11.
        """
        M = self.M[neurons][:, neurons].double()
        if past is not None:
            M = M + self.weight * past[neurons].double() @ past[neurons].double().T
        update = torch.zeros(len(R), len(K), dtype=R.dtype, device=R.device)
        update[:, neurons] = solve_update(K[neurons], R, M, mu=self.mu)
        return update

    def error(self, change: Float[Tensor, "d_model d_ff"], keys: Float[Tensor, "d_ff N"]) -> Tensor:
        """E = change · (M₀ + Σ kkᵀ) for ω = 1: what a restraint that changed Δ took from the normal equations.

        Args:
            keys: of all edits, the round's included.

        Source: OTE-SE (2605.26670).
        """
        d, k = change.double(), keys.double()
        return (d @ self.M.double() if isinstance(self.M, Tensor) else self.M * d) + (d @ k) @ k.T

    def extend(
        self, gram: Float[Tensor, "N N"], past: Float[Tensor, "d_ff N"], K: Float[Tensor, "d_ff n"]
    ) -> Float[Tensor, "M M"]:
        """The Gram matrix of the past keys and K; unchanged once the plain form is used."""
        if past.shape[1] + K.shape[1] > self.dense_from(len(K)):
            return gram
        new = self._inverse(K.double())
        cross, own = past.double().T @ new, K.double().T @ new
        return torch.cat(
            [torch.cat([gram, cross], dim=1), torch.cat([cross.T, (own + own.T) / 2], dim=1)]
        )

    def _plain(self, K: Tensor, R: Tensor, past: Tensor, carry: Tensor | None) -> Tensor:
        M = self.M.double() if isinstance(self.M, Tensor) else self.M * torch.eye(len(K)).to(past)
        M = M + self.weight * past @ past.T
        basis = (
            self._basis if self.subspace is None or self._basis is not None else self.subspace.basis
        )
        update = solve_update(K, R, M, basis=basis, mu=self.mu)
        if carry is None:
            return update
        system, owed = M + K.double() @ K.double().T, carry.double()
        if basis is not None:
            system, owed = basis.T @ system @ basis, owed @ basis
        owed = spd_solve(system, owed.T).T
        return update - (owed if basis is None else owed @ basis.T).to(R.dtype)
