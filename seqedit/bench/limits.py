"""What a round's time is spent on that no rearrangement saves: matrix products, and thin ones."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile

from ..base.paths import MODEL, find_model
from .job import embedded_job
from .rounds import Rounds, round_of_model

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addbmm")
"""Operations of torch that are matrix products; others call these."""


def bench_limits(
    model: str = "embedded", dtype: str = "float32", n_edits: int | None = None
) -> dict[str, Any]:
    """Measure how much of a round is matrix products, and what a round of a single edit costs.

    What a run makes once, the null space above all, is part of no round.

    If all else took no time, the ratio to the plain way (`bench_round`) would be that ratio divided
    by the share of the products.

    Args:
        model: folder, hub id or short name.
        dtype: of the weights; the embedded model has float32.
        n_edits: requests of the round; by default as many as `round` has.

    Returns:
        `cpu_seconds` of the round and `one_cpu_seconds` of a round of one edit, the median of
        three; `one_ratio`, the cost of an edit in the latter in terms of the former; and the
        shares of the products in both, `products_share` and `one_products_share`.
    """
    if Path(find_model(model)) == MODEL:
        n = n_edits or 100
        job = embedded_job(n, n)
        lm, requests, method, plan = job.lm, job.rounds[0], job.settings.make(), job.plan
    else:
        lm, requests, method, plan = round_of_model(model, n_edits or 20, dtype)

    rounds = Rounds(lm, method, plan, requests[:4])
    one = median(rounds.time([request])[0] for request in requests[:3])
    whole = rounds.time(requests)[0]
    return {
        "model": Path(model).name,
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "edits": len(requests),
        "cpu_seconds": whole,
        "one_cpu_seconds": one,
        "one_ratio": one * len(requests) / whole,
        "products_share": products_share(partial(rounds.make, requests)),
        "one_products_share": products_share(partial(rounds.make, requests[:1])),
    }


def products_share(work: Callable[[], object]) -> float:
    """The share of matrix products in the time that torch's operations take, by its profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    spent = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    return sum(spent.get(name, 0.0) for name in PRODUCTS) / sum(spent.values())


def limits_line(result: dict[str, Any]) -> str:
    """The result of `bench_limits` in a line."""
    return (
        "{model}, {dtype}: matrix products take {products:.0f} % of a round of {edits} edits and "
        "{thin:.0f} % of one of a single edit, which costs {one_ratio:.1f} times as much an edit"
    ).format(
        products=100 * result["products_share"],
        thin=100 * result["one_products_share"],
        **result,
    )
