"""What the speed-ups are worth: each measured beside the plain way, in one process run (`seqedit bench`)."""

import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..algebra.solve import spd_solve
from ..algebra.solver import Solver
from ..algebra.subspace import Subspace
from ..base.files import write_json
from ..base.paths import MODEL, WORLD
from ..editing.sequential import run_sequential
from ..evaluation.edits import score_edits
from ..evaluation.report import evaluate
from ..lm.target_loss import target_rows
from ..lm.targets import optimise_targets
from ..lm.weights import read_weight, restored
from ..runs.job import Job, RunConfig, prepare
from .full_size import bench_full_size, report_full_size
from .reference import alphaedit_round

LLAMA3 = {"d_ff": 14_336, "d_model": 4_096, "past": 2_000, "new": 100, "removed": 4_300}
"""Sizes of a Llama-3-8B layer, a round after 2,000 edits; `removed`: directions of C above τ, 30 % as users report."""


def timed(work: Callable) -> tuple[float, object]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def embedded_job(n_edits: int, batch_size: int) -> Job:
    """AlphaEdit on the embedded model with its tuned settings."""
    return prepare(
        RunConfig(
            model=str(MODEL),
            requests=WORLD / "records.json",
            method="alphaedit",
            settings={},
            n_edits=n_edits,
            batch_size=batch_size,
            shuffle=True,
        )
    )


def bench_round(n_edits: int = 100) -> dict:
    """One round of AlphaEdit: the loop against one request at a time with dense systems, and how far weights differ."""
    job = embedded_job(n_edits, n_edits)
    lm, plan, method = job.lm, job.plan, job.settings.make()
    with restored(lm, plan.layers):
        next(run_sequential(lm, [job.rounds[0][:4]], method, plan))  # load kernels, fill caches
    before = {layer: read_weight(lm, layer) for layer in plan.layers}
    solvers = {layer: method.solver(plan.moments[layer]) for layer in plan.layers}
    eye = torch.eye(len(plan.moments[plan.layers[0]]), dtype=torch.float64)
    projections = {layer: solver.inverse(eye) * solver.M for layer, solver in solvers.items()}
    weights, seconds = {}, {}
    with restored(lm, plan.layers):
        done = next(run_sequential(lm, job.rounds, method, plan))
        seconds["fast"], stages = done.seconds["total"], done.seconds
        weights["fast"] = {layer: read_weight(lm, layer) for layer in plan.layers}
    with restored(lm, plan.layers):
        past = {layer: 0 * eye for layer in plan.layers}
        seconds["plain"], _ = timed(
            lambda: alphaedit_round(
                lm,
                job.rounds[0],
                plan.contexts,
                plan.layers,
                projections,
                solvers[plan.layers[0]].M,
                past,
                plan.target,
            )
        )
        weights["plain"] = {layer: read_weight(lm, layer) for layer in plan.layers}

    def worst(base):
        return max(
            (
                (weights["fast"][layer] - weights["plain"][layer]).norm()
                / (weights["plain"][layer] - base[layer]).norm()
            ).item()
            for layer in plan.layers
        )

    return {
        "edits": n_edits,
        "plain_seconds": seconds["plain"],
        "seconds": seconds["fast"],
        "ratio": seconds["plain"] / seconds["fast"],
        "stages": stages,
        "weights_differ": worst({layer: 0 for layer in plan.layers}),
        "updates_differ": worst(before),
    }


def bench_flops(n_edits: int = 100, repeats: int = 20) -> dict:
    """Rate of target optimisation against that of its dominant product: the MLP on the largest group of tails."""
    job = embedded_job(n_edits, n_edits)
    lm, requests, plan = job.lm, job.rounds[0], job.plan

    def work():
        return optimise_targets(lm, requests, plan.contexts, plan.layers[-1], plan.target)

    with FlopCounterMode(display=False) as counter:
        work()
    seconds = min(timed(work)[0] for _ in range(3))
    mlp = lm.down_proj(plan.layers[-1])
    d_model, d_ff = sorted(mlp.weight.shape)
    templates = [t for group in plan.contexts for t in group]
    lengths = Counter(
        len(row.ids) - row.at
        for own in target_rows(lm, requests, templates, plan.target)
        for row in own
    )
    tokens = torch.randn(max(length * rows for length, rows in lengths.items()), d_model)
    up = torch.randn(d_model, d_ff)
    tokens @ up
    product = min(timed(lambda: tokens @ up)[0] for _ in range(repeats))
    flops = counter.get_total_flops()
    rate, limit = flops / seconds, 2 * tokens.shape[0] * d_model * d_ff / product
    return {
        "edits": n_edits,
        "flops": flops,
        "seconds": seconds,
        "rate": rate,
        "matrix_product_rate": limit,
        "shape": [len(tokens), d_model, d_ff],
        "share": rate / limit,
    }


