"""Ten thousand edits: do rounds stay fast, does memory stay small, do numbers stay finite?

The embedded model's world has about a thousand facts to edit. Here each of them changes ten times:
a pass edits all of them, in an order of its own, to objects drawn from those of their relation.
"""

import math
import random
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from ..base.jsonl import read_jsonl
from ..base.paths import MODEL, WORLD
from ..base.workers import worker_pool
from ..editing.sequential import run_sequential
from ..editing.state import EditState, Round
from ..evaluation.edits import score_edits
from ..lm.weights import read_weight
from ..requests.request import EditRequest
from ..runs.checkpoint import begin, resume, save_round
from ..runs.config import RunConfig
from ..runs.engine import new_record
from ..runs.job import Job, prepare
from ..runs.records import read_run

Rounds = list[list[EditRequest]]


@dataclass(frozen=True, kw_only=True)
class Many:
    """What is edited.

    Attributes:
        methods: one after the other, each in a process of its own.
        facts: of the embedded model's world.
        passes: how often each of them is edited.
        batch_size: edits in a round.
    """

    methods: tuple[str, ...] = ("memit_seq", "alphaedit", "ultraedit")
    facts: int = 1000
    passes: int = 10
    batch_size: int = 100

    def config(self, method: str) -> RunConfig:
        """The run of a method, of which the rounds are not yet those of all passes."""
        return RunConfig(
            model=str(MODEL),
            requests=WORLD / "records.json",
            method=method,
            n_edits=self.facts,
            batch_size=self.batch_size,
            shuffle=True,
        )


def bench_many(
    asked: Many, work: Path, say: Callable[[str], object] = print
) -> dict[str, dict[str, Any]]:
    """Make the edits by each method; interrupted, it goes on from the last round in `work`.

    Returns:
        Method → see `_edit_many`.
    """
    found = {}
    for method in asked.methods:
        with worker_pool(1) as pool:  # memory is that of the process
            found[method] = pool.submit(_edit_many, asked, method, work / method).result()
        say(f"{method}: {many_line(found[method])}")
    return found


def many_line(result: dict[str, Any]) -> str:
    """The result of a method in a line."""
    cpu = result["cpu_seconds"]
    return (
        f"{sum(result['edits'])} edits, {sum(result['refused'])} refused, "
        f"{sum(result['not_finite'])} numbers not finite; CPU-seconds a round {mean(cpu[:10]):.1f} "
        f"at the start, {mean(cpu[-10:]):.1f} at the end; history "
        f"{result['history_bytes'][-1] / 1e6:.0f} MB, peak {result['peak_bytes'] / 1e9:.2f} GB; "
        f"resumed in {result['resume_seconds']:.1f} s; {100 * result['exact']:.0f} % of the last "
        "pass exact"
    )


def many_rounds(
    requests: Sequence[EditRequest],
    objects: Mapping[str | None, set[str]],
    passes: int,
    batch_size: int,
    seed: int = 0,
) -> Rounds:
    """Rounds that edit every request's fact once a pass, each time to another object.

    The first pass has the requests' own objects and order.

    Args:
        requests: each of another fact, with their relations.
        objects: relation → those that are drawn from.
        passes: how many.
        batch_size: edits in a round, of one pass only.
        seed: of orders and objects.
    """
    rng, current, rounds = random.Random(seed), list(requests), []
    for number in range(passes):
        if number:
            rng.shuffle(current)
            current = [_changed(one, objects[one.relation_id], rng) for one in current]
        rounds += [current[i : i + batch_size] for i in range(0, len(current), batch_size)]
    return rounds


def objects_of(requests: Sequence[EditRequest]) -> dict[str | None, set[str]]:
    """Relation → the new objects that requests have under it."""
    found: dict[str | None, set[str]] = defaultdict(set)
    for request in requests:
        found[request.relation_id].add(request.target_new)
    return found


def _changed(request: EditRequest, objects: set[str], rng: random.Random) -> EditRequest:
    """The request with another one of these objects."""
    return replace(request, target_new=rng.choice(sorted(objects - {request.target_new})))


def _edit_many(asked: Many, method: str, out: Path) -> dict[str, Any]:
    """Make the rounds of a method that are left, and put together what all of them took.

    Returns:
        Of every round: `seconds` and `cpu_seconds` of editing, `save_seconds` of the checkpoint
        before it, `history_bytes` that the method remembers; `edits`, `refused` and `not_finite`,
        numbers among the weights and their measurements. And `peak_bytes` of the process,
        `resume_seconds` to load everything and the last checkpoint, and `exact`, the share of the
        last pass that the model says.
    """
    job, state, _ = _start(asked, method, out)
    objects = objects_of(job.loaded.requests)
    rounds = many_rounds(job.requests, objects, asked.passes, asked.batch_size)
    saving, start = 0.0, time.process_time()
    left = rounds[state.round :]
    for done in run_sequential(job.lm, left, job.settings.make(), job.plan, state):
        spent = time.process_time() - start
        row = _row(job, done) | {"cpu_seconds": spent, "save_seconds": saving}
        begun = time.perf_counter()
        save_round(out, job.lm, done.state, {"rounds": [row]}, keep=False)
        saving, start = time.perf_counter() - begun, time.process_time()
    job, _, resume_seconds = _start(asked, method, out)
    rows = read_jsonl(out / "rounds.jsonl")
    lists = {name: [row[name] for row in rows] for name in rows[0] if name != "round"}
    last = score_edits(job.lm, [r for batch in rounds for r in batch][-asked.facts :])
    return lists | {
        "peak_bytes": max(lists["peak_bytes"]),
        "resume_seconds": resume_seconds,
        "exact": float(last["efficacy_accuracy"].mean()),
    }


def _start(asked: Many, method: str, out: Path) -> tuple[Job, EditState, float]:
    """Everything a run needs, its state after the last round that is there, and how long that took.

    The model holds the weights of that round.
    """
    begun = time.perf_counter()
    job = prepare(asked.config(method))
    record = new_record(job)
    record["parameters"] |= {"passes": asked.passes}
    if not (out / "checkpoint.safetensors").exists():
        begin(out, record)
    elif read_run(out)["parameters"] != record["parameters"]:
        raise ValueError(f"{out} holds edits with other settings; remove it and start anew")
    state = resume(out, job.lm, job.plan.layers)
    return job, state, time.perf_counter() - begun


def _row(job: Job, done: Round) -> dict[str, Any]:
    """What is kept of a round."""
    remembered = [*done.state.keys.values(), *done.state.grams.values()]
    remembered += [*done.state.carry.values(), *done.state.memory.values()]
    measured = [value for layer in done.layers for value in asdict(layer).values()]
    weights = [read_weight(job.lm, layer) for layer in job.plan.layers]
    broken = sum(not math.isfinite(value) for value in measured)
    broken += sum(int((~W.isfinite()).sum()) for W in weights)
    return {
        "round": done.index,
        "edits": len(done.outcomes),
        "refused": sum(outcome.status == "refused" for outcome in done.outcomes),
        "not_finite": broken,
        "seconds": done.seconds["total"],
        "history_bytes": sum(tensor.nbytes for tensor in remembered),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
