"""Properties of reading requests: every schema reads back what was written, junk is refused."""

import csv
import json
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqedit.requests.formats import READERS
from seqedit.requests.layouts import in_our_schema
from seqedit.requests.plain import is_blank
from seqedit.requests.published import load_requests
from seqedit.requests.record import PROMPTS, Probe
from seqedit.requests.request import (
    EditRequest,
    RequestError,
    parse_requests,
    usable_requests,
)

FIELDS = (
    *("case_id", "requested_rewrite", "prompt", "subject", "target_new", "target_true"),
    *(*PROMPTS, "locality", "portability", "relation_id"),
    *("src", "alt", "answers", "rephrase", "loc", "loc_ans", "ground_truth", "rephrase_prompt"),
)
once = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

characters = st.characters(exclude_characters="{}", exclude_categories=["Cs"])
unquoted = st.characters(exclude_characters="{}\"'`", exclude_categories=["Cs"])
"""Beside a quotation mark "{}" may be text, see `find_subject`."""
text = st.text(characters, min_size=1, max_size=12).map(str.strip)
text = text.filter(lambda text: not is_blank(text))
prompts = st.lists(text, max_size=3).map(tuple)


@st.composite
def fields_with(draw, paraphrases: int = 3, probes: int = 3, **fixed) -> dict:
    """Fields of a request, with random text and at most so many paraphrases and probes."""
    kinds = st.sampled_from(["", "two_hop", "alias"])
    probe = st.builds(
        Probe, text, text, kinds, st.none() | text, st.none() | text, st.lists(text).map(tuple)
    )
    around = st.text(unquoted, max_size=8)
    prompt = f"{draw(around)}{{}}{draw(around)}"
    fields = {
        "case_id": draw(st.integers() | text),
        "prompt": prompt.rstrip(),
        "subject": draw(text),
        "target_new": draw(text),
        "target_true": draw(st.none() | text),
        "paraphrase_prompts": tuple(draw(st.lists(text, max_size=paraphrases))),
        "locality": tuple(draw(st.lists(probe, max_size=probes))),
        "portability": tuple(draw(st.lists(probe, max_size=probes))),
    }
    return fields | fixed


@st.composite
def all_fields(draw) -> dict:
    """Every field that the plain schema and CounterFact's can hold."""
    more = {name: draw(prompts) for name in PROMPTS[1:]} | {"relation_id": draw(st.none() | text)}
    return draw(fields_with(**more))


def probes_as_dicts(probes):
    return [probe._asdict() for probe in probes]


def of_kind(probes, kind: str) -> tuple[Probe, ...]:
    """The probes as a schema keeps them that knows prompt, answer and kind only."""
    return tuple(Probe(probe.prompt, probe.answer, kind) for probe in probes)


def plain(request: EditRequest) -> dict:
    """The record of a request in the plain schema."""
    record = asdict(request) | {
        name: probes_as_dicts(getattr(request, name)) for name in ("locality", "portability")
    }
    del record["target_new_id"], record["left_out_probes"]  # have no place of their own there
    return record


def read_back(*records) -> list[EditRequest]:
    """The requests of records that have been through JSON."""
    records = json.loads(json.dumps(records))
    return parse_requests(
        [own for i, record in enumerate(records) for own in in_our_schema(record, i)]
    )


@given(all_fields())
def test_plain_records_are_read_back_equal(fields):
    request = EditRequest(**fields)
    assert read_back(plain(request)) == [request]


@given(all_fields(), st.none() | text)
def test_counterfact_records_are_read_back_equal(fields, identifier):
    request = EditRequest(**fields)
    record = plain(request)
    core = {name: record.pop(name) for name in ("prompt", "subject", "relation_id")}
    true = record.pop("target_true")
    core |= {
        "target_new": {"str": record.pop("target_new"), "id": identifier},
        "target_true": {"str": true} if true else None,
    }
    (found,) = read_back(record | {"requested_rewrite": core})
    assert found == EditRequest(**asdict(request) | {"target_new_id": identifier})


