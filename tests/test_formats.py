"""Every schema and kind of file becomes the same requests.

What is wrong is named or, if asked for, left out.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqedit.requests.formats import read_rounds
from seqedit.requests.layouts import in_our_schema
from seqedit.requests.published import load_requests
from seqedit.requests.record import Probe
from seqedit.requests.request import (
    EditRequest,
    RequestError,
    parse_requests,
    usable_requests,
)

ZSRE = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology", "IIT"],
    "loc": "nq question: who played desmond doss father",
    "loc_ans": "Hugo Weaving",
    "cond": "Trinity College >> University of Michigan || What university …",
}
KNOWEDIT = {
    "subject": "Frederic Piesch",
    "prompt": "The name of the position held by Frederic Piesch is",
    "target_new": "Archbishop",
    "ground_truth": "mayor of Vienna",
    "portability": {
        "Subject_Aliasing": [
            {
                "prompt": "The position of Frederic of Pieschen is ",
                "ground_truth": [["Archbishop", "Bishop"]],
            }
        ]
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The gender of Frederic Piesch is", "ground_truth": "male"}
        ],
        "Forgetfulness": [{"prompt": ["Frederic Piesch was once"], "ground_truth": ["mayor"]}],
    },
}
COUNTERFACT = {
    "case_id": 5,
    "pararel_idx": 3,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "subject": "Danielle Darrieux",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
    },
    "paraphrase_prompts": ["Danielle Darrieux, a native"],
    "neighborhood_prompts": ["Montesquieu speaks"],
    "attribute_prompts": [],
    "generation_prompts": ["Danielle Darrieux was born in"],
}


PROBE = {"prompt": "x is", "ground_truth": "y"}


def requests_of(*records):
    return parse_requests(
        [own for i, record in enumerate(records) for own in in_our_schema(record, i)]
    )


def test_zsre_record_is_converted():
    """Numbered by place, its question is the prompt, the locality question ends as in the released
    evaluation.
    """
    assert requests_of(COUNTERFACT, ZSRE)[1] == EditRequest(
        case_id=1,
        prompt="What university did {} attend?",
        subject="Watts Humphrey",
        target_new="University of Michigan",
        target_true="Illinois Institute of Technology",
        paraphrase_prompts=("What university did Watts Humphrey take part in?",),
        questions=("What university did Watts Humphrey attend?",),
        locality=(Probe("nq question: who played desmond doss father?", "Hugo Weaving"),),
    )


QAEDIT = {
    "id": 1104,
    "source": "NQ",
    "prompt": "who has the most 70 point games?",
    "target": "Wilt Chamberlain",
    "subject": "most 70 point games",
    "rephrase": "Who holds the record for 70 point games?",
    "locality": [{"loc": "who protects police officers", "loc_ans": "Michael"}],
}


def test_qaedit_record_is_converted():
    """Its prompt is a question, its probes have other names, and its id need not be its own."""
    (found,) = requests_of(QAEDIT)
    assert found == EditRequest(
        case_id=0,
        prompt="who has the {}?",
        subject="most 70 point games",
        target_new="Wilt Chamberlain",
        paraphrase_prompts=("Who holds the record for 70 point games?",),
        questions=("who has the most 70 point games?",),
        locality=(Probe("who protects police officers", "Michael"),),
    )
    (bare,) = requests_of(QAEDIT | {"rephrase": "", "locality": None})
    assert bare.paraphrase_prompts == bare.locality == ()


def test_real_qaedit_records(benchmarks):
    """All of a thousand can be edited."""
    requests = load_requests(benchmarks / "qaedit_1000.json")
    assert len(requests) == 1000
    assert all(r.questions == (r.text,) and len(r.locality) == 5 for r in requests)


def test_knowedit_record_is_converted():
    """All kinds of locality and portability, the first wording of each answer."""
    assert requests_of(KNOWEDIT)[0] == EditRequest(
        case_id=0,
        prompt="The name of the position held by {} is",
        subject="Frederic Piesch",
        target_new="Archbishop",
        target_true="mayor of Vienna",
        locality=(
            Probe("The gender of Frederic Piesch is", "male", "relation_specificity"),
            Probe("Frederic Piesch was once", "mayor", "forgetfulness"),
        ),
        portability=(
            Probe("The position of Frederic of Pieschen is ", "Archbishop", "subject_aliasing"),
        ),
    )
    assert requests_of(KNOWEDIT | {"rephrase_prompt": "Piesch is"})[0].paraphrase_prompts == (
        "Piesch is",
    )


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (ZSRE | {"alt": ""}, "target_new: is empty"),
        (ZSRE | {"subject": "Humphrey Watts"}, "prompt: the subject"),
        (KNOWEDIT | {"target_new": 3}, "target_new: expected"),
        (KNOWEDIT | {"locality": "x"}, "locality: expected a list of"),
        (QAEDIT | {"target": None}, "target_new: is missing"),
        (QAEDIT | {"locality": 5}, "locality: expected a list of"),
    ],
)
def test_wrong_records_of_other_schemas(record, field):
    """They are judged like our own: record and field are named."""
    with pytest.raises(RequestError, match=rf"requests, record 0 \(case_id 0\): {field}"):
        requests_of(record)


@pytest.mark.parametrize(
    ("record", "where", "kept"),
    [
        (ZSRE | {"loc_ans": None}, "locality[0]", (0, 0)),
        (KNOWEDIT | {"locality": {"Forgetfulness": [{"prompt": "x"}]}}, "locality[0]", (0, 1)),
        (KNOWEDIT | {"portability": {"Reasoning": ["x"]}}, "portability[0]", (2, 0)),
        (QAEDIT | {"locality": [{"loc": "x"}]}, "locality[0]", (0, 0)),
        (QAEDIT | {"locality": ["x"]}, "locality[0]", (0, 0)),
        (QAEDIT | {"rephrase": 3}, "paraphrase_prompts[0]", (1, 0)),
        (
            KNOWEDIT | {"portability": {"A": [{"prompt": "", "ground_truth": "y"}, PROBE]}},
            "portability[0]",
            (2, 1),
        ),
    ],
)
def test_a_probe_without_an_answer_costs_itself(record, where, kept):
    """The edit and the other probes stay, and a message names the probe."""
    (request,) = requests_of(record)
    assert (len(request.locality), len(request.portability)) == kept
    (message,) = request.left_out_probes
    assert message.startswith(f"requests, record 0 (case_id 0): {where}: left out")


def test_counterfact_as_parquet(tmp_path):
    """The hub keeps CounterFact as parquet; it reads like the authors' JSON."""
    pq.write_table(pa.Table.from_pylist([COUNTERFACT]), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps([COUNTERFACT]))
    assert load_requests(tmp_path / "a.parquet") == load_requests(tmp_path / "a.json")
    assert load_requests(tmp_path / "a.json")[0].target_new_id == "Q1860"


