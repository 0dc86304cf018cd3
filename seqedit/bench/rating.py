"""Measure what rating prompts costs, beside the plain way."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.paths import MODEL, find_model
from ..evaluation.continuations import Ratings, rate
from ..lm.load import load_model
from ..requests.published import load_requests
from ..requests.request import EditRequest
from .plain_rating import rate_plainly


def bench_rating(
    model: str = "embedded", requests: str = "world", n_edits: int = 100
) -> dict[str, Any]:
    """Compare the CPU time of `rate` with that of the plain way, on what an evaluation rates.

    Args:
        model: local folder, hub id, or "embedded".
        requests: file of requests, name of a benchmark, "world" or "facts".
        n_edits: how many of them, from the first.
    """
    lm, chosen = load_model(model), load_requests(requests, clean=True)[:n_edits]
    prompts, targets = _evaluated(chosen)
    rate(lm, prompts[:8], targets[:8])  # load kernels
    plain_seconds, plain = _cpu_timed(lambda: rate_plainly(lm, prompts, targets))
    seconds, packed = _cpu_timed(lambda: rate(lm, prompts, targets))
    return {
        "model": "embedded" if Path(find_model(model)) == MODEL else Path(model).name,
        "requests": len(chosen),
        "prompts": len(set(prompts)),
        "plain_seconds": plain_seconds / len(chosen),
        "seconds": seconds / len(chosen),
        "ratio": plain_seconds / seconds,
        "nll_differs": float(np.max(np.abs(packed.nll - plain.nll))),
        "top_differs": int(np.sum(packed.top != plain.top)),
    }


def _evaluated(requests: Sequence[EditRequest]) -> tuple[list[str], list[str]]:
    """The prompts of efficacy, paraphrase and neighbourhood, each with new and true target."""
    pairs = [
        (prompt, target)
        for r in requests
        for prompt in (r.text, *r.paraphrase_prompts, *r.neighborhood_prompts)
        for target in (r.target_new, r.target_true)
        if target is not None
    ]
    return [prompt for prompt, _ in pairs], [target for _, target in pairs]


def _cpu_timed(work: Callable[[], Ratings]) -> tuple[float, Ratings]:
    """Call a function; return the CPU-seconds it took, of all threads, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def rating_line(result: dict[str, Any]) -> str:
    """The result of `bench_rating` in a line."""
    return (
        "rating {prompts} prompts of {requests} requests ({model}): {seconds:.3f} CPU-s a request, "
        "plain {plain_seconds:.3f}, ratio {ratio:.1f}; −log p differs by {nll_differs:.1e} nats, "
        "{top_differs} best tokens differ"
    ).format(**result)
