"""Kronecker-factored curvature of a loss in a matrix: directions of low curvature, and its price.

With inputs k and output gradients g of a matrix, the curvature of the loss along Δ is approximated
by tr(SΔAΔᵀ), A the second moment of k and S that of g (K-FAC, 1503.05671).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .restrain import check_share
from .solver import Solver
from .subspace import Subspace


@dataclass(frozen=True)
class LowCurvature:
    """The span of the products uvᵀ of eigenvectors, u of S and v of A, that a mask allows.

    Attributes:
        outputs: U, eigenvectors of S as columns, (d_model, d_model), float64.
        inputs: V, eigenvectors of A as columns, (d_ff, d_ff), float64.
        allowed: which products uᵢvⱼᵀ an update may use, (d_model, d_ff).
    """

    outputs: Float[Tensor, "d_model d_model"]
    inputs: Float[Tensor, "d_ff d_ff"]
    allowed: Bool[Tensor, "d_model d_ff"]

    def project(self, Q: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "d_model d_ff"]:
        """U((UᵀQV) ⊙ mask)Vᵀ, the nearest matrix of the span, in the dtype of Q."""
        U, V = self.outputs.to(Q), self.inputs.to(Q)
        return U @ ((U.T @ Q @ V) * self.allowed) @ V.T


def low_curvature(
    A: Float[Tensor, "d_ff d_ff"], S: Float[Tensor, "d_model d_model"], share: float
) -> LowCurvature:
    """The directions that are left when the sharpest, with `share` of all curvature, are taken out.

    The curvature along uᵢvⱼᵀ is the product of their eigenvalues. Taken out are the largest
    products, as few as hold the share of the sum of all, and those equal to the smallest of them.

    Args:
        A: second moment of inputs, symmetric positive semi-definite.
        S: second moment of output gradients; the identity leaves the null space of A (Adam-NSCL).
        share: γ, above 0 and up to 1.

    Raises:
        ValueError: `share` is not a share.

    Source:
        CrispEdit (2602.15823).
    """
    check_share("share", share)
    inputs, V = torch.linalg.eigh(A.double())
    outputs, U = torch.linalg.eigh(S.double())
    products = torch.outer(outputs.clamp(min=0), inputs.clamp(min=0))  # (d_model, d_ff)
    descending = products.flatten().sort(descending=True).values
    held = descending.cumsum(0)
    count = int((held < share * held[-1] * (1 - 1e-12)).sum())  # one more than these holds it
    return LowCurvature(U, V, products < descending[count])


def damped(S: Float[Tensor, "d d"], damping: float) -> Float[Tensor, "d d"]:
    """(1 − ρ)S/s̄ + ρI with s̄ the mean eigenvalue of S; its own mean eigenvalue is 1.

    Args:
        S: symmetric positive semi-definite, not 0.
        damping: ρ, above 0 and up to 1; with 1 it is the identity.

    Raises:
        ValueError: `damping` is not a share.
    """
    check_share("damping", damping)
    eye = torch.eye(len(S), dtype=torch.float64, device=S.device)
    return (1 - damping) * S.double() * (len(S) / S.double().trace()) + damping * eye


class CurvatureSolver(Solver):
    r"""`Solver` whose price of movement is μ tr(SΔM₀Δᵀ) instead of μ tr(ΔM₀Δᵀ).

    Past keys enter as keys of the round whose residual is zero. With :math:`X = (\sqrt\omega K_p,
    K)`, :math:`Y = (0, R)`, :math:`S = U \operatorname{diag}(s) U^\top` and
    :math:`X^\top A X = V \operatorname{diag}(\gamma) V^\top`, in the notation of `Solver`,

    .. math::
        \Delta = U \left[\frac{(U^\top Y V)_{ij}}{\gamma_j + \mu s_i}\right] V^\top X^\top A

    This is the least-squares solution of the round after those before it. The rows of
    :math:`U^\top\Delta` are those of `Solver` with :math:`\mu s_i` in the place of :math:`\mu`,
    except that past keys count the same in all of them. A round costs one eigendecomposition of
    the Gram matrix of all keys, or of a d_ff × d_ff matrix once that is smaller.

    Args:
        M: M₀, see `Solver`.
        S: price of outputs, symmetric positive definite.
        subspace: see `Solver`.
        mu: see `Solver`; not 0, since an exact fit leaves S nothing to choose.
        weight: ω, see `Solver`; finite.
        dense_from: see `Solver`.

    Raises:
        ValueError: μ is 0, or ω is infinite.
        torch.linalg.LinAlgError: M is singular on the subspace.

    Source:
        Ours; CrispEdit (2602.15823) makes a hard projection of the same curvature.
    """

    def __init__(
        self,
        M: Float[Tensor, "d_ff d_ff"] | float,
        S: Float[Tensor, "d_model d_model"],
        subspace: Subspace | None = None,
        mu: float = 1.0,
        weight: float = 1.0,
        dense_from: float | None = None,
    ):
        if mu == 0 or weight == float("inf"):
            raise ValueError(
                f"mu is {mu:g} and weight {weight:g}; a price of outputs needs mu > 0, because an "
                "exact fit leaves it nothing to choose, and a finite weight of past keys"
            )
        super().__init__(M, subspace, mu, weight, dense_from)
        self.prices, self.outputs = torch.linalg.eigh(S.double())

    def update(
        self,
        K: Float[Tensor, "d_ff n"],
        R: Float[Tensor, "d_model n"],
        past: Float[Tensor, "d_ff N"] | None = None,
        gram: Float[Tensor, "G G"] | None = None,
        carry: Float[Tensor, "d_model d_ff"] | None = None,
    ) -> Float[Tensor, "d_model d_ff"]:
        """The update Δ of one round, see `Solver.update`.

        Raises:
            ValueError: there is an error to carry, which has no meaning here.
        """
        if carry is not None:
            raise ValueError("carry: errors are not made good under a price of outputs")
        k, p = K.double(), K.double()[:, :0] if past is None else past.double()
        r = self.outputs.T @ R.double()  # rows are the directions of S
        if self.uses_plain_form(len(k), k.shape[1] + p.shape[1]):
            update = self._by_directions(k, r, p)
        else:
            update = self._by_keys(k, r, p, gram)
        return (self.outputs @ update).to(R.dtype)

    def _by_keys(
        self,
        k: Float[Tensor, "d_ff n"],
        r: Float[Tensor, "d_model n"],
        p: Float[Tensor, "d_ff N"],
        gram: Float[Tensor, "G G"] | None,
    ) -> Float[Tensor, "d_model d_ff"]:
        """UᵀΔ by an eigendecomposition of the Gram matrix of all keys, (N + n)²."""
        if gram is None or len(gram) != p.shape[1]:
            gram = p.T @ self._inverse(p)
        weights = torch.cat([p.new_full(p.shape[1:], self.weight**0.5), k.new_ones(k.shape[1])])
        X = torch.cat([p, k], dim=1) * weights
        squares, V = torch.linalg.eigh(self.extend(gram, p, k) * torch.outer(weights, weights))
        fit = (r @ V[p.shape[1] :]) / self._denominators(squares)  # (d_model, N + n)
        return self._inverse(X @ (fit @ V.T).T).T

    def _by_directions(
        self,
        k: Float[Tensor, "d_ff n"],
        r: Float[Tensor, "d_model n"],
        p: Float[Tensor, "d_ff N"],
    ) -> Float[Tensor, "d_model d_ff"]:
        """UᵀΔ by an eigendecomposition of XXᵀ in coordinates in which M₀ is the identity."""
        if self._lu is not None:
            raise torch.linalg.LinAlgError(
                "the price of movement is indefinite by rounding on the allowed directions; add γI"
            )
        basis = torch.eye(len(k)).to(k) if self.subspace is None else self.subspace.basis
        if self._factor is None:  # M is a number
            T = basis / self.M**0.5
        else:
            T = torch.linalg.solve_triangular(self._factor, basis.T, upper=False).T
        seen = torch.cat([self.weight**0.5 * (T.T @ p), T.T @ k], dim=1)  # (r, N + n)
        squares, V = torch.linalg.eigh(seen @ seen.T)
        T = T @ V  # TᵀM₀T = I, TᵀXXᵀT = diag(squares)
        return ((r @ k.T @ T) / self._denominators(squares)) @ T.T

    def _denominators(self, squares: Float[Tensor, "r"]) -> Float[Tensor, "d_model r"]:
        """γ_j + μ s_i."""
        return squares.clamp(min=0) + self.mu * self.prices[:, None]
