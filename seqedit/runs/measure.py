"""What a round adds to the tables of a record."""

from dataclasses import asdict

import torch

from ..editing.contract import EditMethod
from ..editing.state import Round
from ..evaluation.report import evaluate, ordinary_states
from ..evaluation.shift import key_drift, plane
from ..methods.kinds.locate_then_edit import LocateThenEdit
from .baseline import Unedited
from .job import Job


def measure(job: Job, method: EditMethod, done: Round, unedited: Unedited) -> dict[str, list[dict]]:
    """Rows of rounds.jsonl and outcomes.jsonl, and of scores.jsonl after a round that is evaluated."""
    edits = sum(map(len, job.rounds[: done.state.round]))
    rows = {
        "rounds": [
            {
                "round": done.index,
                "edits": edits,
                "residual_before": done.residual_before,
                "residual_after": done.residual_after,
                "target_norm": done.target_norm,
                "seconds": done.seconds,
                "layers": [asdict(layer) for layer in done.layers],
            }
        ],
        "outcomes": [{"round": done.index} | asdict(outcome) for outcome in done.outcomes],
    }
    last = done.state.round == len(job.rounds)
    if last or (job.config.evaluate_every and done.state.round % job.config.evaluate_every == 0):
        rows["scores"] = [
            {"round": done.index, "n_edits": edits} | _evaluate(job, method, done, unedited, last)
        ]
    return rows


def _evaluate(job: Job, method: EditMethod, done: Round, unedited: Unedited, last: bool) -> dict:
    """Metrics of the requests edited so far; fluency, and hidden states in a plane, at the end only."""
    requests = [request for batch in job.rounds[: done.state.round] for request in batch]
    seen = {r.case_id for r in requests}
    generator = (
        torch.Generator().manual_seed(job.config.seed) if job.config.fluency and last else None
    )
    report = evaluate(
        job.lm,
        requests,
        unedited=unedited.scores,
        states=unedited.states,
        world=job.world,
        generator=generator,
        references=job.references,
        rounds={case: i for case, i in job.edited_in.items() if case in seen},
    )
    keys = done.state.keys
    if isinstance(method, LocateThenEdit) and all(
        K.shape[1] == len(requests) for K in keys.values()
    ):
        report["key_drift"] = key_drift(job.lm, requests, job.plan.contexts, method.average, keys)
    if last and (before := unedited.states) is not None:
        report["plane"] = {
            "before": plane(before, before),
            "after": plane(before, ordinary_states(job.lm, job.world)),
        }
    return report
