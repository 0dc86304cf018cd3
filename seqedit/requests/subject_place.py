"""Where the subject stands in a prompt."""

import re
from unicodedata import combining, normalize

from .plain import RequestError

WHOLE, HYPHENATED, INSIDE = 2, 1, 0
"""How well an occurrence of a subject fits: words of their own, a part of a word with a hyphen, or
inside a word.
"""

CODE = "\"'`"
"""Characters beside which "{}" is taken for text if the subject is in the prompt itself."""


def find_subject(prompt: str, subject: str, always_marked: bool = False) -> tuple[int, int]:
    """Where the subject goes or stands in a prompt.

    "{}" marks the place, if it is there once, whatever else the prompt holds. But it is text if the
    prompt has the subject itself as words of their own and "{}" several times, or beside a
    quotation mark or backtick as in code. Of several occurrences of the subject the last of those
    is taken that are words of their own, else the last that is part of a word with a hyphen, else
    the last of all, as scripts without spaces need.

    Args:
        prompt: with "{}", or with the subject.
        subject: its name.
        always_marked: the schema prescribes "{}".

    Returns:
        Start and end of what the subject replaces.

    Raises:
        RequestError: neither is there, or "{}" several times without the subject; the message goes
            on from the name of the record.
    """
    marks = [match.start() for match in re.finditer(r"\{\}", prompt)]
    best = best_occurrences(prompt, subject)
    text = not always_marked and _is_whole(prompt, subject, best)
    if len(marks) == 1 and not (text and _in_code(prompt, marks[0])):
        return marks[0], marks[0] + 2
    if len(marks) > 1 and not text:
        raise RequestError(
            f'prompt: has {len(marks)} places "{{}}" for the subject; give exactly one, or say '
            'which it is by "subject_at", the number of the character where the subject begins'
        )
    if not best:
        composed = [normalize("NFC", text) for text in (prompt, subject)]
        raise RequestError(
            f"prompt: the subject {subject!r} is not in {prompt!r}"
            + (" with the same bytes for its accents" if composed[1] in composed[0] else "")
            + '; write "{}" where it goes'
        )
    return best[-1], best[-1] + len(subject)


def given_place(prompt: str, subject: str, start: int) -> tuple[int, int]:
    """Start and end of what the subject replaces, if a record says where it begins.

    Raises:
        RequestError: neither "{}" nor the subject begins there.
    """
    for text in ("{}", subject):
        if start >= 0 and prompt.startswith(text, start):
            return start, start + len(text)
    raise RequestError(
        f'subject_at: at character {start} of {prompt!r} begins neither "{{}}" nor {subject!r}'
    )


def best_occurrences(text: str, subject: str) -> list[int]:
    """Where a subject begins in a text, of its occurrences those that fit best."""
    starts = [match.start() for match in re.finditer(f"(?={re.escape(subject)})", text)]
    fits = [occurrence_fit(text, start, start + len(subject)) for start in starts]
    return [start for start, fit in zip(starts, fits, strict=True) if fit == max(fits)]


def occurrence_fit(text: str, start: int, end: int) -> int:
    """How well an occurrence fits: `WHOLE`, `HYPHENATED` or `INSIDE`."""
    before, after = text[:start][-2:], text[end : end + 2]
    if _is_letter(text[start]) and _is_letter(before[-1:]) or _continues(text[end - 1], after[:1]):
        return INSIDE
    hyphenated = re.fullmatch(r"\w[-‐‑]", before) or re.fullmatch(r"[-‐‑]\w", after)
    return HYPHENATED if hyphenated else WHOLE


def _is_whole(prompt: str, subject: str, starts: list[int]) -> bool:
    return bool(starts) and occurrence_fit(prompt, starts[-1], starts[-1] + len(subject)) == WHOLE


def _in_code(prompt: str, mark: int) -> bool:
    return any(character in CODE for character in prompt[max(mark - 1, 0) : mark + 3])


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"


def _continues(last: str, after: str) -> bool:
    """Whether a character after an occurrence belongs to its last word."""
    return _is_letter(last) and _is_letter(after) or bool(after and combining(after))
