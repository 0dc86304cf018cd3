"""Converts the records of RippleEdits (2307.12976) to the plain schema."""

import re
from typing import Any

from .plain import Record, RequestError, first, objects, pair


def from_ripple(record: Record, number: int) -> list[Record]:
    """RippleEdits, whose edit is a sentence with the identifier of its subject.

    The new and the old object are what the sentences of the edit and of the original fact do not
    share. The subject's name is the field `subject`, if somebody added it, or follows the words of
    the relation, as in "The name of the country of citizenship of … is". An object is all of the
    accepted answers of a test. A test that has conditions is asked all the same.

    Raises:
        RequestError: the subject cannot be told.
    """
    edit = record["edit"]
    (original,) = objects([edit.get("original_fact")]) or [{}]
    new, true = _sentence(edit.get("prompt")), _sentence(original.get("prompt"))
    prompt, target = _after_common_words(new, true)
    probes = {
        name: [_ripple_probe(query, name) for query in _queries(record.get(name))]
        for name in RIPPLE_LOCALITY + RIPPLE_PORTABILITY
    }
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": prompt,
            "subject": edit.get("subject") or _subject_after(prompt, edit.get("relation"), number),
            "target_new": target,
            "target_true": _after_common_words(true, new)[1] or None,
            "relation_id": edit.get("relation"),
            "locality": [probe for name in RIPPLE_LOCALITY for probe in probes[name]],
            "portability": [probe for name in RIPPLE_PORTABILITY for probe in probes[name]],
        }
    ]


RIPPLE_LOCALITY = ("Relation_Specificity", "Forgetfulness")
RIPPLE_PORTABILITY = (
    "Logical_Generalization",
    "Subject_Aliasing",
    "Compositionality_I",
    "Compositionality_II",
)


def _sentence(text: Any) -> str:
    return text.strip().rstrip(".") if isinstance(text, str) else ""


def _after_common_words(text: str, other: str) -> tuple[str, str]:
    """The words with which both texts begin, and what follows them in the first."""
    words, others = text.split(" "), other.split(" ")
    common = 0
    while common < min(len(words), len(others)) - 1 and words[common] == others[common]:
        common += 1
    return " ".join(words[:common]), " ".join(words[common:])


def _subject_after(prompt: str, relation: Any, number: int) -> str:
    """What stands between the words of a relation and the verb. Raises RequestError."""
    words = str(relation).replace("_", " ").lower()
    found = re.search(rf"\b{re.escape(words)} of (.+?) (?:is|are)$", prompt, flags=re.IGNORECASE)
    if not found:
        raise RequestError(
            f"record {number}: edit.subject: RippleEdits gives an identifier only, and the name "
            f'cannot be told from {prompt!r}; add it as "subject"'
        )
    return found[1]


def _queries(tests: Any) -> list[Record]:
    """All queries of a list of RippleEdits' tests."""
    return [query for test in objects(tests) for query in objects(test.get("test_queries"))]


def _ripple_probe(query: Record, kind: str) -> Record:
    """A query with the first of its answers; all other answers and aliases count as well."""
    names: list[Any] = []
    for answer in objects(query.get("answers")):
        aliases = answer.get("aliases")
        names += [answer.get("value"), *(aliases if isinstance(aliases, list) else [])]
    return pair(query.get("prompt"), first(names), kind, None, names[1:])
