"""Converts the records of RippleEdits (2307.12976) to the plain schema."""

import re
from typing import Any

from .plain import Record, RequestError, first, objects, pair
from .subject_place import best_occurrences


def from_ripple(record: Record, number: int) -> list[Record]:
    """RippleEdits, whose edit is a sentence with the identifier of its subject.

    The subject's name is the field `subject` of the edit, if somebody added it; or the name that
    its sentence shares with the questions about the same identifier; or it follows the words of the
    relation, as in "The name of the country of citizenship of … is". All accepted
    answers of a test count, and a test that has conditions is asked all the same.

    Raises:
        RequestError: the subject or the object cannot be told.
    """
    edit = record["edit"]
    (original,) = objects([edit.get("original_fact")]) or [{}]
    new, true = _sentence(edit.get("prompt")), _sentence(original.get("prompt"))
    subject, prompt = edit.get("subject"), _common_words(new, true)
    if not subject and prompt:
        subject = _shared_name(prompt, _about(record, edit.get("subject_id")))
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


def _about(record: Record, identifier: Any) -> list[str]:
    """The questions about a subject that must not change, by its identifier."""
    asked = [query for name in RIPPLE_LOCALITY for query in _queries(record.get(name))]
    return [
        query["prompt"]
        for query in asked
        if identifier and query.get("subject_id") == identifier and query.get("prompt")
    ]


def _shared_name(prompt: str, questions: list[str]) -> str | None:
    """The longest name that a prompt shares with all questions; None without one.

    A name begins and ends with a word in capitals, no such word stands beside it, and it is not the
    first word alone.
    """
    words = prompt.split()
    capitals = [
        word[0].isupper() and (i > 0 or word not in ARTICLES) for i, word in enumerate(words)
    ]
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length + 1):
            end, name = start + length, " ".join(words[start : start + length])
            beside = [*capitals[:start][-1:], *capitals[end : end + 1]]
            whole = capitals[start] and capitals[end - 1] and not any(beside)
            if whole and (start or length > 1) and questions:
                if all(best_occurrences(text, name) for text in questions):
                    return name
    return None


ARTICLES = ("The", "A", "An")


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
