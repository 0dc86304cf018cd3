"""The layouts in which benchmarks keep their records, and their conversion to the plain schema.

A layout is recognised by its fields (`LAYOUTS`). Records of any other layout are left as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .converters import (
    from_hallueditbench,
    from_mquake,
    from_qaedit,
    from_ultraedit,
    from_uniedit,
    from_unke,
    from_wikibigedit,
    from_zsre,
)
from .easyedit import from_easyedit
from .fields import Tracked, with_rest
from .plain import PLAIN, Record, RequestError
from .ripple_edits import RIPPLE_LOCALITY, RIPPLE_PORTABILITY, from_ripple


@dataclass(frozen=True)
class Layout:
    """How a benchmark keeps its records.

    Attributes:
        fields: names of the fields by which a record is recognised; all of them must be there.
        convert: record and the number of a record without an identifier → its edits in the plain
            schema.
        source: where the layout comes from.
        reads: names of the fields that are read, beside those of the plain schema.
    """

    fields: tuple[str, ...]
    convert: Callable[[Record, int], list[Record]]
    source: str
    reads: tuple[str, ...]


def in_our_schema(record: Any, number: int) -> list[Any]:
    """The edits of a record in the plain schema; one that has no layout of `LAYOUTS` as it is.

    Args:
        record: what the file holds, of any type.
        number: the case_id of a record that has none.

    Raises:
        RequestError: the record has a layout, but lacks what its conversion needs.
    """
    if isinstance(record, dict):
        for layout in LAYOUTS.values():
            if all(_has(record, name) for name in layout.fields):
                tracked = Tracked(record)
                try:
                    edits = layout.convert(tracked, number)
                except RequestError as error:
                    raise RequestError(f"record {number}: {error}") from error
                return [with_rest(edit, tracked.rest) for edit in edits]
    return [record]


def _has(record: Mapping[str, Any], field: str) -> bool:
    """Whether a record has a field; "field{}" asks for an object, "field[]" for a list."""
    name = field.rstrip("{}[]")
    kind = {"{}": dict, "[]": list}.get(field[len(name) :], object)
    return name in record and isinstance(record[name], kind)


_EASYEDIT = (
    *("prompt", "prompts", "subject", "target_new", "ground_truth"),
    *("rephrase", "rephrase_prompt", "rephrase_prompts"),
    *("locality", "locality_inputs", "locality_prompt", "locality_ground_truth"),
    *("portability", "portability_inputs", "portability_prompt", "portability_ground_truth"),
)


def _easyedit(*fields: str) -> Layout:
    return Layout(fields, from_easyedit, "KnowEdit (2401.01286), zjunlp/EasyEdit", _EASYEDIT)


LAYOUTS = {
    "ZsRE": Layout(
        ("src", "alt"),
        from_zsre,
        "MEND (2110.11309), as released with ROME and MEMIT; with EasyEdit's portability",
        ("src", "alt", "subject", "answers", "rephrase", "loc", "loc_ans", "portability"),
    ),
    "MQuAKE": Layout(
        ("requested_rewrite[]", "questions[]"),
        from_mquake,
        "2305.14795; AKEW (2402.18909)",
        (
            *("requested_rewrite", "questions", "answer", "new_answer", "new_answer_alias"),
            "new_single_hops",
        ),
    ),
    "RippleEdits": Layout(
        ("edit{}", "Relation_Specificity"),
        from_ripple,
        "2307.12976",
        ("edit", *RIPPLE_LOCALITY, *RIPPLE_PORTABILITY),
    ),
    "UniEdit": Layout(
        ("edit{}", "generality"), from_uniedit, "2505.12345", ("edit", "generality", "locality")
    ),
    "WikiBigEdit": Layout(
        ("update", "ans"),
        from_wikibigedit,
        "2503.05683",
        (
            *("update", "subject", "ans", "relation", "rephrase", "loc", "loc_ans"),
            *("mhop", "mhop_ans", "personas"),
        ),
    ),
    "UltraEditBench": Layout(
        ("prompt", "ans"),
        from_ultraedit,
        "2505.14679",
        (
            *("prompt", "subject", "ans", "rephrase_prompt", "rephrase", "loc", "loc_ans"),
            *("mhop", "mhop_ans"),
        ),
    ),
    "UnKE": Layout(
        ("question", "answer", "para_question"),
        from_unke,
        "2405.15349",
        ("question", "answer", "subject", "para_question", "sub_question", "sub_answer"),
    ),
    "HalluEditBench": Layout(
        ("question", "object", "paraphrased_question"),
        from_hallueditbench,
        "2410.16251",
        (
            *("question", "object", "subject", "relation", "paraphrased_question"),
            *("question_2hop", "answer_2hop", "yes_question", "no_question"),
            "reversed_relation_question",
        ),
    ),
    "QAEdit": Layout(
        ("target", "rephrase"),
        from_qaedit,
        "2502.11177",
        ("prompt", "target", "subject", "rephrase", "locality"),
    ),
    "KnowEdit": _easyedit("target_new", "ground_truth"),
    "KnowEdit, locality only": _easyedit("target_new", "locality{}"),
    "KnowEdit, portability only": _easyedit("target_new", "portability{}"),
    "EasyEdit": _easyedit("target_new", "locality_prompt"),
    "EasyEdit, portability": _easyedit("target_new", "portability_prompt"),
    "EasyEdit, rephrased": _easyedit("target_new", "rephrase_prompt"),
    "EasyEdit, rephrased as in KnowEdit": _easyedit("target_new", "rephrase"),
    "EasyEdit, arguments": _easyedit("target_new", "prompts"),
    "EasyEdit, inputs": _easyedit("target_new", "locality_inputs"),
    "EasyEdit, inputs of portability": _easyedit("target_new", "portability_inputs"),
}
"""Layout by the name of its benchmark; the first that fits a record is taken."""

KNOWN = frozenset(PLAIN).union(*(layout.reads for layout in LAYOUTS.values()))
"""Names of all fields that are read."""
