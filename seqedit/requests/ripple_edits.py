"""Converts the records of RippleEdits (2307.12976) to the plain schema."""

import re
from typing import Any

from .plain import Record, RequestError, first, objects, pair


def from_ripple(record: Record, number: int) -> list[Record]:
    """RippleEdits, whose edit is a sentence with the identifier of its subject.

    The subject's name is the field `subject` of the edit, if somebody added it, or follows the
    words of the relation, as in "The name of the country of citizenship of … is". All accepted
    answers of a test count, and a test that has conditions is asked all the same.

    Raises:
        RequestError: the subject or the object cannot be told.
    """
    edit = record["edit"]
    (original,) = objects([edit.get("original_fact")]) or [{}]
    new, true = _sentence(edit.get("prompt")), _sentence(original.get("prompt"))
    subject, prompt = edit.get("subject"), _common_words(new, true)
    if not subject:
        prompt, subject = _up_to_the_verb(new, edit.get("relation"))
    probes = {
        name: [_ripple_probe(query, name) for query in _queries(record.get(name))]
        for name in RIPPLE_LOCALITY + RIPPLE_PORTABILITY
    }
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": prompt,
            "subject": subject,
            "target_new": new[len(prompt) :].strip(),
            "target_true": true[len(prompt) :].strip() if true.startswith(prompt) else None,
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


def _common_words(text: str, other: str) -> str:
    """The words with which both texts begin, but not all of them."""
    words, others = text.split(" "), other.split(" ")
    common = 0
    while common < min(len(words), len(others)) - 1 and words[common] == others[common]:
        common += 1
    return " ".join(words[:common])


def _up_to_the_verb(sentence: str, relation: Any) -> tuple[str, str]:
    """The sentence up to its verb, and the subject that stands before it. Raises RequestError."""
    words = re.escape(str(relation).replace("_", " "))
    found = re.match(rf"(.*\b{words} of (.+?) (?:is|are)) \S", sentence, flags=re.IGNORECASE)
    if not found:
        raise RequestError(
            f"edit.subject: RippleEdits gives an identifier only, and the name "
            f'cannot be told from {sentence!r}; add it as "subject"'
        )
    return found[1], found[2]


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
