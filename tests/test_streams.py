"""Streams of edits: what each is made of, what is measured of it, and runs that write one."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import build_lm
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner
from workspace import RECORDS, content

from seqedit.cli.main import app
from seqedit.evaluation import streams as measured
from seqedit.evaluation.continuations import Ratings
from seqedit.evaluation.edits import score_edits
from seqedit.requests.record import Probe
from seqedit.requests.request import EditRequest, RequestError, parse_requests
from seqedit.requests.streams import REPETITIONS, STREAMS, TARGETS, make_stream
from seqedit.runs.edited import edited_requests
from seqedit.runs.engine import run
from seqedit.runs.records import load_run, read_run
from seqedit.world.facts import build_world
from seqedit.world.streams import subject_records

every_stream = pytest.mark.parametrize("name", STREAMS)


def facts(n: int) -> list[EditRequest]:
    """n facts about ⌈n/2⌉ subjects, of two relations with enough objects each."""
    return [
        EditRequest(
            case_id=i if i % 3 else f"case {i}",
            prompt=("{} plays", "{} speaks")[i % 2],
            subject=f"Subject {i // 2}",
            target_new=f"new {i % 8}",
            target_true=f"true {i % 4}",
            relation_id=("sport", "language")[i % 2],
            neighborhood_prompts=(f"neighbour {i}",),
            attribute_prompts=(f"attribute {i}",),
            portability=(Probe(f"follows from {i}", "x"),),
            target_new_id=f"Q{i}",
        )
        for i in range(n)
    ]


numbers = st.integers(8, 24)
names = st.sampled_from(list(STREAMS))


def edits_of(stream):
    return [edit for edits in stream.passes for edit in edits]


@given(names, numbers, st.integers(0, 3), st.data())
def test_what_every_stream_keeps_to(name, count, seed, data):
    """Unique case ids, no fact twice in a pass, each fact's first edit as in the file."""
    requests = facts(count - count % 2)
    n = data.draw(st.integers(2, len(requests)))
    stream = make_stream(name, requests, n=n, seed=seed)
    edits = edits_of(stream)
    assert len({edit.case_id for edit in edits}) == len(edits) == len(stream.fact)
    for one in stream.passes:
        assert len({stream.fact[edit.case_id] for edit in one}) == len(one) > 0
    by_id = {request.case_id: request for request in requests}
    assert stream.facts == n and set(stream.fact.values()) <= set(by_id)
    for history in stream.history(edits):
        origin = by_id[stream.fact[history[0].case_id]]
        assert history[0] == origin
        assert {edit.text for edit in history} == {origin.text}
        later = [f"{origin.case_id}#{i + 2}" for i in range(len(history) - 1)]
        assert [edit.case_id for edit in history[1:]] == later
    assert stream == make_stream(name, requests, n=n, seed=seed)


@given(numbers, st.data())
def test_without_a_stream(count, data):
    """The requests as they are; every one of them is current."""
    requests = facts(count)
    n = data.draw(st.integers(1, count))
    stream = make_stream(None, requests, n=n)
    assert stream.passes == [requests[:n]] and stream.current(requests[:n]) == requests[:n]


def test_the_last_edit_of_a_fact_is_current():
    """Half-way through the second pass, facts are measured by whichever edit came last."""
    requests = facts(8)
    first, second = make_stream("undone", requests).passes
    done = [*first, *second[:3]]
    assert make_stream("undone", requests).current(done) == [*first[3:], *second[:3]]


@given(numbers)
def test_repeated(count):
    """Facts are edited 4, 3, 2, 1, 4 … times, to one target, all of them in the last pass."""
    stream = make_stream("repeated", facts(count))
    histories = stream.history(edits_of(stream))
    assert [len(h) for h in histories] == [REPETITIONS - i % REPETITIONS for i in range(count)]
    assert all(len({edit.target_new for edit in history}) == 1 for history in histories)
    assert stream.current(edits_of(stream)) == stream.passes[-1]


