"""Run the measurements of `seqedit bench`, each beside the plain way in the same process."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..base.files import write_json
from ..base.paths import MODEL, find_model
from .limits import bench_limits, limits_line
from .rating import bench_rating, rating_line
from .rounds import (
    bench_evaluation,
    bench_flops,
    bench_model_round,
    bench_round,
    bench_rounds,
    evaluation_line,
    flops_line,
    round_line,
    rounds_line,
)
from .solving import (
    bench_forms,
    bench_projection,
    bench_solve,
    forms_line,
    projection_line,
    solve_line,
)


class Bench(NamedTuple):
    """A measurement and how its result is printed."""

    measure: Callable[[], dict[str, Any]]
    line: Callable[[dict[str, Any]], str]


BENCHES = {
    "round": Bench(bench_round, round_line),
    "flops": Bench(bench_flops, flops_line),
    "limits": Bench(bench_limits, limits_line),
    "rounds": Bench(bench_rounds, rounds_line),
    "evaluation": Bench(bench_evaluation, evaluation_line),
    "rating": Bench(bench_rating, rating_line),
    "solve": Bench(bench_solve, solve_line),
    "forms": Bench(bench_forms, forms_line),
    "projection": Bench(bench_projection, projection_line),
}
"""Measurements by name, in the order in which they run."""


def run_benches(
    names: list[str],
    out: Path | None = None,
    say: Callable[[str], object] = print,
    *,
    rated: dict[str, Any] | None = None,
    model: str = "embedded",
    dtype: str = "float32",
) -> dict[str, dict[str, Any]]:
    """Run measurements one after the other.

    Args:
        names: names in `BENCHES`; all of them if empty.
        out: file for the results as JSON.
        say: receives a line for each measurement as soon as it is done.
        rated: what `bench_rating` measures, if not what it does by itself.
        model: what `round` and `limits` edit, see `bench_model_round`.
        dtype: of its weights.

    Returns:
        Name → result.

    Raises:
        ValueError: there is no such measurement.
    """
    known = dict(BENCHES)
    if rated:
        known["rating"] = Bench(partial(bench_rating, **rated), rating_line)
    if Path(find_model(model)) != MODEL:
        known["round"] = Bench(partial(bench_model_round, model, dtype=dtype), round_line)
        known["limits"] = Bench(partial(bench_limits, model, dtype), limits_line)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no measurement named {unknown[0]!r}; there are {', '.join(known)}")
    results = {}
    for name in names or BENCHES:
        results[name] = known[name].measure()
        say(known[name].line(results[name]))
    if out is not None:
        write_json(out, {"threads": torch.get_num_threads(), "results": results})
    return results
