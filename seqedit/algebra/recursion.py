"""The closed form over many rounds: the price of movement is factored once, edits enter by their number."""

import torch
from jaxtyping import Float
from torch import Tensor

from .solve import solve_update, spd_solve
from .subspace import Subspace


class Solver:
    r"""`solve_update` for one layer and all of its rounds, with the metric M₀ + K_pK_pᵀ.

    With :math:`A = B(B^\top M_0B)^{-1}B^\top`, B a basis of the allowed directions (the factor is made once), and past
    keys :math:`K_p`,

    .. math::
        Q &= A\,\bigl(K - K_p (I + K_p^\top A K_p)^{-1} K_p^\top A K\bigr) \\
        \Delta &= R\,(\mu I + K^\top Q)^{-1} Q^\top

    which is Woodbury's identity twice. A round costs d² per new key and N² per past one instead of d³, and history is
    kept as N keys and their N×N Gram matrix :math:`K_p^\top AK_p` instead of a d×d sum. Beyond `dense_from` keys
    the plain form is cheaper, and is used.

    Args:
        M: M₀, (d_ff, d_ff), symmetric positive definite on the subspace; or c, which means cI and is never made d×d.
        subspace: allowed directions, or None for all.
        mu: see `solve_update`; any value from 0 on.

    Raises:
        torch.linalg.LinAlgError: M is singular on the subspace.

    Source:
        Recursive least squares; the equations of MEMIT (2210.07229) 14 and AlphaEdit (2410.02355) 14 solved in the
        space of edits. Equal to `solve_update` up to round-off: `tests/test_recursion.py`.
    """

    def __init__(self, M: Float[Tensor, "d_ff d_ff"] | float, subspace: Subspace | None = None, mu: float = 1.0):
        self.M, self.subspace, self.mu = M, subspace, mu
        self._factor = self._lu = self._basis = None
        if isinstance(M, Tensor):
            reduced = M.double()
            if subspace is not None:
                self._basis = subspace.basis
                reduced = self._basis.T @ reduced @ self._basis
            self._factor, failed = torch.linalg.cholesky_ex((reduced + reduced.T) / 2)
            if failed.item():                                             # rounding may have made M indefinite
                *self._lu, singular = torch.linalg.lu_factor_ex(reduced)
                if singular.item():
                    raise torch.linalg.LinAlgError("the price of movement is singular on the allowed directions; "
                                                   "add γI")

    def inverse(self, Y: Float[Tensor, "d_ff n"]) -> Float[Tensor, "d_ff n"]:
        """AY in float64: without a subspace M₀⁻¹Y."""
        y = Y.double()
        if self._factor is None:
            return (y if self.subspace is None else self.subspace.project(y)) / self.M
        y = y if self._basis is None else self._basis.T @ y
        solved = torch.cholesky_solve(y, self._factor) if self._lu is None else torch.linalg.lu_solve(*self._lu, y)
        return solved if self._basis is None else self._basis @ solved

    def dense_from(self, d_ff: int) -> int:
        """The number of keys, past and new, beyond which the plain form is cheaper."""
        return d_ff // 2

    def update(self, K: Float[Tensor, "d_ff n"], R: Float[Tensor, "d_model n"],
               past: Float[Tensor, "d_ff N"] | None = None, gram: Float[Tensor, "N N"] | None = None
               ) -> Float[Tensor, "d_model d_ff"]:
        """The round's update Δ in the dtype of R; the solve runs in float64.

        Args:
            past: keys of earlier edits, none for a method without history.
            gram: their Gram matrix from `extend`, made here if it is not given.
        """
        k, r = K.double(), R.double()
        if past is None or past.shape[1] == 0:
            Q = self.inverse(k)
        elif past.shape[1] + k.shape[1] > self.dense_from(len(k)):
            return self._plain(K, R, past.double())
        else:
            p = past.double()
            if gram is None or len(gram) != p.shape[1]:
                gram = p.T @ self.inverse(p)
            Q = self.inverse(k)
            seen = torch.cholesky_solve(p.T @ Q, torch.linalg.cholesky(gram + torch.eye(len(gram)).to(gram)))
            Q = Q - self.inverse(p @ seen)
        system = k.T @ Q
        system = (system + system.T) / 2 + self.mu * torch.eye(len(system)).to(system)
        return (r @ spd_solve(system, Q.T)).to(R.dtype)

    def extend(self, gram: Float[Tensor, "N N"], past: Float[Tensor, "d_ff N"], K: Float[Tensor, "d_ff n"]
               ) -> Float[Tensor, "M M"]:
        """The Gram matrix of the past keys and K; unchanged once the plain form is used."""
        if past.shape[1] + K.shape[1] > self.dense_from(len(K)):
            return gram
        new = self.inverse(K)
        cross, own = past.double().T @ new, K.double().T @ new
        return torch.cat([torch.cat([gram, cross], dim=1), torch.cat([cross.T, (own + own.T) / 2], dim=1)])

    def _plain(self, K: Tensor, R: Tensor, past: Tensor) -> Tensor:
        M = self.M if isinstance(self.M, Tensor) else self.M * torch.eye(len(K)).to(past)
        basis = self._basis if self.subspace is None or self._basis is not None else self.subspace.basis
        return solve_update(K, R, M.double() + past @ past.T, basis=basis, mu=self.mu)