def bench_rounds(rounds: int = 50, batch_size: int = 20) -> dict:
    """Seconds of a round and bytes of history as edits add up.

    Targets take all their steps here: otherwise later rounds, on a model that is worse, would do more work.
    """
    job = embedded_job(rounds * batch_size, batch_size)
    plan = replace(job.plan, target=replace(job.plan.target, stop_loss=0.0))
    seconds, history = [], []
    for done in run_sequential(job.lm, job.rounds, job.settings.make(), plan):
        seconds.append(done.seconds)
        layer = job.plan.layers[0]
        history.append(sum(t.nbytes for t in (done.state.keys[layer], done.state.grams[layer])))
    d_ff = len(job.plan.moments[layer])

    def least(chosen, stages=("total",)):  # of five rounds: other work on the machine
        return min(sum(s[name] for name in stages) for s in chosen)

    early, late, rest = seconds[1:6], seconds[-5:], ("keys", "solve", "observe")
    return {
        "rounds": rounds,
        "batch_size": batch_size,
        "seconds_early": least(early),
        "seconds_late": least(late),
        "ratio": least(late) / least(early),
        "ratio_without_targets": least(late, rest) / least(early, rest),
        "history_bytes": history,
        "dense_cache_bytes": 4 * d_ff**2,
    }


def bench_evaluation(n_edits: int = 500) -> dict:
    """All metrics but generated text of that many edits on the embedded model."""
    job = embedded_job(n_edits, n_edits)
    requests = job.rounds[0]
    unedited = score_edits(job.lm, requests)
    seconds, _ = timed(
        lambda: evaluate(job.lm, requests, unedited=unedited, rounds=job.edited_in, world=WORLD)
    )
    return {"edits": n_edits, "seconds": seconds}


def bench_solve(sizes: dict[str, int] = LLAMA3) -> dict:
    """AlphaEdit's update at the size of a large model, synthetic keys: edits' space against the dense system."""
    d, m, N, n, k = (sizes[name] for name in ("d_ff", "d_model", "past", "new", "removed"))
    flops = {
        "fast": 3 * 4 * d * k * n
        + 2 * 2 * d * N * n
        + N**3 / 3
        + 2 * N**2 * n
        + 2 * d * n * (n + m),
        "dense": 2 * d**3 + 2 / 3 * d**3 + 2 * d**2 * (2 * n + 2 * m),
    }
    result = {
        "sizes": sizes,
        "fast_flops": flops["fast"],
        "dense_flops": flops["dense"],
        "flops_ratio": flops["dense"] / flops["fast"],
    }
    with multiprocessing.get_context("spawn").Pool(
        1, maxtasksperchild=1
    ) as pool:  # own processes: own peak memory
        for form in ("fast", "dense"):
            seconds, peak, start = pool.apply(_solve, (form, sizes))
            result |= {
                f"{form}_seconds": seconds,
                f"{form}_peak_bytes": peak,
                f"{form}_bytes_before": start,
            }
    return result | {"ratio": result["dense_seconds"] / result["fast_seconds"]}


def _solve(form: str, sizes: dict[str, int]) -> tuple[float, int, int]:
    """Seconds of one solve, peak memory of the process, and its memory before the solve (with the inputs made)."""
    d, m, N, n, k = (sizes[name] for name in ("d_ff", "d_model", "past", "new", "removed"))
    generator = torch.Generator().manual_seed(0)
    V = torch.linalg.qr(torch.randn(d, k, generator=generator))[0]
    past, K = torch.randn(d, N, generator=generator), torch.randn(d, n, generator=generator)
    R = torch.randn(m, n, generator=generator)
    if form == "fast":
        solver = Solver(10.0, Subspace(V.double(), complement=True))
        gram = solver.extend(torch.zeros(0, 0, dtype=torch.float64), past[:, :0], past)
        before = _peak()
        seconds, _ = timed(lambda: solver.update(K, R, past, gram))
        return seconds, _peak(), before
    P, seen = torch.eye(d) - V @ V.T, past @ past.T  # float32, as the released code
    before = _peak()
    seconds, _ = timed(
        lambda: torch.linalg.solve(P @ (K @ K.T + seen) + 10.0 * torch.eye(d), P @ K @ R.T)
    )
    return seconds, _peak(), before


FORMS = ("dense, as released", "symmetric", "dual", "dual with history")
"""The exact ways to solve for a round; `chapters/one_formula` has them as a theorem."""


