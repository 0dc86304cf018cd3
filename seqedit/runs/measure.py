"""Measures a run after each round: the rows that the round adds to the record."""

from dataclasses import asdict
from typing import Any

import torch

from ..editing.contract import EditMethod
from ..editing.state import Round
from ..evaluation.report import evaluate, ordinary_states
from ..evaluation.shift import key_drift, plane
from ..evaluation.streams import score_stream
from ..requests.request import EditRequest
from .baseline import Baseline
from .job import Job
from .sampling import sample_by_round

Row = dict[str, Any]


def measure_round(
    job: Job, method: EditMethod, done: Round, baseline: Baseline
) -> dict[str, list[Row]]:
    """Table → its new rows: of "rounds" and "outcomes" always, of "scores" and "probes" after a
    round that is evaluated.
    """
    edits = sum(map(len, job.rounds[: done.state.round]))
    rows: dict[str, list[Row]] = {
        "rounds": [_round_row(done, edits)],
        "outcomes": [
            {"round": done.index} | asdict(outcome) | {"pool": pool_of(request)}
            for outcome, request in zip(done.outcomes, job.rounds[done.index], strict=True)
        ],
    }
    every = job.config.evaluate_every
    last = done.state.round == len(job.rounds)
    if last or (every and done.state.round % every == 0):
        report = _evaluate(job, method, done, baseline, last)
        rows["probes"] = [{"round": done.index} | row for row in report.pop("probes")]
        rows["scores"] = [{"round": done.index, "n_edits": edits} | report]
    return rows


def pool_of(request: EditRequest) -> str | None:
    """What requests have in common that draw their neighbours from one pool: the relation and the
    object before the edit. None if one of the two is not known.
    """
    if request.relation_id is None or request.target_true is None:
        return None
    return f"{request.relation_id}: {request.target_true}"


def _round_row(done: Round, edits: int) -> Row:
    return {
        "round": done.index,
        "edits": edits,
        "residual_before": done.residual_before,
        "residual_after": done.residual_after,
        "target_norm": done.target_norm,
        "seconds": done.seconds,
        "layers": [asdict(layer) for layer in done.layers],
    }


def _evaluate(job: Job, method: EditMethod, done: Round, baseline: Baseline, last: bool) -> Row:
    """Metrics of the facts edited so far, each measured by its last edit, or of a sample of them;
    after the last round always of all, and also generated text, free answers and hidden states in a
    plane.
    """
    rounds = job.rounds[: done.state.round]
    requests = [request for batch in rounds for request in batch]
    measured = job.stream.current(requests)
    edited = {request.case_id for request in measured}
    if job.config.evaluate_sample is not None and not last:
        current = [[request for request in own if request.case_id in edited] for own in rounds]
        measured = sample_by_round(current, job.config.evaluate_sample, job.config.seed)
    generator = None
    if job.config.fluency and last:
        generator = torch.Generator().manual_seed(job.config.seed)
    report = evaluate(
        job.lm,
        measured,
        unedited=baseline.scores,
        edited=requests,
        extra_kinds=job.config.measures,
        states=baseline.states,
        texts=job.texts,
        world=job.world,
        generator=generator,
        references=job.references,
        wild=job.config.wild and last,
        kept=job.config.kept,
        known=baseline.known,
        rounds={case: i for case, i in job.edited_in.items() if case in edited},
    )
    if stream := score_stream(job.lm, job.stream, requests):
        report["stream"] = stream
    keys = done.state.keys
    all_written = all(K.shape[1] == len(requests) for K in keys.values())
    if method.key_average is not None and all_written:
        report["key_drift"] = key_drift(
            job.lm, requests, job.plan.contexts, method.key_average, keys
        )
    if last and baseline.states is not None and job.world is not None:
        after = ordinary_states(job.lm, job.world)
        report["plane"] = {
            "before": plane(baseline.states, baseline.states),
            "after": plane(baseline.states, after),
        }
    return report
