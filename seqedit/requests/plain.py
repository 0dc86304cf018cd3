"""Parts of records in the plain schema, from which converters of other layouts build."""

import unicodedata
from typing import Any, TypeGuard

Record = dict[str, Any]

PROMPTS = (
    "paraphrase_prompts",
    "neighborhood_prompts",
    "attribute_prompts",
    "generation_prompts",
    "negated_prompts",
    "distracting_neighborhood_prompts",
    "questions",
)
"""Fields that hold a list of prompts."""

PROBES = ("locality", "portability")
"""Fields that hold a list of prompts with their gold answers."""


PLAIN = (
    *("case_id", "prompt", "subject", "target_new", "target_true", "relation_id"),
    *("separator", "subject_at", "requested_rewrite", *PROMPTS, *PROBES),
)
"""Fields of the plain schema, and the one in which CounterFact states the fact."""


UNUSED = "fields that its conversion does not read"
"""Name under which a converted record lists such fields; no field of a file has it."""


class RequestError(ValueError):
    """A request that cannot be used as given; the message names the record and the field."""


def half_character(text: str) -> str | None:
    """The first lone surrogate of a text, as the JSON escape "\\ud800" makes it; None without one.

    It is half of a character, which no tokenizer reads and no file in UTF-8 can hold.
    """
    if text.isascii():
        return None
    return next((one for one in text if "\ud800" <= one <= "\udfff"), None)


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, and characters without width."""
    return all(one.isspace() or unicodedata.category(one) in ("Cc", "Cf") for one in text)


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a string that is not blank, of whole characters."""
    return isinstance(value, str) and not is_blank(value) and half_character(value) is None


def objects(value: Any) -> list[Record]:
    """The objects in a list; none if the value is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def pairs(record: Record, prompt: str, answer: str, kind: str = "") -> list[Record]:
    """The probe of two fields of a record, or none if the record has no such prompt."""
    return [pair(record[prompt], record.get(answer), kind)] if record.get(prompt) else []


def pair(
    prompt: Any, answer: Any, kind: str = "", previous: Any = None, aliases: Any = None
) -> Record:
    """A probe in the plain schema."""
    probe = {"prompt": prompt, "answer": answer, "kind": kind}
    if previous is not None:
        probe["previous"] = previous
    return probe | {"aliases": aliases} if aliases else probe


def some(text: Any) -> list[Any]:
    """A list of the text; empty without one."""
    return [text] if text else []


def first(value: Any) -> Any:
    """The first leaf of nested lists, "Berlin" of [["Berlin", "DE-BE"]]; None of an empty list."""
    while isinstance(value, list):
        value = value[0] if value else None
    return value
