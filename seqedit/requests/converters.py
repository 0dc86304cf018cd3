"""Converts the records of benchmarks to the plain schema, one function a layout."""

from typing import Any

from .plain import Record, first, objects, pair, pairs, some


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
                "requested_rewrite": rewrite,
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


def from_knowedit(record: Record, number: int) -> list[Record]:
    """KnowEdit and its relatives, EasyEdit's files among them.

    If an answer has several wordings the first is used.
    """
    rephrase = record.get("rephrase") or record.get("rephrase_prompt") or []
    locality = _flat_probes(record.get("locality"))
    if record.get("locality_prompt") and not locality:
        locality = pairs(record, "locality_prompt", "locality_ground_truth")
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": record.get("prompt"),
            "subject": record.get("subject"),
            "target_new": record["target_new"],
            "target_true": first(record.get("ground_truth")) or None,
            "paraphrase_prompts": rephrase if isinstance(rephrase, list) else [rephrase],
            "locality": locality,
            "portability": _flat_probes(record.get("portability")),
        }
    ]


def _flat_probes(groups: Any) -> Any:
    """{kind: [{"prompt", "ground_truth"}, …]} as one list of {"prompt", "answer", "kind"}.

    Anything of another shape is kept, so that `parse_requests` can name it.
    """
    if not isinstance(groups, dict):
        return groups
    probes: list[Any] = []
    for kind, group in groups.items():
        for item in group if isinstance(group, list) else [group]:
            probes += _of_item(item, kind) if isinstance(item, dict) else [item]
    return probes


def _of_item(item: Record, kind: str) -> list[Record]:
    """The probes of {"prompt": …, "ground_truth": …}, or of lists of both of the same length."""
    prompt, answer = item.get("prompt"), item.get("ground_truth")
    if isinstance(prompt, list) and isinstance(answer, list) and len(prompt) == len(answer) > 1:
        return [pair(p, first(a), kind) for p, a in zip(prompt, answer, strict=True)]
    return [pair(first(prompt), first(answer), kind)]
