"""Requests from files: what is accepted, and that every refusal names the record and the field."""

import json

import pytest

from seqedit.requests.published import load_request_set, load_requests
from seqedit.requests.request import (
    EditRequest,
    RequestError,
    batched,
    load_rounds,
    parse_requests,
)

PLAIN = {"case_id": 7, "prompt": "{} lives in", "subject": "Ada", "target_new": "Rome"}
COUNTERFACT = {
    "case_id": 12,
    "pararel_idx": 3,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "subject": "Zoë",
        "target_new": {"str": "English", "id": "Q1"},
        "target_true": {"str": "French", "id": "Q2"},
    },
    "paraphrase_prompts": ["Zoë, a native"],
    "neighborhood_prompts": ["Léon, a native"],
    "attribute_prompts": ["Bob, a native"],
    "generation_prompts": ["Zoë speaks", "Zoë was"],
}


def parse_one(**changes) -> EditRequest:
    return parse_requests([{k: v for k, v in (PLAIN | changes).items() if v is not ...}])[0]


def test_plain_record_is_parsed():
    request = parse_one()
    assert request == EditRequest(case_id=7, prompt="{} lives in", subject="Ada", target_new="Rome")
    assert request.text == "Ada lives in"


def test_counterfact_record():
    """Every field of the benchmark's schema that an edit or its scores need."""
    assert parse_requests([COUNTERFACT])[0] == EditRequest(
        case_id=12,
        prompt="The mother tongue of {} is",
        subject="Zoë",
        target_new="English",
        target_true="French",
        relation_id="P103",
        paraphrase_prompts=("Zoë, a native",),
        neighborhood_prompts=("Léon, a native",),
        attribute_prompts=("Bob, a native",),
        generation_prompts=("Zoë speaks", "Zoë was"),
        target_new_id="Q1",
    )


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"prompt": "Where does Ada live?"}, {"prompt": "Where does {} live?"}),
        (
            {"prompt": "Ada's friend Ada lives in"},
            {"prompt": "Ada's friend {} lives in"},
        ),  # the last occurrence
        ({"prompt": "{} lives in  "}, {"prompt": "{} lives in  "}),  # as given
        ({"subject": " Ada "}, {"subject": "Ada"}),
        ({"target_new": " Rome "}, {"target_new": "Rome"}),
        ({"target_new": {"str": "Rome"}}, {"target_new": "Rome"}),
        ({"target_true": {"str": " Bonn"}}, {"target_true": "Bonn"}),
        ({"target_true": None}, {"target_true": None}),
        ({"case_id": "x-1"}, {"case_id": "x-1"}),
        ({"relation_id": 3}, {"relation_id": None}),
    ],
)
def test_forms_that_are_accepted(given, found):
    request = parse_one(**given)
    assert {name: getattr(request, name) for name in found} == found


@pytest.mark.parametrize(
    ("given", "field", "problem"),
    [
        ({"prompt": ...}, "prompt", "is missing"),
        ({"prompt": 3}, "prompt", "expected a string, found int"),
        ({"prompt": "  "}, "prompt", "is empty"),
        ({"target_new": "\u200b \u200d"}, "target_new", "nothing of '\\u200b \\u200d' is seen"),
        ({"prompt": "Bob lives in"}, "prompt", "the subject 'Ada' is not in 'Bob lives in'"),
        ({"prompt": "{} and {} live in"}, "prompt", 'has 2 places "{}"'),
        ({"subject": ...}, "subject", "is missing"),
        ({"subject": ["Ada"]}, "subject", "expected a string, found list"),
        ({"subject": " "}, "subject", "is empty"),
        ({"subject": "A{}a"}, "subject", 'contains "{}"'),
        ({"target_new": ...}, "target_new", "is missing"),
        ({"target_new": {"id": "Q1"}}, "target_new", "is missing"),
        ({"target_new": 5}, "target_new", 'expected a string or {"str": …}, found int'),
        ({"target_new": " "}, "target_new", "is empty"),
        ({"target_true": ""}, "target_true", "is empty"),
        ({"target_true": {"str": 4}}, "target_true", "found int"),
        ({"case_id": 1.5}, "case_id", "found 1.5"),
        ({"case_id": True}, "case_id", "found True"),
        ({"case_id": None}, "case_id", "found None"),
        (
            {"paraphrase_prompts": "one"},
            "paraphrase_prompts",
            "expected a list of non-empty strings",
        ),
        (
            {"generation_prompts": {"a": 1}},
            "generation_prompts",
            "expected a list of non-empty strings",
        ),
        ({"requested_rewrite": "text"}, "requested_rewrite", "expected an object, found str"),
    ],
)
def test_refusals_name_record_and_field(given, field, problem):
    """The second record of two is wrong.

    Its number, its case_id and the field are in the message.
    """
    bad = {
        k: v for k, v in (PLAIN | {"case_id": 8, "subject": "Ada"} | given).items() if v is not ...
    }
    with pytest.raises(RequestError) as raised:
        parse_requests([PLAIN, bad], source="facts.json")
    message = str(raised.value)
    assert message.startswith(f"facts.json, record 1 (case_id {bad['case_id']!r}): {field}: ")
    assert problem in message