def test_csv_columns_become_fields(tmp_path):
    """Columns by name; rows without a case_id are numbered; cells may hold commas, lists, and
    nothing.
    """
    path = tmp_path / "my.csv"
    path.write_text(
        "prompt,subject,target_new,target_true,paraphrase_prompts,generation_prompts\n"
        '"{}, today, plays",Zoë O\'Brien,polo,,Zoë likes,"[""Zoë is"", ""Zoë was""]"\n'
        "The café of {},André,NA,007,,\n",
        encoding="utf-8-sig",
    )
    first, second = load_requests(path)
    assert first == EditRequest(
        case_id=0,
        prompt="{}, today, plays",
        subject="Zoë O'Brien",
        target_new="polo",
        paraphrase_prompts=("Zoë likes",),
        generation_prompts=("Zoë is", "Zoë was"),
    )
    assert second == EditRequest(
        case_id=1, prompt="The café of {}", subject="André", target_new="NA", target_true="007"
    )
    path.write_text("case_id,prompt,subject,target_new\n12,{} is,Ada,x\nb7,{} is,Bob,x\n")
    assert [r.case_id for r in load_requests(path)] == [12, "b7"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "prompt,subject\n{} is,Ada,x\n", "row 0 has more cells than there are columns"),
        (
            "a.csv",
            "prompt,subject,target_new\n{} is,Ada\n",
            "record 0 .case_id 0.: target_new: is missing",
        ),
        ("a.csv", "prompt;subject\n{} is;Ada\n", "record 0 .case_id 0.: target_new: is missing"),
        ("a.csv", 'prompt,subject,target_new,locality\n{} is,Ada,x,"[{"\n', "not valid JSON"),
        ("a.csv", "", "holds no records"),
        ("a.parquet", "text", "cannot be read"),
        ("a.xlsx", "", r"ends in \.json, \.jsonl, \.csv, \.parquet"),
    ],
)
def test_wrong_files_of_other_kinds_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError, match=message) as raised:
        load_requests(tmp_path / name)
    assert name in str(raised.value)


def test_what_cannot_be_edited_together_is_left_out(tmp_path):
    """The first of a contradiction stays, rounds keep their order, each reason is told with record
    and field.
    """

    def record(case_id, subject, target, prompt="{} speaks", relation="P1"):
        return {
            "case_id": case_id,
            "prompt": prompt,
            "subject": subject,
            "target_new": target,
            "relation_id": relation,
        }

    rounds = [
        [record(0, "Ada", "Dutch"), record(0, "Bob", "Dutch")],
        [record(1, "Ada", "Latin")],
        [
            record(2, "Ada", "Latin", "{} talks in"),
            record(3, "Ada", " "),
            record(4, "Ada", "Latin", "{} x", "P2"),
            record(5, "Ada", "Dutch"),
            record(6, "Ada", "Dutch", "{} talks in"),
        ],
    ]
    kept, left_out = usable_requests(rounds, "f.json")
    assert [[r.case_id for r in batch] for batch in kept] == [[0], [4, 6]]
    assert {reason: len(messages) for reason, messages in left_out.items()} == {
        "repeats a case_id": 1,
        "repeats an earlier record": 1,
        "contradicts an earlier record": 2,
        "wrong record": 1,
    }
    assert left_out["wrong record"] == ["f.json, record 4 (case_id 3): target_new: is empty"]
    assert (
        "record 3 (case_id 2): target_new 'Latin' contradicts 'Dutch' of case_id 0 "
        "for the same subject and relation" in left_out["contradicts an earlier record"][1]
    )
    with pytest.raises(
        RequestError, match="no record can be used; the first problem is: f.json, record 0"
    ):
        usable_requests([[record(3, "Ada", " ")]], "f.json")


def test_rounds_are_numbered_through(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"rounds": [[ZSRE], [ZSRE, COUNTERFACT]]}))
    assert [[r["case_id"] for r in batch] for batch in read_rounds(tmp_path / "a.json")] == [
        [0],
        [1, 5],
    ]
