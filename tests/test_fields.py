"""No field of a request file is dropped in silence."""

import json

import pytest

from seqedit.requests.fields import nearest, with_rest
from seqedit.requests.layouts import KNOWN, in_our_schema
from seqedit.requests.plain import UNUSED
from seqedit.requests.published import load_request_set
from seqedit.requests.record import Probe
from seqedit.requests.request import parse_requests

PLAIN = {"case_id": 7, "prompt": "{} lives in", "subject": "Ada", "target_new": "Rome"}


def unused(**fields) -> tuple[str, ...]:
    (record,) = in_our_schema(PLAIN | fields, 0)
    return parse_requests([record])[0].unused


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ()),
        ({"paraphrase_prompt": ["x"]}, ("paraphrase_prompt",)),
        ({"note": "x", "empty": "", "none": None, "list": []}, ("note",)),
        ({"relation_id": 17}, ("relation_id",)),
        ({"locality": [{"prompt": "a", "answer": "b", "source": "c"}]}, ("locality.source",)),
        ({"ground_truth": "Bonn", "note": "x"}, ("note",)),
        ({"ground_truth": "Bonn", "target_true": "Bern"}, ("target_true",)),
    ],
)
def test_fields_that_are_not_read(fields, names):
    """Each is named, also inside probes; an empty one is not missed."""
    assert unused(**fields) == names


def test_fields_of_the_part_that_states_the_fact():
    core = {name: PLAIN[name] for name in ("prompt", "subject", "target_new")}
    record = {"case_id": 1, "requested_rewrite": core | {"fact_new_uns": "x"}, "pararel_idx": 3}
    (request,) = parse_requests([record])
    assert request.unused == ("pararel_idx", "requested_rewrite.fact_new_uns")


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("paraphrase_prompt", "paraphrase_prompts"),
        ("Paraphrase-Prompts ", "paraphrase_prompts"),
        ("targetnew", "target_new"),
        ("target_new.1", "target_new"),
        ("subjct", "subject"),
        ("note", None),
    ],
)
def test_the_nearest_known_name(name, close):
    assert nearest(name, KNOWN) == close


def test_a_benchmarks_column_switches_nothing_off():
    """Fields of the plain schema stay beside those of a benchmark, and prompts are added."""
    (record,) = in_our_schema(
        PLAIN
        | {
            "ground_truth": "Bonn",
            "rephrase_prompt": "Ada's home is",
            "paraphrase_prompts": ["Ada dwells in", "Ada's home is"],
            "neighborhood_prompts": ["Bob lives in"],
            "relation_id": "P1",
            "locality_prompt": ["Cy lives in"],
            "locality_ground_truth": ["Bern"],
        },
        0,
    )
    (request,) = parse_requests([record])
    assert request.target_true == "Bonn" and request.relation_id == "P1"
    assert request.paraphrase_prompts == ("Ada's home is", "Ada dwells in")
    assert request.neighborhood_prompts == ("Bob lives in",)
    assert request.locality == (Probe("Cy lives in", "Bern"),) and request.unused == ()


def test_what_is_left_of_a_record():
    edit = {"prompt": "a", "questions": ["q"], "target_true": None}
    merged = with_rest(edit, {"prompt": "b", "questions": ["q", "r"], "target_true": "t"})
    assert merged == {"prompt": "a", "questions": ["q", "r"], "target_true": "t"} | {
        UNUSED: ["prompt"]
    }


@pytest.mark.parametrize("value", [["target_new", "x"], "x"])
@pytest.mark.parametrize("own", [{}, {"src": "Ada lives in", "alt": "Rome"}])
def test_a_field_called_unused(own, value):
    """It is a field like any other that is not read, also of a record in a benchmark's layout."""
    plain = {"prompt": "{} is", "target_new": "Rome"} if not own else {}
    record = {"case_id": 1, "subject": "Ada", "unused": value} | plain | own
    (request,) = parse_requests(in_our_schema(record, 0))
    assert request.unused == ("unused",)


def test_a_run_says_and_keeps_what_is_not_read(space):
    """On the screen and in run.json, with the number of records and the nearest name."""
    records = json.loads((space.folder / "requests.json").read_text())
    for record in records[:2]:
        record["negated_prompt"] = ["x"]
    records[0]["locality"] = [{"prompt": "x"}]
    records[1]["target_new"] += " "
    path = space.write("own.json", records)
    result = space.call(requests=path)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "not read, with the number of their records: 'negated_prompt' (2, like" in said
    assert "1 probes cannot be used" in said and "1 targets end in white space" in said
    run = json.loads((space.out / "run.json").read_text())
    assert run["unused_fields"] == {"negated_prompt": 2}
    assert run["left_out_probes"]["count"] == 1
    assert run["read_otherwise"]["targets end in white space, which is not edited"]["count"] == 1
    assert run["n_edits"] == len(records)  # the faulty probe costs no edit
    plain = load_request_set(space.folder / "requests.json")
    assert plain.remarks() == [] and plain.record() == {}


def test_distracting_neighbours_are_measured(space):
    """Their own fact counts, not that of the statement before it."""
    records = json.loads((space.folder / "requests.json").read_text())[:2]
    for record in records:
        record["relation_id"] = "P1"
    text = records[1]["subject"]
    records[0]["distracting_neighborhood_prompts"] = [
        f"{records[0]['subject']} is Dutch. The mother tongue of Bob is",
        f"{records[0]['subject']} is Dutch. The mother tongue of {text} is",
    ]
    path = space.write("own.json", records)
    assert space.call(requests=path, measures="distracting").exit_code == 0
    rows = [json.loads(line) for line in (space.out / "probes.jsonl").read_text().splitlines()]
    (digits,) = [row["distracting"] for row in rows if "distracting" in row]
    assert digits[0] in "0123" and digits[1] == "."


def test_a_long_probe_costs_itself(space):
    """In a run and when it is scored again; a model reads 64 tokens at once."""
    records = json.loads((space.folder / "requests.json").read_text())
    long = "the quiet song of the old town " * 20
    records[1] |= {
        "paraphrase_prompts": [long, "Zoë likes"],
        "locality": [{"prompt": long, "answer": "x"}],
    }
    path = space.write("own.json", records)
    result = space.call(requests=path)
    assert result.exit_code == 0, result.output
    assert "2 probes are too long for the model. The first: case_id 1: paraphrase_prompts[0]" in (
        " ".join(result.output.split())
    )
    run = json.loads((space.out / "run.json").read_text())
    assert run["long_probes"]["count"] == 2 and run["n_edits"] == len(records)
    again = space.call("score", edited=space.out, requests=path)
    assert again.exit_code == 0 and "2 probes are too long" in again.output


def test_a_round_without_an_edit_is_said(space):
    """NSE skips small residuals: such a request is refused, not satisfied."""
    settings = space.write("nse.json", {"layers": [1], "steps": 3, "lr": 0.1})
    result = space.call(hyper=settings, method="nse", batch_size=5)
    outcomes = [json.loads(line) for line in (space.out / "outcomes.jsonl").open()]
    assert {outcome["status"] for outcome in outcomes} == {"refused"}
    said = " ".join(result.output.split())
    assert "round 0: none of its 5 requests was edited; the first, case_id 0, is refused" in said
    assert "(done_below)" in said
