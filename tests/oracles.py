"""The papers' equations in float64, transcribed literally and slowly, one request at a time.

None of them uses `seqedit.algebra`.

Keys, residuals and values are lists of vectors, one vector per request:
k_i has shape (d_ff,); r_i = v*_i − W k_i has shape (d_model,).
"""

import math
from collections.abc import Callable
from typing import Any

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
    """ROME as released: Δ = r uᵀ / (uᵀk), with u = C⁻¹k̄ normalised.

    k̄ is the averaged key, k the key of the bare prompt.
    """
    u = torch.linalg.inv(C) @ averaged
    u = u / u.norm()
    return torch.outer(r / (bare @ u), u)


def memit(keys: list[Tensor], residuals: list[Tensor], lam: float, C: Tensor) -> Tensor:
    """MEMIT (2210.07229) eq. 14: Δ = R Kᵀ (C₀ + K Kᵀ)⁻¹ with C₀ = λC.

    The sums are written over requests.
    """
    return outer_sum(residuals, keys) @ torch.linalg.inv(lam * C + outer_sum(keys, keys))


def memit_seq(
    keys: list[Tensor], residuals: list[Tensor], lam: float, C: Tensor, past: list[Tensor]
) -> Tensor:
    """AlphaEdit (2410.02355) eq. 15: Δ = R Kᵀ (C₀ + K_pK_pᵀ + K Kᵀ)⁻¹.

    This is MEMIT with K_p, the keys of earlier edits.
    """
    system = lam * C + outer_sum(keys, keys)
    for k in past:
        system = system + torch.outer(k, k)
    return outer_sum(residuals, keys) @ torch.linalg.inv(system)


def emmet(keys: list[Tensor], residuals: list[Tensor], C: Tensor, ridge: float = 0.0) -> Tensor:
    """EMMET (2403.14236) eq. 9: Δ = R (KᵀC⁻¹K + εI)⁻¹ Kᵀ C⁻¹.

    The ridge ε is added to the n × n system.
    """
    inverse = torch.linalg.inv(C)
    gram = torch.stack([torch.stack([a @ inverse @ b for b in keys]) for a in keys])
    gain = (
        torch.linalg.inv(gram + ridge * torch.eye(len(keys), dtype=gram.dtype))
        @ torch.stack(keys)
        @ inverse
    )
    return torch.stack(residuals, dim=1) @ gain


def rlsedit(
    keys: list[Tensor],
    residuals: list[Tensor],
    lam: float,
    gamma: float,
    C: Tensor,
    past: list[Tensor],
) -> Tensor:
    """RLSEdit (2601.15686): Δ = R KᵀS⁻¹ with S = λC + γI + Σ k_pk_pᵀ.

    S⁻¹ is updated by the rank-one identity, key by key.
    """
    inverse = torch.linalg.inv(lam * C + gamma * torch.eye(len(C), dtype=C.dtype))
    for k in past + keys:
        u = inverse @ k
        inverse = inverse - torch.outer(u, u) / (1 + k @ u)
    return outer_sum(residuals, keys) @ inverse


def projection(C: Tensor, threshold: float) -> Tensor:
    """AlphaEdit's P = ÛÛᵀ.

    Û holds the singular vectors of C whose singular values are below the threshold.
    """
    U, values, _ = torch.linalg.svd(C.double())
    kept = [U[:, i] for i in range(len(values)) if values[i] < threshold]
    return outer_sum(kept, kept)


def alphaedit(
    keys: list[Tensor], residuals: list[Tensor], P: Tensor, l2: float, past: list[Tensor]
) -> Tensor:
    """AlphaEdit as released: [P(K Kᵀ + K_pK_pᵀ) + L2·I] X = P K Rᵀ, Δ = Xᵀ.

    The system is dense and not symmetric.
    """
    seen = outer_sum(keys + past, keys + past)
    system = P @ seen + l2 * torch.eye(len(P), dtype=P.dtype)
    return torch.linalg.solve(system, P @ outer_sum(keys, residuals)).T


def betaedit(
    keys: list[Tensor],
    residuals: list[Tensor],
    P: Tensor,
    lam: float,
    l2: float,
    C: Tensor,
    past: list[Tensor],
) -> Tensor:
    """BetaEdit as released (2605.09285): [P(K Kᵀ + K_pK_pᵀ + λC) + L2·I] X = P K Rᵀ, Δ = Xᵀ."""
    system = P @ (outer_sum(keys + past, keys + past) + lam * C) + l2 * torch.eye(
        len(P), dtype=P.dtype
    )
    return torch.linalg.solve(system, P @ outer_sum(keys, residuals)).T