@given(numbers, st.integers(0, 3))
def test_contradictory(count, seed):
    """Different targets, all of the relation and none of them true."""
    requests = facts(count)
    stream = make_stream("contradictory", requests, seed=seed)
    for history in stream.history(edits_of(stream)):
        targets = {edit.target_new for edit in history}
        assert len(history) == len(targets) == TARGETS
        assert targets <= {
            r.target_new for r in requests if r.relation_id == history[0].relation_id
        }
        assert {edit.target_true for edit in history} == {history[0].target_true}
        for edit in history[1:]:  # what belongs to the first target is gone
            assert edit.attribute_prompts == edit.portability == () and edit.target_new_id is None


def test_drawn_targets_depend_on_seed_and_fact_alone():
    requests = facts(16)
    whole = {e.case_id: e for e in edits_of(make_stream("contradictory", requests, seed=1))}
    part = edits_of(make_stream("contradictory", requests[::-1], n=5, seed=1))
    assert all(whole[edit.case_id] == edit for edit in part)
    other = edits_of(make_stream("contradictory", requests, seed=2))
    assert any(whole[edit.case_id] != edit for edit in other)


def test_a_target_that_equals_the_true_object_is_not_drawn():
    requests = [replace(r, target_true="new 2") for r in facts(16)]
    edits = edits_of(make_stream("contradictory", requests))
    assert all(edit.target_new != "new 2" for edit in edits if "#" in str(edit.case_id))


@given(numbers)
def test_undone(count):
    """Every fact ends with its true object, and its edit counts as the wrong one."""
    requests = facts(count)
    stream = make_stream("undone", requests)
    assert [len(edits) for edits in stream.passes] == [count, count]
    for request, last in zip(requests, stream.current(edits_of(stream)), strict=True):
        assert (last.target_new, last.target_true) == (request.target_true, request.target_new)
        assert last.neighborhood_prompts == request.attribute_prompts
        assert last.attribute_prompts == request.neighborhood_prompts


@given(st.permutations(range(12)))
def test_same_subject(order):
    """A permutation of the requests whose subject has several, each subject's in one piece."""
    alone = EditRequest(case_id="alone", prompt="{} is", subject="Nobody", target_new="x")
    requests = [*(facts(12)[i] for i in order), alone]
    (edits,) = make_stream("same_subject", requests).passes
    assert Counter(map(id, edits)) == Counter(map(id, requests[:-1]))
    subjects = [edit.subject for edit in edits]
    changes = sum(a != b for a, b in zip(subjects, subjects[1:], strict=False))
    assert changes == len(set(subjects)) - 1


def case(i: int, **changes):
    requests = facts(8)
    requests[i] = replace(requests[i], **changes)
    return requests


@pytest.mark.parametrize(
    ("name", "requests", "words"),
    [
        ("nosuch", facts(8), ["'nosuch'", *STREAMS]),
        ("undone", case(5, target_true=None), ["case_id 5", "target_true"]),
        ("contradictory", facts(4), ["case_id 'case 0'", "relation_id", "has 1"]),
        ("contradictory", case(2, relation_id=None), ["case_id 2", "relation_id", "has 0"]),
        ("undone", case(4, prompt="{} plays", subject="Subject 0"), ["case_id 4", "'case 0'"]),
        ("undone", case(4, case_id="1#2"), ["'1#2'", "rename"]),
        ("undone", case(4, case_id="1"), ["'1#2'", "type"]),
        ("same_subject", facts(8)[::2], ["has 0", "seqedit world subjects"]),
    ],
)
def test_refusals(name, requests, words):
    with pytest.raises(ValueError) as error:
        make_stream(name, requests)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("n", [0, 9])
def test_n_out_of_range(n):
    with pytest.raises(ValueError, match=f"n_edits is {n}; the file has 8"):
        make_stream("undone", facts(8), n=n)


def test_too_few_that_share_a_subject():
    alone = EditRequest(case_id="alone", prompt="{} is", subject="Nobody", target_new="x")
    with pytest.raises(RequestError, match="needs 9 requests .* has 8"):
        make_stream("same_subject", [*facts(8), alone], n=9)


# What is measured


def rated(monkeypatch, answers: dict[str, tuple[float, bool]]) -> None:
    """Let every target have the given −log p and exactness, whatever the prompt."""

    def rate(lm, prompts, targets, **rest):
        nll = np.array([answers[target][0] for target in targets])
        exact = np.array([answers[target][1] for target in targets])
        zeros = np.zeros(len(targets))
        return Ratings(nll, exact, zeros.astype(int), zeros, [()] * len(targets))

    monkeypatch.setattr(measured, "rate", rate)