@given(fields_with(paraphrases=1, probes=1, portability=()))
def test_zsre_records_are_read_back_equal(fields):
    """The prompt is a filled one there, so the texts must agree; a question ends in one "?"."""
    request = EditRequest(**fields)
    probe = request.locality[0] if request.locality else (None, None)
    record = {
        "case_id": request.case_id,
        "src": request.text,
        "subject": request.subject,
        "alt": request.target_new,
        "answers": [request.target_true] if request.target_true else [],
        "rephrase": "".join(request.paraphrase_prompts),
        "loc": probe[0],
        "loc_ans": probe[1],
    }
    (found,) = read_back(record)
    questions = tuple(Probe(f"{p.prompt.rstrip('?')}?", p.answer) for p in request.locality)
    assert found.text == request.text
    expected = asdict(request) | {"prompt": found.prompt, "locality": questions}
    expected["questions"] = (request.text,)
    assert found == EditRequest(**expected)


@given(fields_with())
def test_knowedit_records_are_read_back_equal(fields):
    """Probes by kind; the first of several wordings of an answer counts."""
    request = EditRequest(**fields)
    record = {
        "case_id": request.case_id,
        "prompt": request.text,
        "subject": request.subject,
        "target_new": request.target_new,
        "ground_truth": [[request.target_true, "another wording"]] if request.target_true else [],
        "rephrase": list(request.paraphrase_prompts),
        "locality": {
            "Forgetfulness": [{"prompt": p[0], "ground_truth": p[1]} for p in request.locality]
        },
        "portability": {
            "Two Hop": [{"prompt": p[0], "ground_truth": p[1]} for p in request.portability]
        },
    }
    (found,) = read_back(record)
    assert found.text == request.text
    expected = asdict(request) | {
        "prompt": found.prompt,
        "locality": of_kind(request.locality, "forgetfulness"),
        "portability": of_kind(request.portability, "two_hop"),
    }
    assert found == EditRequest(**expected)


@once
@given(all_fields())
def test_csv_rows_are_read_back_equal(tmp_path, fields):
    """Lists are JSON in their cells; numbers come back as numbers, other text as it is."""
    request = EditRequest(**fields)
    row = {name: value for name, value in plain(request).items() if value}
    if isinstance(request.case_id, int):
        row["case_id"] = abs(request.case_id)
    path = tmp_path / "requests.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        cells = {k: json.dumps(v) if isinstance(v, list | tuple) else v for k, v in row.items()}
        writer.writerow(cells)
    (found,) = load_requests(path)
    wanted = row.get("case_id", 0)
    if isinstance(wanted, str) and wanted.isdecimal() and str(int(wanted)) == wanted:
        wanted = int(wanted)  # "007" is no number
    assert found == EditRequest(**asdict(request) | {"case_id": wanted})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FIELDS, "str", "id", "answer"]), inner, max_size=3)
    ),
    max_leaves=6,
)
junk = st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=8) | json_values


@given(st.lists(junk, max_size=3))
def test_junk_is_refused_with_a_request_error(records):
    """Whatever the fields hold, the only error is the one that names the record."""
    try:
        read_back(*records)
    except RequestError as error:
        assert "requests, record " in str(error)


@given(all_fields(), st.sampled_from(FIELDS), json_values)
def test_one_junk_field_is_refused_by_name_or_harmless(fields, field, value):
    """In a record that is right but for one field."""
    request = EditRequest(**fields)
    try:
        read_back(plain(request) | {field: value})
    except RequestError as error:
        assert str(error).startswith("requests, record 0")


@given(st.lists(st.lists(junk, max_size=3), max_size=3))
def test_junk_is_left_out_record_by_record(rounds):
    """Each record is either kept or left out with a message; none is lost."""
    try:
        kept, left_out = usable_requests(rounds)
    except RequestError:  # none can be used
        return
    assert all(kept)
    assert sum(map(len, kept)) + sum(map(len, left_out.values())) == sum(map(len, rounds))


@once
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@pytest.mark.parametrize("suffix", READERS)
def test_junk_files_are_refused_with_a_request_error(tmp_path, suffix, content):
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(content)
    try:
        load_requests(path)
    except RequestError as error:
        assert path.name in str(error)