def norm_anchor(
    z: list[Tensor], h: list[Tensor], v: list[Tensor], norm: float | None
) -> tuple[list[Tensor], float]:
    """NAS (2602.02543): v* = v + δ with δ = z − h, scaled to `norm`; z' = h − v + v*.

    Without `norm`, the mean of ‖v*‖ over these requests is used. Returns the z' and the norm.
    """
    solved = [vi + (zi - hi) for zi, hi, vi in zip(z, h, v, strict=True)]
    norm = sum(float(s.norm()) for s in solved) / len(solved) if norm is None else norm
    return [
        hi - vi + s * norm / float(s.norm()) for hi, vi, s in zip(h, v, solved, strict=True)
    ], norm


def joint_ridge(keys: list[Tensor], residuals: list[Tensor], metric: Tensor, P: Tensor) -> Tensor:
    """argmin over Δ = ΔP of Σ ‖Δk_i − r_i‖² + tr(ΔMΔᵀ).

    The normal equations are solved for the rows of Δ, written in a basis of P's range.
    """
    values, vectors = torch.linalg.eigh(P)
    N = vectors[:, values > 0.5]
    system = N.T @ (outer_sum(keys, keys) + metric) @ N
    return outer_sum(residuals, keys) @ N @ torch.linalg.inv(system) @ N.T


def evoedit(
    keys: list[Tensor], residuals: list[Tensor], P: Tensor, l2: float, past: list[Tensor]
) -> Tensor:
    """EvoEdit (2510.13851): Δ = R (KᵀPK + L2·I)⁻¹ KᵀP.

    P first loses the left singular vectors of each P·k_p.
    """
    for k in past:
        U, values, _ = torch.linalg.svd((P @ k)[:, None], full_matrices=False)
        if values[0] > 1e-8:
            P = P - U @ U.T
    K, R = torch.stack(keys, dim=1), torch.stack(residuals, dim=1)
    return R @ torch.linalg.inv(K.T @ P @ K + l2 * torch.eye(len(keys), dtype=P.dtype)) @ K.T @ P


def nse(
    keys: list[Tensor],
    residuals: list[Tensor],
    lam: float,
    C: Tensor,
    past: list[Tensor],
    mass: float,
    released: bool = False,
) -> Tensor:
    """NSE (2410.04045) §3.2: MEMIT with history on the chosen neurons alone.

    Neurons are taken by descending Σ|k| until they hold the share `mass` of the total.
    """
    scores = sum(k.abs() for k in keys).tolist()
    order, held, chosen = sorted(range(len(scores)), key=lambda j: -scores[j]), 0.0, []
    for j in order:
        if released and held + scores[j] > mass * sum(scores):
            break
        chosen.append(j)
        held += scores[j]
        if held >= mass * sum(scores):
            break
    update = torch.zeros(len(residuals[0]), len(keys[0]), dtype=C.dtype)
    update[:, chosen] = memit_seq(
        [k[chosen] for k in keys], residuals, lam, C[chosen][:, chosen], [k[chosen] for k in past]
    )
    return update


def rect(W: Tensor, update: Tensor, share: float) -> Tensor:
    """RECT (2401.04700): keeps the entries of Δ with the largest |Δ_ij/W_ij|.

    The threshold is the order statistic at the (1 − share)-quantile.
    """
    flat = [
        (abs(d / (w + 1e-8)), d)
        for w, d in zip(W.flatten().tolist(), update.flatten().tolist(), strict=True)
    ]
    threshold = sorted(ratio for ratio, _ in flat)[int((1 - share) * len(flat)) - 1]
    return torch.tensor(
        [d if ratio >= threshold else 0.0 for ratio, d in flat], dtype=update.dtype
    ).reshape(W.shape)


def prune(W0: Tensor, total: Tensor, alpha: float) -> Tensor:
    """PRUNE (2405.16821): Σ F(σ_i) u_i v_iᵀ, F(σ) = log_α σ − log_α s + s above s = σ_max(W₀)."""
    s = torch.linalg.svdvals(W0)[0].item()
    U, values, Vh = torch.linalg.svd(total)
    result = torch.zeros_like(total)
    for i, value in enumerate(values.tolist()):
        kept = value if value <= s else math.log(value, alpha) - math.log(s, alpha) + s
        result += kept * torch.outer(U[:, i], Vh[i])
    return result


