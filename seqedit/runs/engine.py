"""Makes a run: from a file of requests to edited weights and a record, resumable after any
interruption.
"""

from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

from ..base.files import alone, write_json
from ..editing.sequential import handed_over, run_sequential
from ..editing.state import EditState, Round
from ..lm.fingerprint import fingerprint
from ..lm.registry import origin_of
from .baseline import measure_baseline
from .checkpoint import begin, finish, resume, save_round
from .config import RunConfig, Say, ignore
from .identity import run_parameters
from .job import Job, prepare
from .measure import measure_round
from .records import check_files, provenance, reopen
from .resolve import find_published


def run(config: RunConfig, out: Path, *, say: Say = ignore, weights_matter: bool = True) -> bool:
    """Edit a model, evaluate it and write the record to a folder; a run that was interrupted there
    resumes.

    The folder then holds weights.safetensors, rounds.jsonl, outcomes.jsonl, scores.jsonl and
    run.json. A checkpoint appears atomically after every round, so that an interrupted run
    continues to bit-identical weights.

    Args:
        say: told what a user may want to know.
        weights_matter: a run that is complete must still have its edited matrices.

    Returns:
        False if the run was complete already, True if it was made now.

    Raises:
        ValueError: the input is wrong, which is found before anything is written; or `out` holds
            another run, or a finished one whose files are damaged.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    job = prepare(config, say)
    with alone(out, say):  # a second process on the same folder waits, then finds the run complete
        record = reopen(out, new_record(job))
        if record["finished"]:
            check_files(out, record, weights=weights_matter)
            say(
                f"{out} is complete: {record['n_edits']} edits by {job.settings.method}; "
                "nothing to do"
            )
            return False
        _run(job, out, record, say)
    return True


def _run(job: Job, out: Path, record: dict[str, Any], say: Say) -> None:
    """Do the rounds that are left, and finish the record."""
    started = perf_counter()
    baseline = measure_baseline(job.lm, job.requests, job.world, job.config.kept, job.texts, say)
    record = record | {"unedited": baseline.summary()}
    state = resume(out, job.lm, job.plan.layers)
    _say_what_is_resumed(job, state, record, say)
    method = job.settings.make()
    with _progress(job, state) as bar:
        for done in run_sequential(job.lm, job.rounds[state.round :], method, job.plan, state):
            if done.index == 0:  # from here on the input cannot be refused
                begin(out, record)
            _say_if_all_were_left(done, say)
            with handed_over(job.lm, method, done.state):
                rows = measure_round(job, method, done, baseline)
            save_round(out, job.lm, done.state, rows, keep=job.config.save_rounds)
            state = done.state
            now = perf_counter()
            record = record | {
                "rounds_done": state.round,
                "seconds": round(record["seconds"] + done.seconds["total"], 3),
                "elapsed": round(record["elapsed"] + now - started, 3),
            }
            started = now
            write_json(out / "run.json", record)
            bar.update(len(done.outcomes))
    with handed_over(job.lm, method, state):
        finish(out, job.lm, state, len(job.rounds), record, job.config.save_rounds)


def _say_what_is_resumed(job: Job, state: EditState, record: dict[str, Any], say: Say) -> None:
    if not state.round:
        return
    say(f"resuming after round {state.round} of {len(job.rounds)}")
    made_by = record["provenance"]
    for name, now in provenance(job.lm.device, job.settings.method).items():
        if name in ("python", "torch", "transformers") and made_by.get(name) != now:
            say(
                f"begun with {name} {made_by.get(name)}, now {now}: results may differ in round-off"
            )
    threads = made_by.get("threads")
    if threads != torch.get_num_threads():
        say(
            f"begun with {threads} threads, now {torch.get_num_threads()}: the weights may differ "
            "in round-off from an uninterrupted run (OMP_NUM_THREADS)"
        )


def _say_if_all_were_left(done: Round, say: Say) -> None:
    """Say that a round has written nothing, with what became of its first request."""
    if all(outcome.status != "edited" for outcome in done.outcomes):
        first = done.outcomes[0]
        say(
            f"round {done.index}: none of its {len(done.outcomes)} requests was edited; the first, "
            f"case_id {first.case_id!r}, is {first.status}: {first.reason}"
        )


def _progress(job: Job, state: EditState) -> tqdm:
    done = sum(map(len, job.rounds[: state.round]))
    return tqdm(
        total=len(job.requests),
        initial=done,
        unit="edit",
        desc=job.settings.method,
        disable=None,
    )


def new_record(job: Job) -> dict[str, Any]:
    """The content of run.json before the first round."""
    config = job.config
    parameters = run_parameters(
        config,
        job.settings,
        fingerprint=fingerprint(job.lm),
        n_edits=len(job.requests),
        requests=job.loaded.origin,
    )
    record = {
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
    }
    if origin := origin_of(config.model):
        record["provenance"]["weights"] = origin
    if config.stream:
        record["stream"] = {"name": config.stream, "facts": job.stream.facts}
    record |= job.loaded.record()
    if job.long_probes:
        record["long_probes"] = {"count": len(job.long_probes), "first": job.long_probes[0]}
    own = Counter(request.joined_by for request in job.requests)
    if own.keys() != {job.settings.separator}:
        record["separators"] = dict(own)
    if published := find_published(config, job.lm):
        record["preset"] = published
    return record
