"""The closed form over many rounds: the price of movement is factored once, edits enter by their number."""

import torch
from jaxtyping import Float
from torch import Tensor

from .solve import solve_update, spd_solve


class Solver:
    r"""`solve_update` for one layer and all of its rounds, with the metric M₀ + K_pK_pᵀ.

    With :math:`A = B(B^\top M_0B)^{-1}B^\top` (its Cholesky factor is made once) and past keys :math:`K_p`,

    .. math::
        Q &= A\,\bigl(K - K_p (I + K_p^\top A K_p)^{-1} K_p^\top A K\bigr) \\
        \Delta &= R\,(\mu I + K^\top Q)^{-1} Q^\top

    which is Woodbury's identity twice. A round costs d² per new key and N² per past one instead of d³, and history is
    kept as N keys and their N×N Gram matrix :math:`K_p^\top AK_p` instead of a d×d sum. Past `dense_from` keys the
    plain form is cheaper, and is used.

    Args:
        M: M₀, (d_ff, d_ff), symmetric positive definite on the span of the basis.
        basis: allowed directions, orthonormal columns (d_ff, r), or None for all.
        mu: see `solve_update`; any value from 0 on.

    Raises:
        torch.linalg.LinAlgError: M is singular on the span of the basis.

    Source:
        Recursive least squares; the equations of MEMIT (2210.07229) 14 and AlphaEdit (2410.02355) 14 solved in the
        space of edits. Equal to `solve_update` up to round-off: `tests/test_recursion.py`.
    """

    def __init__(self, M: Float[Tensor, "d_ff d_ff"], basis: Float[Tensor, "d_ff r"] | None = None, mu: float = 1.0):
        self.M, self.basis, self.mu = M.double(), None if basis is None else basis.double(), mu
        self.dense_from = len(M) // 2
        reduced = self.M if basis is None else self.basis.T @ self.M @ self.basis
        self._factor, failed = torch.linalg.cholesky_ex((reduced + reduced.T) / 2)
        self._lu = None
        if failed.item():                                                 # rounding may have made M indefinite
            *self._lu, singular = torch.linalg.lu_factor_ex(reduced)
            if singular.item():
                raise torch.linalg.LinAlgError("the price of movement is singular on the allowed directions; add γI")

    def inverse(self, Y: Float[Tensor, "d_ff n"]) -> Float[Tensor, "d_ff n"]:
        """AY in float64: without a basis M₀⁻¹Y."""
        y = Y.double() if self.basis is None else self.basis.T @ Y.double()
        solved = torch.cholesky_solve(y, self._factor) if self._lu is None else torch.linalg.lu_solve(*self._lu, y)
        return solved if self.basis is None else self.basis @ solved

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
        elif past.shape[1] + k.shape[1] > self.dense_from:
            p = past.double()
            return solve_update(K, R, self.M + p @ p.T, basis=self.basis, mu=self.mu)
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
        if past.shape[1] + K.shape[1] > self.dense_from:
            return gram
        new = self.inverse(K)
        cross, own = past.double().T @ new, K.double().T @ new
        return torch.cat([torch.cat([gram, cross], dim=1), torch.cat([cross.T, (own + own.T) / 2], dim=1)])