def revive(W0: Tensor, update: Tensor, share: float) -> Tensor:
    """REVIVE: Δ without u_iu_iᵀΔ and Δv_jv_jᵀ for the leading singular triplets of W₀.

    The leading triplets are the first whose σ together exceed `share` of Σσ.
    """
    U, values, Vh = torch.linalg.svd(W0)
    held, leading = 0.0, []
    for i, value in enumerate(values.tolist()):
        leading.append(i)
        held += value
        if held > share * values.sum().item():
            break
    for i in leading:
        update = update - torch.outer(U[:, i], U[:, i]) @ update
    for i in leading:
        update = update - update @ torch.outer(Vh[i], Vh[i])
    return update


def sphere(W: Tensor, update: Tensor, share: float, strength: float) -> Tensor:
    """SPHERE: Δ(I − α Σ uuᵀ) over the leading eigenvectors u of Σ_i ŵ_iŵ_iᵀ.

    ŵ_i are the unit rows of W; the eigenvectors u hold `share` of the trace.
    """
    rows = [row / row.norm() for row in W]
    eigenvalues, vectors = torch.linalg.eigh(outer_sum(rows, rows))
    projector, held = torch.eye(W.shape[1], dtype=W.dtype), 0.0
    for j in reversed(range(len(eigenvalues))):
        if held >= share * len(rows):
            break
        projector -= strength * torch.outer(vectors[:, j], vectors[:, j])
        held += eigenvalues[j].item()
    return update @ projector


def compensated(
    keys: list[Tensor],
    residuals: list[Tensor],
    lam: float,
    C: Tensor,
    past: list[Tensor],
    owed: Tensor,
) -> Tensor:
    """OTE-SE (2605.26670): Δ = (R Kᵀ − E)(λC + K_pK_pᵀ + K Kᵀ)⁻¹.

    E is what the restraints have taken from the equations so far.
    """
    return (outer_sum(residuals, keys) - owed) @ torch.linalg.inv(
        lam * C + outer_sum(keys + past, keys + past)
    )


def simie(W0: Tensor, ideals: list[Tensor], keys: list[Tensor], ridge: float) -> Tensor:
    """SimIE: P_t = P_{t−1} + K_tK_tᵀ from λI; W_t = W_{t−1} + (W̃_t − W_{t−1})K_tK_tᵀP_t⁻¹.

    W̃_t is the matrix after the t-th edit alone, K_t, (d_ff, tokens), the keys of that edit.
    """
    W, P = W0.double(), ridge * torch.eye(W0.shape[1], dtype=torch.float64)
    for ideal, K in zip(ideals, keys, strict=True):
        P = P + K.double() @ K.double().T
        W = W + (ideal.double() - W) @ K.double() @ K.double().T @ torch.linalg.inv(P)
    return W


def simie_joint(W0: Tensor, ideals: list[Tensor], keys: list[Tensor], ridge: float) -> Tensor:
    """argmin_W Σ ‖(W − W̃_t)K_t‖² + λ‖W − W₀‖², from its normal equations."""
    left = ridge * W0.double()
    right = ridge * torch.eye(W0.shape[1], dtype=torch.float64)
    for ideal, K in zip(ideals, keys, strict=True):
        outer = K.double() @ K.double().T
        left, right = left + ideal.double() @ outer, right + outer
    return left @ torch.linalg.inv(right)


def stableedit(
    rounds: list[tuple[Tensor, Tensor]], eta: float, ridge: float, whiten: bool = True
) -> list[Tensor]:
    """StableEdit (2605.11836): Δᵀ = (HᵀH + αI)⁻¹HᵀV of every round, v = −η‖ĥ‖²Σ^(−½)(g − μ).

    Moments are those of all rounds so far: Σ has the divisor n − d − 1 and no eigenvalue below
    1e-6, and is diagonal with the divisor n − 1 while n ≤ d + 1.

    Args:
        rounds: (H, G) of each, one token per row.
        whiten: False standardises each component of a gradient by itself, as UltraEdit does.
    """
    updates = []
    for i, (H, G) in enumerate(rounds):
        all_h = torch.cat([h for h, _ in rounds[: i + 1]]).double()
        all_g = torch.cat([g for _, g in rounds[: i + 1]]).double()
        (n, d), H, G = all_g.shape, H.double(), G.double()
        h_hat = (H - all_h.mean(0)) / all_h.std(0)
        if whiten and n > d + 1:
            centred = all_g - all_g.mean(0)
            values, vectors = torch.linalg.eigh(centred.T @ centred / (n - d - 1))
            root = vectors @ torch.diag(values.clamp(min=1e-6) ** -0.5) @ vectors.T
            g_hat = (G - all_g.mean(0)) @ root
        else:
            g_hat = (G - all_g.mean(0)) / all_g.std(0)
        V = torch.stack([-eta * (a @ a) * b for a, b in zip(h_hat, g_hat, strict=True)])
        inverse = torch.linalg.inv(H.T @ H + ridge * torch.eye(H.shape[1], dtype=torch.float64))
        updates.append((inverse @ H.T @ V).T)
    return updates


