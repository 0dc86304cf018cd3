"""Measure the solve of a round in its different forms, on synthetic keys."""

import multiprocessing
import resource
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..algebra.solve import spd_solve
from ..algebra.solver import Solver
from ..algebra.subspace import Subspace, null_space
from .job import timed

LLAMA3 = {"d_ff": 14_336, "d_model": 4_096, "past": 2_000, "new": 100, "removed": 4_300}
"""Sizes of a round after 2,000 edits in a layer of Llama-3-8B.

`removed` is the number of directions of C above τ, 30 % as users report.
"""

FORMS = ("dense, as released", "symmetric", "dual", "dual with history")
"""The exact ways to solve for a round; `chapters/one_formula` states them as a theorem."""


def bench_solve(sizes: dict[str, int] = LLAMA3) -> dict[str, Any]:
    """Compare AlphaEdit's update in the space of edits with the released dense system.

    Each form runs in a process of its own, whose peak memory is its own, too.

    Args:
        sizes: d_ff, d_model, number of past and new edits, and of removed directions.
    """
    d, m, N, n, k = (sizes[name] for name in ("d_ff", "d_model", "past", "new", "removed"))
    history = 2 * 2 * d * N * n + N**3 / 3 + 2 * N**2 * n
    fast = 3 * 4 * d * k * n + history + 2 * d * n * (n + m)
    dense = 2 * d**3 + 2 / 3 * d**3 + 2 * d**2 * (2 * n + 2 * m)
    result: dict[str, Any] = {
        "sizes": sizes,
        "fast_flops": fast,
        "dense_flops": dense,
        "flops_ratio": dense / fast,
    }
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for form in ("fast", "dense"):
            seconds, peak, start = pool.apply(_solve, (form, sizes))
            result[f"{form}_seconds"] = seconds
            result[f"{form}_peak_bytes"] = peak
            result[f"{form}_bytes_before"] = start
    return result | {"ratio": result["dense_seconds"] / result["fast_seconds"]}


def _solve(form: str, sizes: dict[str, int]) -> tuple[float, int, int]:
    """Time one solve.

    Returns:
        Its seconds, the peak memory of the process, and its memory before the solve, with the
        inputs made; in bytes.
    """
    d, m, N, n, k = (sizes[name] for name in ("d_ff", "d_model", "past", "new", "removed"))
    generator = torch.Generator().manual_seed(0)
    V = torch.linalg.qr(torch.randn(d, k, generator=generator))[0]
    past, K = torch.randn(d, N, generator=generator), torch.randn(d, n, generator=generator)
    R = torch.randn(m, n, generator=generator)
    if form == "fast":
        solver = Solver(10.0, Subspace(V.double(), complement=True))
        gram = solver.extend(torch.zeros(0, 0, dtype=torch.float64), past[:, :0], past)
        before = _peak_bytes()
        seconds, _ = timed(lambda: solver.update(K, R, past, gram))
        return seconds, _peak_bytes(), before
    P, seen = torch.eye(d) - V @ V.T, past @ past.T  # float32, as the released code
    before = _peak_bytes()
    seconds, _ = timed(
        lambda: torch.linalg.solve(P @ (K @ K.T + seen) + 10.0 * torch.eye(d), P @ K @ R.T)
    )
    return seconds, _peak_bytes(), before


