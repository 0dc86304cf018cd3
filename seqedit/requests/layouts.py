"""The layouts in which benchmarks keep their records, and their conversion to the plain schema.

A layout is recognised by its fields (`LAYOUTS`). Records of any other layout are left as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .converters import from_knowedit, from_mquake, from_qaedit, from_wikibigedit, from_zsre
from .plain import Record
from .ripple_edits import from_ripple


@dataclass(frozen=True)
class Layout:
    """How a benchmark keeps its records.

    Attributes:
        fields: names of the fields by which a record is recognised; all of them must be there.
        convert: record and the number of a record without an identifier → its edits in the plain
            schema.
        source: where the layout comes from.
    """

    fields: tuple[str, ...]
    convert: Callable[[Record, int], list[Record]]
    source: str


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
                return layout.convert(record, number)
    return [record]


def _has(record: Mapping[str, Any], field: str) -> bool:
    """Whether a record has a field; "field{}" asks for an object, "field[]" for a list."""
    name = field.rstrip("{}[]")
    kind = {"{}": dict, "[]": list}.get(field[len(name) :], object)
    return name in record and isinstance(record[name], kind)


LAYOUTS = {
    "ZsRE": Layout(("src", "alt"), from_zsre, "MEND (2110.11309), as released with ROME and MEMIT"),
    "MQuAKE": Layout(
        ("requested_rewrite[]", "questions[]"), from_mquake, "2305.14795; AKEW (2402.18909)"
    ),
    "RippleEdits": Layout(("edit{}", "Relation_Specificity"), from_ripple, "2307.12976"),
    "WikiBigEdit": Layout(("update", "ans"), from_wikibigedit, "2503.05683"),
    "QAEdit": Layout(("target", "rephrase"), from_qaedit, "2502.11177"),
    "KnowEdit": Layout(("target_new", "ground_truth"), from_knowedit, "2401.01286"),
    "KnowEdit, locality only": Layout(("target_new", "locality{}"), from_knowedit, "2401.01286"),
    "KnowEdit, portability only": Layout(
        ("target_new", "portability{}"), from_knowedit, "2401.01286"
    ),
    "EasyEdit": Layout(("target_new", "locality_prompt"), from_knowedit, "zjunlp/EasyEdit"),
}
"""Layout by the name of its benchmark; the first that fits a record is taken."""