def pilot_anchor(
    pilots: list[Tensor], z: list[Tensor], h: list[Tensor], v: list[Tensor]
) -> tuple[list[Tensor], float]:
    """NAS (2602.02543), per-model anchor: the z' of requests, and the anchor.

    The anchor is the mean norm of the pilots' v* without the largest 5 %. Values v* = v + δ beyond
    twice of it are skipped (v* = v); the others are scaled to it.

    Args:
        pilots: values v* of other edits on the unedited model.
    """
    norms = sorted(float(p.norm()) for p in pilots)
    kept = norms[: round(0.95 * len(norms))]
    anchor, found = sum(kept) / len(kept), []
    for zi, hi, vi in zip(z, h, v, strict=True):
        value = vi + (zi - hi)
        if float(value.norm()) > 2 * anchor:
            value = vi
        else:
            value = value * anchor / float(value.norm())
        found.append(hi - vi + value)
    return found, anchor


def adaptor_loss(
    edited: Tensor,
    whitened: Tensor,
    variants: Tensor,
    owner: list[int],
    others: Tensor,
    p: dict[str, Tensor],
) -> Tensor:
    """REP's losses (2410.09338) as `seqedit.methods.kinds.key_adaptor` states them, key by key."""

    def moved(k):
        return k + torch.sigmoid(k @ p["gate"] + p["bias"]) * ((k @ p["A"]) @ p["B"])

    def fires(k, i):  # β(k) = kᵀC⁻¹k* / k*ᵀC⁻¹k*
        return (k @ whitened[i]) / (edited[i] @ whitened[i])

    near = sum((fires(moved(k), i) - 1) ** 2 for k, i in zip(variants, owner, strict=True)) / len(
        variants
    )
    far = sum(fires(moved(k), i) ** 2 for k in others for i in range(len(edited))) / (
        len(others) * len(edited)
    )
    kept = [
        sum(((moved(k) - k) ** 2).sum() / (k**2).sum() for k in keys) / len(keys)
        for keys in (others, edited)
    ]
    return near + far + kept[0] + kept[1]


def adam(
    W: Tensor, gradient: Callable[[Tensor], Tensor], lr: float, state: dict[str, Any]
) -> Tensor:
    """Adam (1412.6980), algorithm 1, one step; `state` holds t, m and v and is empty at first."""
    g, t = gradient(W), state.get("t", 0) + 1
    m = 0.9 * state.get("m", 0) + 0.1 * g
    v = 0.999 * state.get("v", 0) + 0.001 * g * g
    state.update(t=t, m=m, v=v)
    return W - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def curvature_price(
    keys: list[Tensor], residuals: list[Tensor], S: Tensor, M: Tensor, past: list[Tensor]
) -> Tensor:
    """argmin Σ ‖Δk_i − r_i‖² + Σ ‖Δk_p‖² + tr(SΔMΔᵀ), by the normal equations of vec Δ.

    (Σ kkᵀ ⊗ I + M ⊗ S) vec Δ = vec Σ r_ik_iᵀ, with vec stacking columns.
    """
    system = torch.kron(M, S) + torch.kron(outer_sum(keys + past, keys + past), torch.eye(len(S)))
    right = outer_sum(residuals, keys)
    return torch.linalg.solve(system, right.T.flatten()).reshape(right.T.shape).T


