"""Converts the records of benchmarks to the plain schema, one function a layout."""

from itertools import zip_longest
from typing import Any

from .fields import Tracked
from .plain import UNUSED, Record, first, objects, pair, pairs, some


def from_zsre(record: Record, number: int) -> list[Record]:
    """ZsRE as prepared for MEND, which edits `src` to `alt`.

    The true answer is the first of `answers`. The locality prompt is MEND's question from Natural
    Questions with the question mark that the released evaluation appends; its answer is the gold
    answer. `portability`, where there is one, asks for a relation of the new object.
    """
    locality = []
    question = record.get("loc")
    if isinstance(question, str) and question:
        locality = [{"prompt": f"{question.rstrip('?')}?", "answer": record.get("loc_ans")}]
    asked = record.get("portability")
    portability = []
    if isinstance(asked, dict):
        portability = [pair(asked.get("New Question"), asked.get("New Answer"), "two_hop")]
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": record["src"],
            "subject": record.get("subject"),
            "target_new": record["alt"],
            "target_true": first(record.get("answers")) or None,
            "paraphrase_prompts": some(record.get("rephrase")),
            "questions": [record["src"]],
            "locality": locality,
            "portability": portability,
        }
    ]


def from_mquake(record: Record, number: int) -> list[Record]:
    """MQuAKE: one edit for each of the rewrites of a case, numbered "17.1", "17.2" …

    Its questions of several hops belong to the last of them, after which all edits of the case are
    made. So do the single hops of the new chain.
    """
    rewrites = record["requested_rewrite"]
    case = record.get("case_id", number)
    answer, previous = record.get("new_answer"), record.get("answer")
    entailed = [
        pair(question, answer, "multi_hop", previous, record.get("new_answer_alias"))
        for question in record["questions"]
    ]
    entailed += [
        pair(hop.get("question"), hop.get("answer"), "single_hop", None, hop.get("answer_alias"))
        for hop in objects(record.get("new_single_hops"))
    ]
    edits = []
    for i, rewrite in enumerate(rewrites, start=1):
        core = rewrite if isinstance(rewrite, dict) else {}
        edits.append(
            {
                "case_id": case if len(rewrites) == 1 else f"{case}.{i}",
                "requested_rewrite": {n: v for n, v in core.items() if n != "question"} or rewrite,
                "questions": some(core.get("question")),
                "portability": entailed if i == len(rewrites) else [],
            }
        )
    return edits


def from_wikibigedit(record: Record, number: int) -> list[Record]:
    """WikiBigEdit, whose question `update` is answered by `ans`."""
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": record["update"],
            "subject": record.get("subject"),
            "target_new": record["ans"],
            "relation_id": record.get("relation"),
            "paraphrase_prompts": some(record.get("rephrase")),
            "questions": [record["update"]],
            "locality": pairs(record, "loc", "loc_ans"),
            "portability": pairs(record, "mhop", "mhop_ans", "multi_hop")
            + (
                [pair(record["personas"], record["ans"], "persona")]
                if record.get("personas")
                else []
            ),
        }
    ]


def from_qaedit(record: Record, number: int) -> list[Record]:
    """QAEdit, whose prompts are questions. Its `id` occurs more than once and is not used."""
    probes = record.get("locality")
    if isinstance(probes, list):
        probes = [
            {"prompt": p.get("loc"), "answer": p.get("loc_ans")} if isinstance(p, dict) else p
            for p in probes
        ]
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": record.get("prompt"),
            "subject": record.get("subject"),
            "target_new": record["target"],
            "paraphrase_prompts": some(record["rephrase"]),
            "questions": [record.get("prompt")],
            "locality": probes,
        }
    ]


def from_ultraedit(record: Record, number: int) -> list[Record]:
    """UltraEditBench, whose prompt is continued by `ans`."""
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": record["prompt"],
            "subject": record.get("subject"),
            "target_new": record["ans"],
            "paraphrase_prompts": some(record.get("rephrase_prompt"))
            + some(record.get("rephrase")),
            "locality": pairs(record, "loc", "loc_ans"),
            "portability": pairs(record, "mhop", "mhop_ans", "multi_hop"),
        }
    ]


def from_unke(record: Record, number: int) -> list[Record]:
    """UnKE, whose question is answered by a whole text.

    It names no subject. Unless somebody added one the whole question stands for it, so that edits
    are made at the question's last token, as UnKE makes them.
    """
    question, subject = record["question"], record.get("subject")
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": question if subject else "{}",
            "subject": subject or question,
            "target_new": record["answer"],
            "paraphrase_prompts": some(record.get("para_question")),
            "questions": some(question),
            "portability": _parts(record.get("sub_question"), record.get("sub_answer")),
        }
    ]


def _parts(questions: Any, answers: Any) -> list[Record]:
    """Probes of two lists; a question without an answer is one that `parse_requests` names."""
    if not isinstance(questions, list) or not isinstance(answers, list):
        return []
    return [pair(q, a, "part") for q, a in zip_longest(questions, answers)]


def from_hallueditbench(record: Record, number: int) -> list[Record]:
    """HalluEditBench (2410.16251), a table; what models said is not read.

    Its questions without an answer of their own, about other facts, are not read either.
    """
    question = record["question"]
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": question,
            "subject": record.get("subject"),
            "target_new": record["object"],
            "relation_id": record.get("relation"),
            "paraphrase_prompts": some(record["paraphrased_question"]),
            "questions": some(question),
            "portability": [
                *pairs(record, "question_2hop", "answer_2hop", "two_hop"),
                *_answered(record, "yes_question", "Yes", "yes"),
                *_answered(record, "no_question", "No", "no"),
                *_answered(
                    record, "reversed_relation_question", record.get("subject"), "reversed_relation"
                ),
            ],
        }
    ]


def _answered(record: Record, question: str, answer: Any, kind: str) -> list[Record]:
    """The probe of a question whose answer is known, or none without a question."""
    return [pair(record[question], answer, kind)] if record.get(question) else []


def from_uniedit(record: Record, number: int) -> list[Record]:
    """UniEdit, whose probes are numbered objects with prompt and target.

    Probes of generality are of the kind that their `path_type` names.
    """
    edit = Tracked(record["edit"])
    own = {
        "case_id": record.get("case_id", number),
        "prompt": edit.get("prompt"),
        "subject": edit.get("subject"),
        "target_new": edit.get("target"),
        "portability": _numbered(record.get("generality")),
        "locality": _numbered(record.get("locality")),
    }
    return [own | {UNUSED: [f"edit.{name}" for name in edit.rest]}]


def _numbered(probes: Any) -> list[Record]:
    """Probes of a list, or of an object by their numbers."""
    found = probes.values() if isinstance(probes, dict) else probes
    return [
        pair(one.get("prompt"), one.get("target"), one.get("path_type") or "")
        for one in objects(list(found or []))
    ]