def bench_forms(
    widths: tuple[int, ...] = (384, 768, 1536, 3072),
    past: int = 500,
    new: int = 50,
    repeats: int = 3,
) -> dict:
    """Seconds of one solve by each form against the operations counted for it, synthetic keys, float64."""
    points = []
    for d in widths:
        found, flops = _forms(d, d // 4, past, new), count_forms(d, d // 4, past, new)
        updates = {form: call() for form, call in found.items()}  # first call: kernels load
        size = updates[FORMS[1]].norm()
        points += [
            {
                "form": form,
                "d_ff": d,
                "flops": flops[form],
                "seconds": min(timed(call)[0] for _ in range(repeats)),
                "differs": ((updates[form] - updates[FORMS[1]]).norm() / size).item(),
            }
            for form, call in found.items()
        ]
    first, last = (points[-len(FORMS)], points[-1])
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


def count_forms(d: int, m: int, N: int, n: int) -> dict[str, float]:
    """Operations of one round's solve by each form, to leading order: n new edits after N, matrices m × d."""
    return {
        FORMS[0]: 2 * d**3 + 2 / 3 * d**3 + 2 * d**2 * (2 * n + m),
        FORMS[1]: d**3 / 3 + 4 * d**2 * n + 2 * d * n * m,
        FORMS[2]: d**3 / 3 + 2 * d**2 * n + 2 * d * n * (n + m),
        FORMS[3]: 4 * d**2 * n + 4 * d * N * n + N**3 / 3 + 2 * N**2 * n + 2 * d * n * (n + m),
    }


def _forms(d: int, m: int, N: int, n: int) -> dict[str, Callable[[], torch.Tensor]]:
    """form → its solve, on the same synthetic keys and residuals."""
    generator = torch.Generator().manual_seed(0)
    Kp, K, R = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((d, N), (d, n), (m, n))
    )
    P = torch.eye(d, dtype=torch.float64)  # stands for a projection: the same work
    M0 = P + Kp[:, :40] @ Kp[:, :40].T / d
    M, solver = M0 + Kp @ Kp.T, Solver(M0, dense_from=float("inf"))  # the dual form at every width
    gram = solver.extend(torch.zeros(0, 0, dtype=torch.float64), Kp[:, :0], Kp)
    return {
        FORMS[0]: lambda: torch.linalg.solve(P @ (M + K @ K.T), P @ K @ R.T).T,
        FORMS[1]: lambda: R @ spd_solve(M + K @ K.T, K).T,
        FORMS[2]: lambda: R @ _dual(M, K),
        FORMS[3]: lambda: solver.update(K, R, Kp, gram),
    }


def _dual(M: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    Q = spd_solve(M, K)
    return spd_solve(torch.eye(K.shape[1]).to(K) + K.T @ Q, Q.T)


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


BENCHES = {
    "round": bench_round,
    "flops": bench_flops,
    "rounds": bench_rounds,
    "evaluation": bench_evaluation,
    "solve": bench_solve,
    "forms": bench_forms,
}
"""Measurements by name."""

ON_REQUEST = {"full-size": bench_full_size}
"""Measurements that run only when they are named: they need a GPU."""


def report(results: dict[str, dict]) -> str:
    """Readable lines, one per measurement."""
    lines = {
        "round": "a round of {edits} edits (AlphaEdit): {seconds:.1f} s, plain {plain_seconds:.1f} s, "
        "ratio {ratio:.1f}; relative difference of "
        "weights {weights_differ:.1e}, updates {updates_differ:.1e}",
        "flops": "targets of {edits} requests: {gflops:.0f} GFLOP at {rate_g:.0f} GFLOP/s, {percent:.0f} % of a matrix "
        "product's {limit_g:.0f}",
        "rounds": "{rounds} rounds of {batch_size}: last ÷ second {ratio:.2f} ({ratio_without_targets:.2f} without "
        "targets); history {kept:.1f} MB a layer, a d×d cache {cache:.1f} MB",
        "evaluation": "evaluation of {edits} edits: {seconds:.1f} s",
        "solve": "solve at Llama-3 size: {fast_seconds:.1f} s, dense {dense_seconds:.1f} s, ratio {ratio:.0f}; FLOPs "
        "÷ {flops_ratio:.0f}; memory beyond the inputs {own:.1f} GB, dense {dense_own:.1f} GB",
        "forms": "one solve at d_ff {d_ff} after {past} edits: dense ÷ dual with history {ratio:.0f} in seconds, "
        "{flops_ratio:.0f} in operations; updates differ by {differs:.0e}",
    }
    extra = {
        "flops": lambda r: {
            "gflops": r["flops"] / 1e9,
            "rate_g": r["rate"] / 1e9,
            "percent": 100 * r["share"],
            "limit_g": r["matrix_product_rate"] / 1e9,
        },
        "rounds": lambda r: {
            "kept": r["history_bytes"][-1] / 1e6,
            "cache": r["dense_cache_bytes"] / 1e6,
        },
        "solve": lambda r: {
            "own": (r["fast_peak_bytes"] - r["fast_bytes_before"]) / 1e9,
            "dense_own": (r["dense_peak_bytes"] - r["dense_bytes_before"]) / 1e9,
        },
    }
    return "\n".join(
        report_full_size(r)
        if name == "full-size"
        else lines[name].format(**r, **extra.get(name, lambda _: {})(r))
        for name, r in results.items()
    )


def bench(names: list[str], out: Path | None = None, say=print) -> dict[str, dict]:
    """Run measurements one after the other, say each as it is done, and write the record.

    Raises:
        ValueError: no such measurement.
    """
    known = BENCHES | ON_REQUEST
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no measurement named {unknown[0]!r}; there are {', '.join(known)}")
    results = {}
    for name in names or BENCHES:
        results[name] = known[name]()
        say(report({name: results[name]}))
    if out is not None:
        write_json(out, {"threads": torch.get_num_threads(), "results": results})
    return results
