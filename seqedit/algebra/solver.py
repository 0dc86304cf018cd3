"""The closed form over many rounds, with the metric factored once and history kept by edits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .solve import solve_update, spd_solve
from .subspace import Subspace


class Solver:
    r"""`solve_update` for one layer and all of its rounds, with the metric M₀ + ωK_pK_pᵀ.

    Let B be a basis of the allowed directions, :math:`A = B(B^\top M_0B)^{-1}B^\top` (factored
    once) and :math:`K_p` the past keys. Then

    .. math::
        Q &= A\,\bigl(K - K_p (\omega^{-1}I + K_p^\top A K_p)^{-1} K_p^\top A K\bigr) \\
        \Delta &= R\,(\mu I + K^\top Q)^{-1} Q^\top

    which is Woodbury's identity applied twice. A round costs d² operations per new key and N² per
    past key instead of d³. The history is stored as N keys and their N×N Gram matrix
    :math:`K_p^\top AK_p` instead of a d×d sum. For more keys than `dense_from` the plain form,
    which sums the history into the metric, is cheaper and is used.

    Args:
        M: M₀, (d_ff, d_ff), symmetric positive definite on the subspace; or a number c, which means
            cI and is never expanded to d×d.
        subspace: allowed directions; ``None`` allows all.
        mu: price of movement against misfit, see `solve_update`; any value from 0 up.
        weight: ω, the weight of a past key relative to one of the round. ``inf`` forbids all
            movement at past keys; for M₀ = cI this removes their span from the subspace (EvoEdit).
        dense_from: number of keys, past and new, above which the plain form is used. ``None`` means
            d_ff, where it becomes cheaper, or never if ω = ∞, for which there is no plain form.

    Raises:
        torch.linalg.LinAlgError: M is singular on the subspace.

    Source:
        Recursive least squares; the equations 14 of MEMIT (2210.07229) and of AlphaEdit
        (2410.02355) solved in the space of edits. Equal to `solve_update` up to round-off, see
        ``tests/test_recursion.py``.
    """

    def __init__(
        self,
        M: Float[Tensor, "d_ff d_ff"] | float,
        subspace: Subspace | None = None,
        mu: float = 1.0,
        weight: float = 1.0,
        dense_from: float | None = None,
    ):
        self.M, self.subspace, self.mu, self.weight = M, subspace, mu, weight
        self.dense_from = dense_from
        self._basis: Tensor | None = None  # (d_ff, r), only if M is a matrix
        self._factor: Tensor | None = None  # Cholesky factor of BᵀMB, only if M is a matrix
        self._lu: tuple[Tensor, Tensor] | None = None  # its LU factors, if Cholesky failed
        if isinstance(M, Tensor):
            self._factorise(M.double())

    def _factorise(self, M: Float[Tensor, "d_ff d_ff"]) -> None:
        """Factor M on the subspace. Raises LinAlgError if it is singular there."""
        if self.subspace is not None:
            self._basis = self.subspace.basis
            M = self._basis.T @ M @ self._basis  # (r, r)
        self._factor, failed = torch.linalg.cholesky_ex((M + M.T) / 2)
        if failed.item():  # rounding may have made M indefinite
            factors, pivots, singular = torch.linalg.lu_factor_ex(M)
            if singular.item():
                raise torch.linalg.LinAlgError(
                    "the price of movement is singular on the allowed directions; add γI"
                )
            self._lu = factors, pivots

    def inverse(
        self,
        Y: Float[Tensor, "d_ff n"],
        keys: Float[Tensor, "d_ff N"] | None = None,
        gram: Float[Tensor, "G G"] | None = None,
    ) -> Float[Tensor, "d_ff n"]:
        """AY in float64, which without a subspace is M₀⁻¹Y.

        Args:
            Y: right-hand sides, one per column.
            keys: past keys K_p; with them M₀ + ωK_pK_pᵀ takes the place of M₀.
            gram: the Gram matrix of `keys` from `extend`; computed here if it is missing or does
            not
                cover all of them.
        """
        solved = self._inverse(Y.double())
        if keys is None or keys.shape[1] == 0:
            return solved
        p = keys.double()
        if gram is None or len(gram) != p.shape[1]:
            gram = p.T @ self._inverse(p)  # (N, N)
        if self.weight == float("inf"):  # keys may be linearly dependent
            seen = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ (p.T @ solved)
        else:
            ridge = torch.eye(len(gram)).to(gram) / self.weight
            seen = torch.cholesky_solve(p.T @ solved, torch.linalg.cholesky(gram + ridge))
        return solved - self._inverse(p @ seen)

    def _inverse(self, y: Float[Tensor, "d_ff n"]) -> Float[Tensor, "d_ff n"]:
        """AY without past keys."""
        if self._factor is None:  # M is a number
            return (y if self.subspace is None else self.subspace.project(y)) / self.M
        y = y if self._basis is None else self._basis.T @ y
        if self._lu is None:
            solved = torch.cholesky_solve(y, self._factor)
        else:
            solved = torch.linalg.lu_solve(*self._lu, y)
        return solved if self._basis is None else self._basis @ solved

    def uses_plain_form(self, d_ff: int, keys: int) -> bool:
        """Whether a round is solved by the plain form.

        Args:
            d_ff: length of a key.
            keys: number of past and new keys together.
        """
        limit = self.dense_from
        if limit is None:
            limit = float("inf") if self.weight == float("inf") else d_ff
        return keys > limit

    def update(
        self,
        K: Float[Tensor, "d_ff n"],
        R: Float[Tensor, "d_model n"],
        past: Float[Tensor, "d_ff N"] | None = None,
        gram: Float[Tensor, "G G"] | None = None,
        carry: Float[Tensor, "d_model d_ff"] | None = None,
    ) -> Float[Tensor, "d_model d_ff"]:
        """The update Δ of one round, in the dtype of R; the solve runs in float64.

        Args:
            K: keys of the round, one edit per column.
            R: residuals z* − h, one per column.
            past: keys of earlier edits; ``None`` for a method without history.
            gram: their Gram matrix from `extend`, see `inverse`.
            carry: E of an earlier round's `error`, which this update corrects:
                Δ = (RKᵀ − E)(M₀ + ωK_pK_pᵀ + KKᵀ)⁻¹, for μ = 1.
        """
        k, r = K.double(), R.double()
        n_past = 0 if past is None else past.shape[1]
        if past is not None and n_past and self.uses_plain_form(len(k), n_past + k.shape[1]):
            return self._plain(K, R, past.double(), carry)
        Q = self.inverse(k, past, gram)  # (M₀ + ωK_pK_pᵀ)⁻¹K, (d_ff, n)
        system = k.T @ Q
        system = (system + system.T) / 2 + self.mu * torch.eye(len(system)).to(system)
        gain = spd_solve(system, Q.T)  # (n, d_ff)
        if carry is None:
            return (r @ gain).to(R.dtype)
        correction = self.inverse(carry.T, past, gram).T  # E(M₀ + ωK_pK_pᵀ)⁻¹, (d_model, d_ff)
        return (r @ gain - correction + (correction @ k) @ gain).to(R.dtype)

    def update_neurons(
        self,
        K: Float[Tensor, "d_ff n"],
        R: Float[Tensor, "d_model n"],
        neurons: Int[Tensor, "chosen"],
        past: Float[Tensor, "d_ff N"] | None = None,
    ) -> Float[Tensor, "d_model d_ff"]:
        """The update Δ whose columns are 0 except those of the chosen neurons.

        It is the plain form on the neurons' rows of the keys and their rows and columns of the
        metric.

        Args:
            K: keys of the round, one edit per column.
            R: residuals, one per column.
            neurons: indices of the chosen neurons.
            past: keys of earlier edits.

        Source:
            NSE (2410.04045) eq. 11.
        """
        if isinstance(self.M, Tensor):
            M = self.M[neurons][:, neurons].double()
        else:
            M = self.M * torch.eye(len(neurons), dtype=torch.float64, device=K.device)
        if past is not None:
            M = M + self.weight * past[neurons].double() @ past[neurons].double().T
        update = torch.zeros(len(R), len(K), dtype=R.dtype, device=R.device)
        update[:, neurons] = solve_update(K[neurons], R, M, mu=self.mu)
        return update

    def error(
        self, change: Float[Tensor, "d_model d_ff"], keys: Float[Tensor, "d_ff N"]
    ) -> Float[Tensor, "d_model d_ff"]:
        """E = change · (M₀ + Σ kkᵀ), the error that a changed update makes in the normal equations.

        It is for ω = 1. A later `update` corrects it if E is given as its `carry`.

        Args:
            change: what a restraint added to Δ.
            keys: keys of all edits, including those of the round.

        Source:
            OTE-SE (2605.26670).
        """
        d, k = change.double(), keys.double()
        moved = d @ self.M.double() if isinstance(self.M, Tensor) else self.M * d
        return moved + (d @ k) @ k.T

    def extend(
        self, gram: Float[Tensor, "G G"], past: Float[Tensor, "d_ff N"], K: Float[Tensor, "d_ff n"]
    ) -> Float[Tensor, "H H"]:
        """Extend the Gram matrix of the past keys by those of a round, in float64.

        Once the plain form is used no Gram matrix is needed, and it is returned unchanged.

        Args:
            gram: K_pᵀAK_p of the past keys, (N, N); empty before the first round.
            past: K_p.
            K: keys of the round, (d_ff, n).

        Returns:
            The Gram matrix of all N + n keys, or `gram`.
        """
        if self.uses_plain_form(len(K), past.shape[1] + K.shape[1]):
            return gram
        new = self._inverse(K.double())  # AK, (d_ff, n)
        cross, own = past.double().T @ new, K.double().T @ new  # (N, n), (n, n)
        return torch.cat(
            [torch.cat([gram, cross], dim=1), torch.cat([cross.T, (own + own.T) / 2], dim=1)]
        )

    def _plain(
        self,
        K: Float[Tensor, "d_ff n"],
        R: Float[Tensor, "d_model n"],
        past: Float[Tensor, "d_ff N"],
        carry: Float[Tensor, "d_model d_ff"] | None,
    ) -> Float[Tensor, "d_model d_ff"]:
        """`update` with the history summed into a d_ff × d_ff metric."""
        M = self.M.double() if isinstance(self.M, Tensor) else self.M * torch.eye(len(K)).to(past)
        M = M + self.weight * past @ past.T
        basis = None if self.subspace is None else self.subspace.basis
        update = solve_update(K, R, M, basis=basis, mu=self.mu)
        if carry is None:
            return update
        system, error = M + K.double() @ K.double().T, carry.double()
        if basis is not None:
            system, error = basis.T @ system @ basis, error @ basis
        correction = spd_solve(system, error.T).T
        return update - (correction if basis is None else correction @ basis.T).to(R.dtype)
