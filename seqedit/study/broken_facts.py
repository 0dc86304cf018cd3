"""Whether keys tell which facts a run breaks: edits that later rounds reach, and facts that no edit
is about.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ..algebra.compact import whole
from ..base.files import write_json
from ..base.jsonl import read_jsonl
from ..base.paths import DATA, FACTS, WORLD
from ..lm.keys import BARE, KeyReader
from ..methods.catalogue import make_method
from ..methods.kinds.least_squares import LeastSquares
from ..requests.published import load_requests
from ..requests.request import EditRequest
from ..runs.job import Job, prepare
from ..runs.records import Record
from .interference import later_reach, rank_broken, rank_broken_within, reaches
from .kept_facts import said_unedited
from .run_study import load_study
from .selection import run_config, study_runs
from .statistics import outcome_values
from .study_run import EMBEDDED, StudyRun

RANKINGS = DATA / "broken"
"""Folder of `write_rankings`: one file for each study."""


def write_rankings(study: str) -> None:
    """Write `rank_facts` of a study's runs that solve for their updates, with label and seed.

    Raises:
        ValueError: there is no such study, or a run of it is missing.
    """
    records = {(label, r.run["seed"]): r for label, own in load_study(study).items() for r in own}
    rows = [
        {"label": one.label, "seed": one.seed} | row
        for one in study_runs(study)
        if isinstance(make_method(one.method), LeastSquares)
        for row in rank_facts(one, records[one.label, one.seed])
    ]
    RANKINGS.mkdir(exist_ok=True)
    write_json(RANKINGS / f"{study}.json", rows)


def rank_facts(one: StudyRun, record: Record) -> list[dict[str, Any]]:
    """How well the reach of a run's rounds ranks the facts that it broke above those it kept.

    The reach of a round at a key is the length of its update there for residuals of unit length, by
    keys of the unedited model (`seqedit.study.interference`); its squares are added over rounds and
    edited layers.

    Args:
        one: a run of a method that solves for its updates.
        record: what it made.

    Returns:
        For "edits" of all rounds but the last, compared within their rounds, and for "other facts"
        of those that the unedited model says: `n`, how many; `broken`, those that are not right at
        the end, exactly, among edits also those that never were; and the area under the ROC curve
        with its interval, see `seqedit.study.interference.Ranking`.

    Raises:
        ValueError: the method does not solve for its updates; or all facts were kept, or none.
    """
    job = prepare(run_config(one))
    facts = [*other_facts(one.model, record)]
    at_edits, at_facts = _reach(job, [request for request, _ in facts])
    probes = record.probes[record.probes["round"] == record.probes["round"].max()]
    right = outcome_values(probes, "efficacy", "exact").droplevel(0)
    kept = right.loc[[request.case_id for request in job.requests]].to_numpy() == 1
    owner = np.array([job.edited_in[request.case_id] for request in job.requests])
    later = owner < owner.max()  # edits after which something was written
    at_edits, kept, owner = at_edits[later], kept[later], owner[later]
    said = np.array([still for _, still in facts])
    ranked = (
        ("edits", kept, rank_broken_within(at_edits, kept, owner)),
        ("other facts", said, rank_broken(at_facts, said)),
    )
    return [
        {"facts": name, "n": len(marks), "broken": int((~marks).sum())} | asdict(found)
        for name, marks, found in ranked
    ]


def other_facts(model: str, record: Record) -> Iterator[tuple[EditRequest, bool]]:
    """The facts that no edit is about and the unedited model says, as requests that name their
    subject, and whether the edited model still says them.

    Of the fictional world's, facts whose sentence is in no wording of the edit requests are left
    out.
    """
    embedded = model == EMBEDDED
    path = WORLD / "unrelated.jsonl" if embedded else FACTS / "kept.jsonl"
    column = "answers.unrelated_facts" if embedded else "answers.kept_facts"
    wordings = {r.prompt for r in load_requests(WORLD / "records.json" if embedded else "facts")}
    marks = record.scores[column].iloc[-1]
    unedited = [True] * len(marks) if embedded else said_unedited(model)
    for i, (fact, mark, known) in enumerate(zip(read_jsonl(path), marks, unedited, strict=True)):
        found = _as_request(i, fact, wordings)
        if known and found:
            yield found, mark == "1"


def _as_request(number: int, fact: dict[str, str], wordings: Iterable[str]) -> EditRequest | None:
    """A fact as a request, by the wording that explains most of its prompt; None without one."""
    for wording in sorted(wordings, key=len, reverse=True):
        before, after = wording.split("{}")
        if fact["prompt"].startswith(before) and fact["prompt"].endswith(after):
            subject = fact["prompt"].removeprefix(before).removesuffix(after)
            return EditRequest(
                case_id=number, prompt=wording, subject=subject, target_new=fact["target"]
            )
    return None


def _reach(job: Job, facts: Sequence[EditRequest]) -> tuple[np.ndarray, np.ndarray]:
    """The reach at the key of each edit, of the rounds after it; at those of facts, of all."""
    method = job.settings.make()
    if not isinstance(method, LeastSquares):
        raise ValueError(f"{method.name}: does not solve for its updates; its keys say nothing")
    own = KeyReader(job.lm, job.requests, job.plan.contexts)
    others = KeyReader(job.lm, facts, BARE)
    sizes = [len(batch) for batch in job.rounds]
    at_edits = torch.zeros(len(job.requests), dtype=torch.float64)
    at_facts = torch.zeros(len(facts), dtype=torch.float64)
    for layer in job.plan.layers:
        C = whole(job.plan.moments[layer]).double()
        solver, rounds = method.solver(C), own.keys(layer).double().split(sizes, dim=1)
        remembers = bool(method.history)
        at_edits += later_reach(solver, rounds, C, remembers=remembers).square()
        for one in reaches(solver, rounds, C, others.keys(layer).double(), remembers=remembers):
            at_facts += one.probes
    return at_edits.sqrt().numpy(), at_facts.sqrt().numpy()
