"""Every layout reads the fields that it says, names the others, and stands in the book's table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from seqedit.requests.fields import Tracked
from seqedit.requests.layouts import LAYOUTS, in_our_schema
from seqedit.requests.request import EditRequest, parse_requests

PAGE = Path(__file__).resolve().parents[1] / "chapters" / "request_files.md"

EASYEDIT = {
    "prompt": "",
    "prompts": "Ana plays",
    "subject": "Ana",
    "target_new": "golf",
    "ground_truth": ["judo", "Judo"],
    "rephrase": ["Ana does"],
    "rephrase_prompt": "The sport of Ana is",
    "rephrase_prompts": ["Ana likes"],
    "locality": {"Forgetfulness": [{"prompt": ["Ana once played"], "ground_truth": ["chess"]}]},
    "locality_inputs": {"neighborhood": {"prompt": ["Cy plays"], "ground_truth": ["polo"]}},
    "locality_prompt": ["Di plays", "Ed plays"],
    "locality_ground_truth": ["go", "chess"],
    "portability": {"Reasoning": {"prompt": "Golf is from", "ground_truth": [["Scotland"]]}},
    "portability_inputs": {"one_hop": {"prompt": "Ana holds a", "ground_truth": "club"}},
    "portability_prompt": "Ana wins at",
    "portability_ground_truth": "golf",
}
REWRITE = {
    "prompt": "{} plays",
    "subject": "Ana",
    "target_new": {"str": "golf", "id": "Q1"},
    "target_true": {"str": "judo"},
    "question": "What does Ana play?",
}
QUERY = {"prompt": "The mother of Ana is", "answers": [{"value": "Cy", "aliases": ["C"]}]}
TESTS = [{"test_queries": [QUERY]}]
SENTENCE = "The name of the sport of Ana is golf."
RECORDS: dict[str, tuple[dict[str, Any], str, int, int, int]] = {
    # a record with all fields; its prompt; numbers of paraphrases, locality and portability
    "ZsRE": (
        {
            "src": "What does Ana play?",
            "alt": "golf",
            "subject": "Ana",
            "answers": ["judo"],
            "rephrase": "What is Ana's sport?",
            "loc": "who plays go",
            "loc_ans": "Cy",
            "portability": {"New Question": "Where is Ana's sport from?", "New Answer": "Fife"},
        },
        "What does {} play?",
        *(1, 1, 1),
    ),
    "MQuAKE": (
        {
            "requested_rewrite": [REWRITE],
            "questions": ["Where is Ana's sport from?"],
            "answer": "Japan",
            "new_answer": "Scotland",
            "new_answer_alias": ["Alba"],
            "new_single_hops": [{"question": "What does Ana play?", "answer": "golf"}],
        },
        "{} plays",
        *(0, 0, 2),
    ),
    "RippleEdits": (
        {
            "edit": {
                "prompt": SENTENCE,
                "relation": "SPORT",
                "original_fact": {"prompt": SENTENCE.replace("golf", "judo")},
            },
            "Relation_Specificity": TESTS,
            "Forgetfulness": TESTS,
            "Logical_Generalization": TESTS,
            "Subject_Aliasing": TESTS,
            "Compositionality_I": TESTS,
            "Compositionality_II": TESTS,
        },
        "The name of the sport of {} is",
        *(0, 2, 4),
    ),
    "UniEdit": (
        {
            "edit": {"prompt": "Ana plays", "target": "golf", "subject": "Ana"},
            "generality": {"0": {"path_type": "single", "prompt": "Ana does", "target": "golf"}},
            "locality": {"0": {"prompt": "Cy plays", "target": "go"}},
        },
        "{} plays",
        *(0, 1, 1),
    ),
    "WikiBigEdit": (
        {
            "update": "What does Ana play?",
            "subject": "Ana",
            "ans": "golf",
            "relation": "sport",
            "rephrase": "What is Ana's sport?",
            "loc": "What does Cy play?",
            "loc_ans": "go",
            "mhop": "Where is Ana's sport from?",
            "mhop_ans": "Scotland",
            "personas": "Arr, what be Ana playing?",
        },
        "What does {} play?",
        *(1, 1, 2),
    ),
    "UltraEditBench": (
        {
            "prompt": "Ana plays",
            "subject": "Ana",
            "ans": "golf",
            "rephrase_prompt": "Ana's sport is",
            "rephrase": "Ana does",
            "loc": "Cy plays",
            "loc_ans": "go",
            "mhop": "Ana's sport is from",
            "mhop_ans": "Scotland",
        },
        "{} plays",
        *(2, 1, 1),
    ),
    "UnKE": (
        {
            "question": "What is known of Ana?",
            "answer": "Ana plays golf and lives in Fife.",
            "subject": "",
            "para_question": "Who is Ana?",
            "sub_question": ["What does Ana play?", "Where does Ana live?"],
            "sub_answer": ["golf", "Fife"],
        },
        "{}",
        *(1, 0, 2),
    ),
    "HalluEditBench": (
        {
            "question": "What does Ana play?",
            "object": "golf",
            "subject": "Ana",
            "relation": "sport",
            "paraphrased_question": "What is Ana's sport?",
            "question_2hop": "Where is Ana's sport from?",
            "answer_2hop": "Scotland",
            "yes_question": "Does Ana play golf?",
            "no_question": "Does Ana play judo?",
            "reversed_relation_question": "Who plays golf?",
        },
        "What does {} play?",
        *(1, 0, 4),
    ),
    "QAEdit": (
        {
            "prompt": "what does Ana play",
            "target": "golf",
            "subject": "Ana",
            "rephrase": "what is Ana's sport",
            "locality": [{"loc": "what does Cy play", "loc_ans": "go"}],
        },
        "what does {} play",
        *(1, 1, 0),
    ),
} | {
    name: (EASYEDIT, "{} plays", 3, 4, 3)
    for name in LAYOUTS
    if name.startswith(("KnowEdit", "EasyEdit"))
}


def edited(record: dict[str, Any]) -> EditRequest:
    (request,) = parse_requests(in_our_schema(record, 0))
    return request


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_of_a_record_is_read(name):
    """The edit and every probe; what is said to be read is, and nothing else."""
    record, prompt, paraphrases, locality, portability = RECORDS[name]
    layout = LAYOUTS[name]
    assert set(record) == set(layout.reads)
    tracked = Tracked(record)
    layout.convert(tracked, 0)
    assert tracked.read - {"case_id"} == set(layout.reads)
    request = edited(record)
    found = (len(request.paraphrase_prompts), len(request.locality), len(request.portability))
    assert (request.prompt, found) == (prompt, (paraphrases, locality, portability))
    assert request.unused == request.left_out_probes == ()


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_layout_does_not_know_is_named_or_read_as_plain(name):
    more = {"source": "x", "neighborhood_prompts": ["Cy plays"]}
    request = edited(RECORDS[name][0] | more)
    assert request.unused == ("source",) and request.neighborhood_prompts == ("Cy plays",)


def test_prompts_without_answers_are_named():
    """Lists of different lengths give no answer to the wrong prompt."""
    probes = {"neighborhood": {"prompt": ["Cy plays", "Di plays"], "ground_truth": ["go"]}}
    request = edited(EASYEDIT | {"locality": probes})
    assert len(request.locality) == 3 and len(request.left_out_probes) == 2


def test_unke_edits_at_the_end_of_its_question():
    request = edited(RECORDS["UnKE"][0])
    assert request.text == request.subject == "What is known of Ana?"
    named = edited(RECORDS["UnKE"][0] | {"subject": "Ana"})
    assert (named.prompt, named.text) == ("What is known of {}?", "What is known of Ana?")


def table() -> list[str]:
    """The table of the page: how a record is recognised, and what is read of it.

    Layouts that read the same fields have one row, under the first of their names.
    """
    rows: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    for name, layout in LAYOUTS.items():
        marks = rows.setdefault((layout.source, *layout.reads), (name, []))[1]
        marks.append(_listed(layout.fields))
    lines = ["| layout | recognised by | fields that are read | source |", "|---|---|---|---|"]
    for (source, *reads), (name, marks) in rows.items():
        lines.append(f"| {name} | {'; or '.join(marks)} | {_listed(reads)} | {source} |")
    return lines


def _listed(fields: Sequence[str]) -> str:
    return ", ".join(f"`{field}`" for field in fields)


def test_the_table_of_the_page():
    printed = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert printed == table()