def history(*targets: str, subject: str = "S") -> list[EditRequest]:
    return [EditRequest(case_id=t, prompt="{} is", subject=subject, target_new=t) for t in targets]


def test_scores_of_contradicted_facts(monkeypatch):
    """Of three facts one keeps its last target; one never was contradicted and does not count."""
    answers = {"a": (1.0, True), "b": (3.0, False), "c": (2.0, False), "d": (0.5, True)}
    rated(monkeypatch, answers)
    scores = measured.SCORES["contradictory"](
        build_lm(),
        [history("a"), history("a", "b", "c"), history("b", "c"), history("b", "a", "d")],
    )
    assert scores == {
        "facts": 3,
        "earlier_survives": pytest.approx(1 / 3),
        "earlier_exact": pytest.approx(2 / 3),
        "last_exact": pytest.approx(1 / 3),
    }
    assert measured.SCORES["contradictory"](build_lm(), [history("a")]) == {}


def test_scores_by_repetitions(monkeypatch):
    rated(monkeypatch, {"a": (np.log(2), True), "b": (np.log(4), False)})
    histories = [history("a"), history("b"), history("b", "b", "b")]
    assert measured.SCORES["repeated"](build_lm(), histories) == pytest.approx(
        {"facts_1": 2, "exact_1": 0.5, "probability_1": 0.375}
        | {"facts_3": 1, "exact_3": 0.0, "probability_3": 0.25}
    )


def test_scores_by_subject(monkeypatch):
    """Subjects with two and three edits; one with a single edit does not count."""
    rated(monkeypatch, {"a": (1.0, True), "b": (1.0, False)})
    histories = [
        *(history(t, subject="whole") for t in "aa"),
        *(history(t, subject="broken") for t in "baa"),
        history("b", subject="alone"),
    ]
    scores = measured.SCORES["same_subject"](build_lm(), histories)
    assert scores == {"subjects": 2, "all_exact": 0.5, "first_exact": 0.5, "last_exact": 1.0}
    assert measured.SCORES["same_subject"](build_lm(), histories[-1:]) == {}


def test_undone_facts_are_back_where_the_undoing_is_a_success(requests):
    """The section agrees with the edit metrics of the requests that undo."""
    lm, stream = build_lm(), make_stream("undone", requests)
    edits = edits_of(stream)
    scores = measured.score_stream(lm, stream, edits)
    frame = score_edits(lm, stream.current(edits))
    assert scores["back"] == pytest.approx(frame["efficacy"].mean())
    assert scores["back_exact"] == pytest.approx(frame["efficacy_accuracy"].mean())
    assert 0 < scores["back"] < 1  # the test could not tell otherwise
    assert measured.score_stream(lm, stream, edits[:6]) == {}  # none is undone so far
    assert measured.score_stream(lm, make_stream(None, requests), requests) == {}


def test_every_stream_is_measured():
    assert set(measured.SCORES) == set(STREAMS)


# Runs

RECORDS_OF_TWO = [
    record | {"relation_id": "r", "case_id": f"{record['case_id']}{mark}", "prompt": prompt}
    for record in RECORDS
    for mark, prompt in (("", record["prompt"]), ("'", f"So: {record['prompt']}"))
]


@pytest.fixture
def space(space):
    space.write("requests.json", RECORDS_OF_TWO)
    return space


@every_stream
def test_run_of_a_stream(space, name):
    """Every edit is an outcome, scores are of current facts, and run.json says the stream."""
    config = space.config(stream=name, n_edits=6, shuffle=True, batch_size=4, evaluate_every=1)
    run(config, space.out)
    record = load_run(space.out)
    stream = make_stream(name, parse_requests(RECORDS_OF_TWO), n=6)
    edits = sum(map(len, stream.passes))
    assert record.outcomes["case_id"].is_unique and len(record.outcomes) == edits
    assert record.run["parameters"]["stream"] == record.run["stream"]["name"] == name
    assert record.run["stream"]["facts"] == 6 and record.run["n_edits"] == edits
    last = record.scores.iloc[-1]
    assert last["edits"] == edits and last["edits.n"] == 6
    assert sum(row["n"] for row in last["retention"]) == 6
    assert any(column.startswith("stream.") for column in record.scores)
    sizes = record.outcomes.groupby("round").size().tolist()
    assert sizes == [
        size for one in stream.passes for size in np.diff([*range(0, len(one), 4), len(one)])
    ]


