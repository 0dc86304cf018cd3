"""Probes of edited facts are left out, counted and reported; every single outcome is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqedit.evaluation.edits import outcome_rows, score_edits, summarise
from seqedit.evaluation.probes import EXTRA_KINDS, EditedFacts, outcome_digits
from seqedit.requests.record import Probe
from seqedit.requests.request import EditRequest
from seqedit.runs.config import RunConfig

EDIT = EditRequest(
    case_id=0,
    prompt="{} works as a",
    subject="Ana Bel",
    target_new="poet",
    target_true="pilot",
    relation_id="occupation",
    paraphrase_prompts=("Every day Ana Bel goes to work as a",),
)


@pytest.mark.parametrize(
    ("prompt", "relation", "asked"),
    [
        ("The job of Ana Bel is", "occupation", True),
        ("Ana Bel, they say, works as a", "occupation", True),
        ("The job of ANA BEL is", "occupation", True),
        ("The job of Ána Bél is", "occupation", True),
        ("The job of Ana Belinda is", "occupation", False),  # a longer word
        ("The job of Diana Bel is", "occupation", False),
        ("The job of Bel Ana is", "occupation", False),
        ("Ana Bel was born in", "birthplace", False),  # another relation
        ("The job of Ana Bel is", None, False),  # of unknown relation: only the same words count
        ("Ana Bel works as a", None, True),
        ("ana bel works as a", None, True),
        ("Every day Ana Bel goes to work as a", None, True),
    ],
)
def test_which_prompts_ask_for_an_edited_fact(prompt, relation, asked):
    assert EditedFacts([EDIT]).asked_by(prompt, relation) is asked
    assert not EditedFacts([]).asked_by(prompt, relation)


@given(st.text(max_size=12), st.text(max_size=12))
def test_a_subject_in_its_own_prompt_is_found(before, after):
    """Whatever stands around it, if it is apart from the subject."""
    prompt = f"{before} {EDIT.subject} {after}"
    assert EditedFacts([EDIT]).asked_by(prompt, "occupation")


def neighbours(request: EditRequest, *prompts: str) -> EditRequest:
    return replace(request, neighborhood_prompts=prompts, relation_id="r")


def test_a_planted_probe_is_left_out(tiny_lm, requests):
    """The means are those without it, and both figures and its share are reported."""
    lm = tiny_lm("gpt2")
    first, second = requests[0], replace(requests[1], relation_id="r")
    planted = f"They say that {second.subject}"
    asked = neighbours(first, "The old town is", planted, "A quiet song is")
    both = score_edits(lm, [asked, second]).iloc[0]
    plain = score_edits(lm, [neighbours(first, "The old town is", "A quiet song is")]).iloc[0]
    for column in ("neighborhood", "neighborhood_accuracy", "neighborhood_tokens"):
        assert both[column] == pytest.approx(plain[column], abs=1e-12)
    assert both["neighborhood_left_out"] == pytest.approx(1 / 3)
    assert plain["neighborhood_left_out"] == 0.0
    assert both["neighborhood_outcomes"][1] == "." and "." not in plain["neighborhood_outcomes"]
    every = score_edits(lm, [asked], edited=[]).iloc[0]  # on its own nothing is left out
    assert every["neighborhood_left_out"] == 0.0
    assert both["neighborhood_all"] == pytest.approx(every["neighborhood"])
    assert both["neighborhood_all_accuracy"] == pytest.approx(every["neighborhood_accuracy"])


def test_what_is_kept_counts_the_same_probes(tiny_lm, requests):
    """`neighborhood_kept` leaves them out, too; a request of which none is left has no figure."""
    lm = tiny_lm("gpt2")
    second = replace(requests[1], relation_id="r")
    asked = [neighbours(requests[0], f"They say that {second.subject}"), second]
    before = score_edits(lm, asked)
    row = score_edits(lm, asked, unedited=before).iloc[0]
    assert np.isnan(row["neighborhood_kept"]) and np.isnan(row["neighborhood"])
    assert not np.isnan(row["neighborhood_all_accuracy"])


def test_locality_of_an_edited_fact_is_left_out(tiny_lm, requests):
    """By its words, or by the relation that it names."""
    lm = tiny_lm("gpt2")
    second = replace(requests[1], relation_id="r")
    probes = (
        Probe(second.text, "song"),
        Probe(f"They say that {second.subject}", "song", "same_subject", None, "r"),
        Probe("The old town is", "quiet", "same_subject"),
    )
    both = score_edits(lm, [replace(requests[0], locality=probes), second]).iloc[0]
    plain = score_edits(lm, [replace(requests[0], locality=probes[2:])]).iloc[0]
    assert both["locality_gold"] == plain["locality_gold"]
    assert both["locality_same_subject_accuracy"] == plain["locality_same_subject_accuracy"]
    assert both["locality_left_out"] == pytest.approx(2 / 3)
    assert both["locality_outcomes"] == ".." + plain["locality_outcomes"]


def test_outcomes_are_the_means(tiny_lm, requests):
    """Success and accuracy can be read back from the digits of each request."""
    lm = tiny_lm("gpt2")
    prompts = ("The old town is", "A quiet song is", "I heard a")
    asked = [
        replace(r, paraphrase_prompts=prompts[: i % 4], neighborhood_prompts=prompts)
        for i, r in enumerate(requests)
    ]
    scores = score_edits(lm, asked, edited=[])
    for row, kept in zip(scores.to_dict("records"), outcome_rows(scores), strict=True):
        assert kept["case_id"] == row["case_id"]
        assert ("paraphrase" in kept) == (not np.isnan(row["paraphrase_accuracy"]))
        for kind in ("efficacy", "paraphrase", "neighborhood"):
            if kind in kept:
                digits = [int(digit) for digit in kept[kind]]
                assert np.mean([d & 1 for d in digits]) == pytest.approx(np.nan_to_num(row[kind]))
                assert np.mean([d >> 1 for d in digits]) == pytest.approx(row[f"{kind}_accuracy"])
    assert not [name for name in summarise(scores) if name.endswith("outcomes")]
    json.dumps(outcome_rows(scores), allow_nan=False)


def test_digits():
    nan = float("nan")
    found = outcome_digits([1, 1, 0, 0, nan, 1], [1, 0, 1, 0, 1, 1], [False] * 5 + [True])
    assert found == "31202."


def test_portability_by_kind(tiny_lm, requests):
    """Right if the gold answer is said, a success if it beats the previous one."""
    lm = tiny_lm("gpt2")
    probes = (
        Probe("The old town is", "quiet", "two_hop", previous="song"),
        Probe("I heard a", "song", "alias"),
    )
    asked = replace(requests[0], portability=probes)
    row = score_edits(lm, [asked]).iloc[0]
    swapped = replace(
        asked, portability=(probes[0]._replace(answer="song", previous="quiet"), probes[1])
    )
    other = score_edits(lm, [swapped]).iloc[0]
    assert row["portability_two_hop_success"] + other["portability_two_hop_success"] == 1.0
    assert row["portability_two_hop_previous"] == other["portability_two_hop_accuracy"]
    assert np.isnan(row["portability_alias_success"])
    means = [row[f"portability_{kind}_accuracy"] for kind in ("two_hop", "alias")]
    assert row["portability_accuracy"] == np.mean(means)


def test_after_the_edited_statement(tiny_lm, requests):
    """CounterFact+ puts the edited fact in front; the neighbour's own fact decides what counts."""
    lm = tiny_lm("gpt2")
    asked = neighbours(requests[0], "Every quiet town is")
    statement = f"{asked.text} {asked.target_new}."
    plus = score_edits(lm, [asked], extra_kinds=["neighborhood_plus"]).iloc[0]
    by_hand = replace(asked, neighborhood_prompts=(f"{statement} Every quiet town is",))
    hand = score_edits(lm, [by_hand], edited=[]).iloc[0]
    assert plus["neighborhood_plus_tokens"] == hand["neighborhood_tokens"]
    assert plus["neighborhood_plus_left_out"] == 0.0  # though the statement names the subject


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="no kind of prompts 'atribute'.*neighborhood_plus"):
        RunConfig(model="m", requests="r", method="memit", measures=("atribute",))
    RunConfig(model="m", requests="r", method="memit", measures=tuple(EXTRA_KINDS))