def low_curvature(Q: Tensor, A: Tensor, S: Tensor, share: float) -> Tensor:
    """CrispEdit (2602.15823): U_S((U_SᵀQU_A) ⊙ M)U_Aᵀ, M_ij = 1 where λ^S_iλ^A_j < τ.

    τ is the product at which the products, sorted downwards, first hold the share of their sum.
    """
    inputs, V = torch.linalg.eigh(A)
    outputs, U = torch.linalg.eigh(S)
    products = sorted(((a * b).item() for a in outputs for b in inputs), reverse=True)
    held = 0.0
    for tau in products:
        held += tau
        if held >= share * sum(products):
            break
    kept = torch.zeros_like(Q)
    for i in range(len(S)):
        for j in range(len(A)):
            if outputs[i] * inputs[j] < tau:
                kept += (U[:, i] @ Q @ V[:, j]) * torch.outer(U[:, i], V[:, j])
    return kept


class Case:
    """Random keys, residuals, a second moment with half of its spectrum below 0.5, and past keys.

    Attributes:
        K, R: keys (d_ff, n) and residuals (d_model, n) of the round.
        bare: keys of the bare prompts, (d_ff, n).
        W: the matrix, (d_model, d_ff), small enough for PRUNE to bite.
        C: second moment, (d_ff, d_ff); past_keys: keys of three earlier edits, (d_ff, 3).
    """

    def __init__(self, n: int = 2, d_ff: int = 10, d_model: int = 4, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.K, self.R = random(d_ff, n), random(d_model, n)
        self.W, self.bare = 0.1 * random(d_model, d_ff), random(d_ff, n)
        self.past_keys = random(d_ff, 3)
        Q = torch.linalg.qr(random(d_ff, d_ff))[0]
        self.C = (Q * torch.linspace(0.02, 1.2, d_ff, dtype=torch.float64)) @ Q.T

    @property
    def keys(self) -> list[Tensor]:
        return columns(self.K)

    @property
    def residuals(self) -> list[Tensor]:
        return columns(self.R)

    @property
    def past(self) -> list[Tensor]:
        return columns(self.past_keys)

    def eye(self) -> Tensor:
        return torch.eye(len(self.C), dtype=torch.float64)


Oracle = Callable[[Case, dict[str, Any]], Tensor]
UPDATES: dict[str, Oracle] = {}
"""method → the update that its paper prints for a case, given the method's parameters.

Every method that solves at targets has one. Where a method is more than its solve, its entry in the
catalogue names the test of the rest.
"""


def update_of(*names: str) -> Callable[[Oracle], Oracle]:
    def enter(oracle: Oracle) -> Oracle:
        UPDATES.update(dict.fromkeys(names, oracle))
        return oracle

    return enter


@update_of("rome", "r_rome")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return emmet(case.keys, case.residuals, case.C)


@update_of("emmet")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return emmet(case.keys, case.residuals, p["lam"] * case.C, p["ridge"])


@update_of("memit", "bird", "pmet", "memit_merge", "lyaplock")  # LyapLock's first round is MEMIT
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return memit(case.keys, case.residuals, p["lam"], case.C)


@update_of("memit_seq")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return memit_seq(case.keys, case.residuals, p["lam"], case.C, case.past)


@update_of("memit_rect")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return rect(case.W, memit(case.keys, case.residuals, p["lam"], case.C), p["share"])


@update_of("memit_prune")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return prune(case.W, memit(case.keys, case.residuals, p["lam"], case.C), p["alpha"])


@update_of("encore")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    price = p["lam"] * case.C + p["gamma"] * case.eye()
    return memit_seq(case.keys, case.residuals, 1.0, price, case.past)


@update_of("rlsedit")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return rlsedit(case.keys, case.residuals, p["lam"], p["gamma"], case.C, case.past)


@update_of("alphaedit", "nas", "nas_pilot")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    P = projection(case.C, p["threshold"])
    return alphaedit(case.keys, case.residuals, P, p["l2"], case.past)


@update_of("evoedit")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    P = projection(case.C, p["threshold"])
    return evoedit(case.keys, case.residuals, P, p["l2"], case.past)


@update_of("betaedit")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    P = projection(case.C, p["threshold"])
    return betaedit(case.keys, case.residuals, P, p["lam"], p["l2"], case.C, case.past)


@update_of("nse_paper")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return nse(case.keys, case.residuals, p["lam"], case.C, case.past, p["mass"])


@update_of("nse")
def _(case: Case, p: dict[str, Any]) -> Tensor:
    return nse(case.keys, case.residuals, p["lam"], case.C, case.past, p["mass"], released=True)
