"""Which facts a run broke, ranked by how far its rounds reach their keys."""

import json
from dataclasses import replace

import numpy as np
import pytest

from seqedit.base.jsonl import read_jsonl
from seqedit.base.paths import FACTS, WORLD
from seqedit.runs.job import prepare
from seqedit.runs.records import Record
from seqedit.study import broken_facts
from seqedit.study.broken_facts import other_facts, rank_facts, write_rankings
from seqedit.study.run_study import load_study
from seqedit.study.selection import run_config, study_runs
from seqedit.study.study_run import EMBEDDED

STUDY, LABEL = "pilot", "memit_seq"


def pilot(label: str = LABEL):
    """The first run of a label in the pilot, and its record."""
    one = next(one for one in study_runs(STUDY) if one.label == label)
    return one, load_study(STUDY)[label][0]


def planted(record: Record, edits: np.ndarray, facts: dict[int, bool]) -> Record:
    """The record with other facts right than those that were.

    Args:
        edits: whether each is right, in order.
        facts: number → whether it is right; the others are.
    """
    last = record.probes["round"] == record.probes["round"].max()
    right = dict(zip(record.outcomes["case_id"], edits, strict=True))
    probes, scores = record.probes.copy(), record.scores.copy()
    probes.loc[last, "efficacy"] = [
        "3" if right[case] else "1" for case in probes.loc[last, "case_id"]
    ]
    marks = ["1" if facts.get(i, True) else "0" for i in range(len(load_facts()))]
    scores["answers.unrelated_facts"] = "".join(marks)
    return replace(record, probes=probes, scores=scores)


def load_facts() -> list[dict]:
    return read_jsonl(WORLD / "unrelated.jsonl")


def test_facts_that_break_by_their_reach():
    """Of every round the edits that later rounds reach farthest break, and the other facts that all
    rounds reach farthest: both are ranked without a mistake; the other way round all are wrong.
    """
    one, record = pilot()
    job, facts = prepare(run_config(one)), [*other_facts(EMBEDDED, record)]
    at_edits, at_facts = broken_facts._reach(job, [request for request, _ in facts])
    rounds = np.array([job.edited_in[request.case_id] for request in job.requests])
    assert (at_edits[rounds == rounds.max()] == 0).all()  # nothing comes after the last round
    earlier = at_edits[rounds < rounds.max()]
    assert len(np.unique(earlier)) == len(earlier) and (at_facts > 0).all()
    median = {i: np.median(at_edits[rounds == i]) for i in np.unique(rounds)}
    low = at_edits <= np.array([median[i] for i in rounds])
    few = at_facts <= np.median(at_facts)
    numbers = [request.case_id for request, _ in facts]
    for flip, wanted in ((False, 1.0), (True, 0.0)):
        marks = dict(zip(numbers, few ^ flip, strict=True))
        edits, others = rank_facts(one, planted(record, low ^ flip, marks))
        assert edits["auc"] == others["auc"] == wanted
        kept = (low ^ flip)[rounds < rounds.max()]  # nothing can be lost after the last round
        assert (edits["n"], edits["broken"]) == (len(kept), (~kept).sum())
        assert (others["n"], others["broken"]) == (len(few), (~(few ^ flip)).sum())


def test_other_facts_name_their_subject():
    """Their sentence is that of the file; at most a tenth has a wording of its own."""
    _, record = pilot()
    every, found = load_facts(), [*other_facts(EMBEDDED, record)]
    marks = record.scores["answers.unrelated_facts"].iloc[-1]
    for request, said in found:
        fact = every[request.case_id]
        assert request.prompt.format(request.subject) == fact["prompt"]
        assert request.target_new == fact["target"] and said == (marks[request.case_id] == "1")
    assert 0.9 * len(every) < len(found) <= len(every)


def test_other_facts_of_a_pretrained_model_are_those_it_says():
    """The records of SmolLM2: only facts that the unedited model says can be lost."""
    record = load_study("real")["memit_seq"][0]
    known = json.loads((FACTS / "known.json").read_text())["smollm2-135m"]["said"]["kept.jsonl"]
    found = [request.case_id for request, _ in other_facts("smollm2-135m", record)]
    assert found == [i for i, mark in enumerate(known) if mark == "1"]


def test_a_method_without_a_solver_is_refused():
    one, record = pilot("mend-ten")
    with pytest.raises(ValueError, match="MEND: does not solve for its updates"):
        rank_facts(one, record)


def test_rankings_of_a_study(tmp_path, monkeypatch):
    """One row for each run that solves and kind of facts, in the order of the study."""
    told = {"facts": "edits", "n": 3, "broken": 1, "auc": 0.5, "low": 0.4, "high": 0.6}
    monkeypatch.setattr(broken_facts, "RANKINGS", tmp_path / "broken")
    monkeypatch.setattr(broken_facts, "rank_facts", lambda one, record: [told])
    write_rankings("instrument")
    rows = json.loads((tmp_path / "broken" / "instrument.json").read_text())
    labels = [row.pop("label") for row in rows]
    assert labels == ["memit", "memit_seq", "alphaedit"] and all(row.pop("seed") for row in rows)
    assert rows == [told] * 3