@pytest.mark.parametrize("faulty", [1, "", " ", None, ["a"], {"a": 1}, "a \ud800"])
def test_a_faulty_prompt_costs_itself(faulty):
    """The edit and the other prompts stay, and a message names the prompt."""
    request = parse_one(neighborhood_prompts=["Bob lives in", faulty])
    assert request.neighborhood_prompts == ("Bob lives in",)
    (message,) = request.left_out_probes
    assert message.startswith("requests, record 0 (case_id 7): neighborhood_prompts[1]: left out")


def test_refusals_without_a_case_id():
    with pytest.raises(
        RequestError, match="requests, record 0: case_id: expected a number or a string, found None"
    ):
        parse_one(case_id=...)
    with pytest.raises(RequestError, match="requests, record 1: expected an object, found list"):
        parse_requests([PLAIN, []])


def test_twice_the_same_case():
    with pytest.raises(RequestError, match="record 1: case_id 7 already names record 0"):
        parse_requests([PLAIN, PLAIN | {"subject": "Bob"}])


def test_two_targets_for_one_prompt_are_refused():
    """One prompt cannot get two targets, however it is written."""
    other = {"case_id": 8, "prompt": "Ada lives in", "subject": "Ada", "target_new": "Bonn"}
    with pytest.raises(
        RequestError,
        match=r"record 1 \(case_id 8\): target_new 'Bonn' contradicts 'Rome' of case_id",
    ):
        parse_requests([PLAIN, other])


def test_the_same_request_under_another_id_is_refused():
    """Also with other white space; other subjects, and other wordings of a fact, are no repeats."""
    for prompt in ("{} lives in", "Ada lives in", "Ada  lives in "):
        with pytest.raises(
            RequestError, match=r"record 1 \(case_id 8\): prompt: repeats that of case_id 7"
        ):
            parse_requests([PLAIN, PLAIN | {"case_id": 8, "prompt": prompt}])
    other = {"case_id": 8, "subject": "Bob"}, {"case_id": 9, "prompt": "{}'s home is"}
    assert len(parse_requests([PLAIN, *(PLAIN | changes for changes in other)])) == 3


def test_two_targets_for_a_subject_and_relation_are_refused():
    """Whatever the wording; another relation, or none that is known, may have another target."""
    first = PLAIN | {"relation_id": "P551"}
    second = first | {"case_id": 8, "prompt": "{}'s home is in", "target_new": "Bonn"}
    with pytest.raises(RequestError, match="contradicts 'Rome' of case_id 7 for the same subject"):
        parse_requests([first, second])
    for changes in ({"relation_id": "P19"}, {"relation_id": None}, {"target_new": "Rome"}):
        assert len(parse_requests([first, second | changes])) == 2


def test_lists_lines_and_rounds_give_the_same_requests(tmp_path):
    """A list, lines, or rounds: the same requests, in the same order."""
    records = [PLAIN | {"case_id": i, "subject": f"Ada{i}"} for i in range(3)]
    contents = {
        "list.json": json.dumps(records),
        "rounds.json": json.dumps({"rounds": [records[:1], records[1:]]}),
        "lines.jsonl": "\n\n".join(map(json.dumps, records)) + "\n",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert load_requests(tmp_path / name) == parse_requests(records)
    assert [len(batch) for batch in load_rounds(tmp_path / "rounds.json")] == [1, 2]
    assert [len(batch) for batch in load_rounds(tmp_path / "list.json")] == [3]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", b"[{", "a.json: not valid JSON"),
        ("a.jsonl", b'{"case_id": 1}\n{"case', "a.jsonl: not valid JSON"),
        ("a.json", b"\xff\xfe\x00", "a.json: cannot be read"),
        ("a.json", b'"text"', "a.json: expected a list of records"),
        ("a.json", b'{"facts": []}', "a.json: expected a list of records"),
        ("a.json", b'{"rounds": [{}]}', "a.json: expected a list of records"),
        ("a.json", b"[]", "a.json: holds no records"),
        ("a.jsonl", b"\n", "a.jsonl: holds no records"),
        (
            "a.json",
            json.dumps({"rounds": [[PLAIN], []]}).encode(),
            "a.json: round 1 holds no records",
        ),
        (
            "a.json",
            json.dumps([PLAIN, {"case_id": 2}]).encode(),
            "a.json, record 1 (case_id 2): subject: is missing",
        ),
    ],
)
def test_wrong_json_files_are_named(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError) as raised:
        load_requests(tmp_path / name)
    assert problem in str(raised.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(RequestError, match="nowhere.json: cannot be read"):
        load_requests(tmp_path / "nowhere.json")


def test_batches_are_consecutive(requests):
    """Consecutive, in order, the last one shorter; six requests in the fixture."""
    for size, sizes in ((1, [1] * 6), (4, [4, 2]), (6, [6]), (9, [6])):
        parts = list(batched(requests, size))
        assert list(map(len, parts)) == sizes and [r for part in parts for r in part] == requests
    assert list(batched([], 2)) == []
    with pytest.raises(ValueError, match="batch_size is 0"):
        list(batched(requests, 0))


def test_real_counterfact_records_have_all_prompts(benchmarks):
    """Five hundred real records, every one with its prompts; one contradicts an earlier one."""
    requests = load_request_set(benchmarks / "counterfact_500.json", clean=True).requests
    assert len(requests) == 499
    for request in requests:
        assert request.prompt.count("{}") == 1 and request.subject in request.text
        assert (
            request.target_true
            and len(request.paraphrase_prompts) == 2
            and len(request.neighborhood_prompts) == 10
        )
        assert len(request.attribute_prompts) == 10 and len(request.generation_prompts) == 10