def test_rounds_of_the_file(space):
    """Without a batch size each pass has the file's rounds."""
    space.write("requests.json", {"rounds": [RECORDS_OF_TWO[:3], RECORDS_OF_TWO[3:5]]})
    run(space.config(stream="undone", batch_size=None), space.out)
    assert load_run(space.out).outcomes.groupby("round").size().tolist() == [3, 2, 3, 2]


def test_interrupted_run_of_a_stream(space, monkeypatch):
    """Stopped after every round and started again, it ends in the same bits."""
    config = space.config(stream="undone", n_edits=4, evaluate_every=1)
    run(config, space.folder / "whole")

    class Stop(Exception):
        pass

    from seqedit.runs import engine

    real = engine.save_round

    def save_and_stop(*args, **rest):
        real(*args, **rest)
        raise Stop

    monkeypatch.setattr(engine, "save_round", save_and_stop)
    for _ in range(4):
        with pytest.raises(Stop):
            run(config, space.out)
    run(config, space.out)
    assert content(space.out) == content(space.folder / "whole")


def test_a_run_without_a_stream_is_recorded_as_before(space):
    """Its parameters, and so its id, do not know of streams, and its scores have no section."""
    run(space.config(n_edits=4), space.out)
    record = load_run(space.out)
    assert "stream" not in record.run and "stream" not in record.run["parameters"]
    assert not any(column.startswith("stream") for column in record.scores)


def test_a_folder_holds_one_stream(space):
    run(space.config(n_edits=4), space.out)
    with pytest.raises(ValueError, match="stream = None, now it is 'undone'"):
        run(space.config(n_edits=2, stream="undone"), space.out)


@pytest.mark.parametrize("name", [None, *STREAMS])
def test_what_a_run_edited_is_found_again(space, name):
    """The requests measured last, from the record and the file."""
    run(space.config(stream=name, n_edits=6, shuffle=True, seed=3), space.out)
    record, source = read_run(space.out), space.folder / "requests.json"
    found = edited_requests(record, source)
    scored = [json.loads(line) for line in (space.out / "scores.jsonl").read_text().splitlines()]
    assert len(found) == scored[-1]["edits"]["n"] == 6
    last = {str(row).split("#")[0]: row for row in load_run(space.out).outcomes["case_id"]}
    assert {request.case_id for request in found} == set(last.values())
    space.write("requests.json", RECORDS)
    with pytest.raises(ValueError, match="not what the run was made with"):
        edited_requests(record, source)


def test_commands(space):
    """`streams` lists them, `edit` writes one and prints its figures, an unknown one is refused."""
    listed = CliRunner().invoke(app, ["streams"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(STREAMS)
    refused = space.call(stream="nosuch")
    assert refused.exit_code == 1 and "streams are repeated" in refused.stderr
    assert not space.out.exists()
    done = space.call(stream="undone", n_edits=4)
    assert done.exit_code == 0 and "stream.back " in done.stdout, done.output


# The fictional world


def test_records_of_both_facts_of_each_subject():
    """All facts of the split are edited, subject by subject, and no probe is about the subject."""
    world = build_world(0)
    records = subject_records(world, "calibration")
    assert records == subject_records(world, "calibration")
    requests = parse_requests(records)
    edited = {(r.subject, r.relation_id, r.target_true) for r in requests}
    assert edited == {(f.subject, f.relation, f.object) for f in world.of_split("calibration")}
    (edits,) = make_stream("same_subject", requests).passes
    assert edits == requests  # they come together already
    for request in requests:
        assert request.target_new != request.target_true
        assert not any(request.subject in prompt for prompt in request.neighborhood_prompts)


def test_command_that_writes_them(tmp_path):
    out = tmp_path / "subjects.json"
    done = CliRunner().invoke(app, ["world", "subjects", "--out", str(out)])
    assert done.exit_code == 0, done.output
    requests = parse_requests(json.loads(out.read_text()))
    assert set(Counter(r.subject for r in requests).values()) == {2}
