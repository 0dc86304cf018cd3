"""Samples of requests for intermediate evaluations."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workspace import RECORDS

from seqedit.base.jsonl import read_jsonl
from seqedit.requests.request import parse_requests
from seqedit.runs.engine import run
from seqedit.runs.identity import run_parameters
from seqedit.runs.job import prepare
from seqedit.runs.sampling import sample_by_round

(ONE,) = parse_requests(RECORDS[:1])


def make_rounds(sizes):
    """Rounds of these sizes; case_ids count the requests."""
    starts = np.cumsum([0, *sizes]).tolist()
    return [
        [replace(ONE, case_id=start + i) for i in range(size)]
        for start, size in zip(starts, sizes, strict=False)
    ]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 99))
def test_each_round_gives_its_share(sizes, size, seed):
    """Distinct requests in the order of editing, and of each round its share, up or down."""
    drawn = [r.case_id for r in sample_by_round(make_rounds(sizes), size, seed)]
    total = sum(sizes)
    assert len(drawn) == min(size, total) and drawn == sorted(set(drawn))
    ends = np.cumsum(sizes)
    for start, end in zip(ends - sizes, ends, strict=True):
        share = (end - start) * len(drawn) / total
        own = sum(start <= case < end for case in drawn)
        assert np.floor(share + 1e-9) <= own <= np.ceil(share - 1e-9)


def test_every_request_has_the_same_chance():
    """Over 3000 seeds each of 10 requests is drawn in 40 %, within four standard errors."""
    rounds = make_rounds([1, 5, 4])
    counts = np.zeros(10)
    for seed in range(3000):
        counts[[int(r.case_id) for r in sample_by_round(rounds, 4, seed)]] += 1
    assert np.abs(counts / 3000 - 0.4).max() < 4 * (0.4 * 0.6 / 3000) ** 0.5


def test_seed_and_round_decide():
    rounds = make_rounds([20, 20])
    draws = [
        tuple(r.case_id for r in sample_by_round(*given))
        for given in ((rounds, 8, 0), (rounds, 8, 0), (rounds, 8, 1), (rounds[:1] + rounds, 8, 0))
    ]
    assert draws[0] == draws[1] and len(set(draws)) == 3


def test_a_run_samples_all_evaluations_but_the_last(space):
    """The row says how many were measured; weights and the last row are those without a sample."""
    run(space.config(evaluate_every=1), space.folder / "all")
    run(space.config(evaluate_every=1, evaluate_sample=2), space.out)
    rows, whole = (read_jsonl(out / "scores.jsonl") for out in (space.out, space.folder / "all"))
    assert [(row["n_edits"], row["edits"]["n"]) for row in rows] == [(2, 2), (4, 2), (5, 5)]
    assert [(row["round"], row["age"], row["n"]) for row in rows[1]["retention"]] == [
        (0, 1, 1),
        (1, 0, 1),
    ]
    assert rows[-1] == whole[-1] and rows[0] == whole[0]
    assert rows[1].keys() == whole[1].keys()  # key drift, too, which is of all edits
    weights = [
        (out / "weights.safetensors").read_bytes() for out in (space.out, space.folder / "all")
    ]
    assert weights[0] == weights[1]


def test_identity_only_where_it_is_asked_for(space):
    """Runs without a sample keep their ids."""
    found = []
    for size in (None, 2):
        config = space.config(evaluate_every=1, evaluate_sample=size)
        settings = prepare(config).settings
        found.append(run_parameters(config, settings, fingerprint="f", n_edits=5, requests="r"))
    assert "evaluate_sample" not in found[0]
    assert found[1] == found[0] | {"evaluate_sample": 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluate_every": 1, "evaluate_sample": 0}, "evaluate_sample is 0; a sample has"),
        ({"evaluate_sample": 3}, "ask for some with --evaluate-every"),
    ],
)
def test_samples_that_make_no_sense_are_refused(space, changes, words):
    with pytest.raises(ValueError, match=words):
        space.config(**changes)


def test_command_line(space):
    assert space.call(evaluate_every=1, evaluate_sample=1).exit_code == 0
    assert [row["edits"]["n"] for row in read_jsonl(space.out / "scores.jsonl")] == [1, 1, 5]
    refused = space.call(evaluate_every=1, evaluate_sample=0, out=space.folder / "other")
    assert refused.exit_code == 2 and "evaluate-sample" in refused.stderr