def _peak_bytes() -> int:
    """The largest memory this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def solve_line(result: dict[str, Any]) -> str:
    """The result of `bench_solve` in a line."""
    own = (result["fast_peak_bytes"] - result["fast_bytes_before"]) / 1e9
    dense_own = (result["dense_peak_bytes"] - result["dense_bytes_before"]) / 1e9
    return (
        f"solve at Llama-3 size: {result['fast_seconds']:.1f} s, dense "
        f"{result['dense_seconds']:.1f} s, ratio {result['ratio']:.0f}; FLOPs ÷ "
        f"{result['flops_ratio']:.0f}; memory beyond the inputs {own:.1f} GB, dense "
        f"{dense_own:.1f} GB"
    )


def bench_forms(
    widths: tuple[int, ...] = (384, 768, 1536, 3072),
    past: int = 500,
    new: int = 50,
    repeats: int = 3,
) -> dict[str, Any]:
    """Time one solve by each form, beside the number of its operations; float64.

    Args:
        widths: values of d_ff; d_model is a quarter of each.
        past: number of past edits.
        new: number of new edits.
        repeats: number of solves, of which the fastest counts.
    """
    points = [point for d in widths for point in _points(d, past, new, repeats)]
    first, last = points[-len(FORMS)], points[-1]  # both at the largest width
    return {
        "forms": FORMS,
        "past": past,
        "new": new,
        "points": points,
        "d_ff": widths[-1],
        "differs": max(point["differs"] for point in points),
        "ratio": first["seconds"] / last["seconds"],
        "flops_ratio": first["flops"] / last["flops"],
    }


def _points(d: int, past: int, new: int, repeats: int) -> list[dict[str, Any]]:
    """The measurements of all forms at one width."""
    solves, flops = _solves(d, d // 4, past, new), count_forms(d, d // 4, past, new)
    updates = {form: solve() for form, solve in solves.items()}  # first call: kernels load
    expected = updates["symmetric"]
    points = []
    for form, solve in solves.items():
        points.append(
            {
                "form": form,
                "d_ff": d,
                "flops": flops[form],
                "seconds": min(timed(solve)[0] for _ in range(repeats)),
                "differs": ((updates[form] - expected).norm() / expected.norm()).item(),
            }
        )
    return points


def count_forms(d: int, m: int, N: int, n: int) -> dict[str, float]:
    """Count the operations of one round's solve by each form, to leading order.

    Args:
        d: d_ff.
        m: d_model.
        N: number of past edits.
        n: number of new edits.
    """
    history = 4 * d * N * n + N**3 / 3 + 2 * N**2 * n
    return {
        "dense, as released": 2 * d**3 + 2 / 3 * d**3 + 2 * d**2 * (2 * n + m),
        "symmetric": d**3 / 3 + 4 * d**2 * n + 2 * d * n * m,
        "dual": d**3 / 3 + 2 * d**2 * n + 2 * d * n * (n + m),
        "dual with history": 4 * d**2 * n + history + 2 * d * n * (n + m),
    }


def _solves(
    d: int, m: int, N: int, n: int
) -> dict[str, Callable[[], Float[Tensor, "d_model d_ff"]]]:
    """Form → its solve, all on the same synthetic keys and residuals."""
    generator = torch.Generator().manual_seed(0)
    Kp, K, R = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((d, N), (d, n), (m, n))
    )
    P = torch.eye(d, dtype=torch.float64)  # stands for a projection: the same work
    M0 = P + Kp[:, :40] @ Kp[:, :40].T / d
    M = M0 + Kp @ Kp.T
    solver = Solver(M0, dense_from=float("inf"))  # the dual form at every width
    gram = solver.extend(torch.zeros(0, 0, dtype=torch.float64), Kp[:, :0], Kp)
    return {
        "dense, as released": lambda: torch.linalg.solve(P @ (M + K @ K.T), P @ K @ R.T).T,
        "symmetric": lambda: R @ spd_solve(M + K @ K.T, K).T,
        "dual": lambda: R @ _dual(M, K),
        "dual with history": lambda: solver.update(K, R, Kp, gram),
    }


def _dual(M: Float[Tensor, "d_ff d_ff"], K: Float[Tensor, "d_ff n"]) -> Float[Tensor, "n d_ff"]:
    """(I + KᵀM⁻¹K)⁻¹ KᵀM⁻¹, which applied to R gives the update."""
    Q = spd_solve(M, K)
    return spd_solve(torch.eye(K.shape[1]).to(K) + K.T @ Q, Q.T)


def forms_line(result: dict[str, Any]) -> str:
    """The result of `bench_forms` in a line."""
    return (
        "one solve at d_ff {d_ff} after {past} edits: dense ÷ dual with history {ratio:.0f} in "
        "seconds, {flops_ratio:.0f} in operations; updates differ by {differs:.0e}"
    ).format(**result)


def bench_projection(d: int = 1536) -> dict[str, Any]:
    """Time a null space when it is made first and when its eigenpairs are remembered.

    Args:
        d: d_ff; `null_space` remembers the eigenpairs of matrices up to `LARGEST_REMEMBERED`.

    Returns:
        `first_seconds`, `again_seconds`, their `ratio`, and whether both are the `same` to the bit.
    """
    keys = torch.randn(d, 2 * d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    C = keys @ keys.T / keys.shape[1]
    first_seconds, first = timed(lambda: null_space(C, 1.0))
    again_seconds, again = timed(lambda: null_space(C.clone(), 1.0))
    return {
        "d_ff": d,
        "first_seconds": first_seconds,
        "again_seconds": again_seconds,
        "ratio": first_seconds / again_seconds,
        "same": torch.equal(first.vectors, again.vectors),
    }


def projection_line(result: dict[str, Any]) -> str:
    """The result of `bench_projection` in a line."""
    return (
        "null space at d_ff {d_ff}: {first_seconds:.2f} s first, {again_seconds:.3f} s when its "
        "eigenpairs are remembered, ratio {ratio:.0f}; the same to the bit: {same}"
    ).format(**result)
