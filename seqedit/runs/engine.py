"""The engine of a run: from a request file to edited weights and a record, resumable after any interruption."""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

from ..base.files import alone, write_json
from ..editing.sequential import handed_over, run_sequential
from ..lm.fingerprint import fingerprint
from .baseline import measure_unedited
from .checkpoint import (
    begin,
    finish,
    resume,
    save_round,
)
from .identity import run_parameters
from .job import Job, RunConfig, prepare
from .measure import measure
from .records import provenance, reopen


def run(config: RunConfig, out: Path, *, say=lambda text: None) -> bool:
    """Edit, evaluate and write the record to `out`; resumes a run that was interrupted there.

    Writes weights.safetensors, rounds.jsonl, outcomes.jsonl, scores.jsonl and run.json. After every round a
    checkpoint appears atomically, so that an interrupted run continues to bit-identical weights.

    Args:
        say: receives remarks, one line each.

    Returns:
        False when the run was already complete, True when it was made now.

    Raises:
        ValueError: anything wrong with the input, before anything is written; also when `out` holds another run.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    job = prepare(config, say)
    with alone(out, say):  # a twin, started elsewhere, waits and resumes
        return _run(job, out, say)


def _run(job: "Job", out: Path, say) -> bool:
    started = perf_counter()
    config, record = job.config, reopen(out, _fresh(job))
    if record["finished"]:
        say(f"{out} is complete: {record['n_edits']} edits by {config.method}; nothing to do")
        return False
    unedited = measure_unedited(job.lm, [r for batch in job.rounds for r in batch], job.world)
    state = resume(out, job.lm, job.plan.layers)
    if state.round:
        say(f"resuming after round {state.round} of {len(job.rounds)}")
        if record["provenance"]["threads"] != torch.get_num_threads():
            say(
                f"begun with {record['provenance']['threads']} threads, now {torch.get_num_threads()}: the weights may "
                "differ in round-off from an uninterrupted run (OMP_NUM_THREADS)"
            )
    bar = tqdm(
        total=sum(map(len, job.rounds)),
        initial=sum(map(len, job.rounds[: state.round])),
        unit="edit",
        desc=config.method,
        disable=None,
    )
    method = job.settings.make()
    for done in run_sequential(job.lm, job.rounds[state.round :], method, job.plan, state):
        if done.index == 0:  # now nothing of the input can be refused
            begin(out, record)
        with handed_over(job.lm, method, done.state):
            rows = measure(job, method, done, unedited)
        save_round(out, job.lm, done.state, rows, keep=config.save_rounds)
        state = done.state
        now = perf_counter()
        record = record | {
            "rounds_done": done.state.round,
            "seconds": round(record["seconds"] + done.seconds["total"], 3),
            "elapsed": round(record["elapsed"] + now - started, 3),
        }
        started = now
        write_json(out / "run.json", record)
        bar.update(len(done.outcomes))
    bar.close()
    with handed_over(job.lm, method, state):
        finish(out, job.lm, state, len(job.rounds), record)
    return True


def _fresh(job: Job) -> dict[str, Any]:
    """The content of run.json before the first round."""
    config = job.config
    parameters = run_parameters(
        config,
        job.settings,
        fingerprint=fingerprint(job.lm),
        n_edits=sum(map(len, job.rounds)),
        requests=job.loaded.origin,
    )
    left_out = {
        reason: {"count": len(messages), "first": messages[0]}
        for reason, messages in job.loaded.left_out.items()
    }
    aside = {"left_out": left_out, "preset": config.published}
    return {
        "method": parameters["method"],
        "seed": config.seed,
        "n_edits": parameters["n_edits"],
        "finished": False,
        "parameters": parameters,
        "contexts": job.plan.contexts,
        "provenance": provenance(job.lm.device, parameters["method"]),
        "rounds_done": 0,
        "seconds": 0.0,
        "elapsed": 0.0,
    } | {name: value for name, value in aside.items() if value}
