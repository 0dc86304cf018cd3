"""Kept facts by kind."""

import json

import pandas as pd
import pytest

from seqedit.base.jsonl import read_jsonl
from seqedit.base.paths import FACTS
from seqedit.runs.records import Record
from seqedit.study.kept_facts import kept_by_kind

SAID = json.loads((FACTS / "known.json").read_text(encoding="utf-8"))["smollm2-135m"]["said"]


def record(marks: str, model: str = "smollm2-135m") -> Record:
    """Of a run with two evaluations."""
    scores = pd.DataFrame({"answers.kept_facts": ["0" * len(marks), marks]})
    rest = pd.DataFrame()
    return Record({"parameters": {"model": model}}, rest, rest, scores, rest)


def test_facts_are_counted_by_their_kind():
    """After the last evaluation; what the unedited model did not say cannot be kept."""
    facts = read_jsonl(FACTS / "kept.jsonl")
    capital = ["The capital of" in fact["prompt"] for fact in facts]
    found = kept_by_kind(record("".join("01"[one] for one in capital)))
    known = sum(one and mark == "1" for one, mark in zip(capital, SAID["kept.jsonl"], strict=True))
    assert found.loc["The capital of {} is"].tolist() == [known, known] and known > 0
    assert found.drop("The capital of {} is")["kept"].sum() == 0
    assert found["known"].sum() == SAID["kept.jsonl"].count("1")
    assert found["known"].is_monotonic_decreasing


def test_a_model_of_which_nothing_is_known():
    with pytest.raises(ValueError, match="'other'.*smollm2-135m"):
        kept_by_kind(record("0" * len(SAID["kept.jsonl"]), "other"))
