"""Names of fields: written in other ways, read, or named because nothing reads them."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from .plain import PLAIN, UNUSED, Record, RequestError

LISTS = (list, tuple)


class Tracked(dict[str, Any]):
    """A record that remembers which of its fields were read.

    Attributes:
        read: their names.
    """

    def __init__(self, record: Mapping[str, Any]):
        super().__init__(record)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of any dict, remembered as read."""
        self.read.add(name)
        return super().get(name, default)

    @property
    def rest(self) -> Record:
        """The fields that were not read and hold something."""
        return {
            name: value
            for name, value in self.items()
            if name not in self.read and not is_empty(value)
        }


class Placed(dict[str, Any]):
    """A record that knows where in its file it stands.

    Attributes:
        place: such as "line 3".
    """

    def __init__(self, record: Mapping[str, Any], place: str):
        super().__init__(record)
        self.place = place


def place_of(record: Any) -> str:
    """Where a record stands in its file, as it goes on from the file's name; empty if unknown."""
    return f", {record.place}" if isinstance(record, Placed) else ""


class Faulty(dict[str, Any]):
    """What stands for a record of a benchmark that cannot be converted.

    Attributes:
        problem: why.
    """

    def __init__(self, problem: str):
        super().__init__()
        self.problem = problem


def is_empty(value: Any) -> bool:
    """Whether a field holds nothing: no value, blank text, or an empty list or object."""
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {}, ())


def normalised(record: Mapping[str, Any], known: frozenset[str]) -> Record:
    """A record whose known fields have their usual names, whatever their capitals and spaces.

    Args:
        record: with names such as "Target New" or "targetNew".
        known: the usual names.

    Raises:
        RequestError: two names stand for one field; the message has both.
    """
    usual = _usual(known)
    found: Record = {}
    written: dict[str, str] = {}
    for name, value in record.items():
        own = str(name).strip()
        own = own if own in known else usual.get(_plain_letters(own), own)
        if own in found:
            raise RequestError(
                f"{own}: is given twice, as {written[own]!r} and {str(name)!r}; leave one out"
            )
        found[own], written[own] = value, str(name)
    return found


@cache
def _usual(known: frozenset[str]) -> dict[str, str]:
    """Known names by their plain letters."""
    return {_plain_letters(name): name for name in known}


def check_repeated(names: Iterable[str], what: str) -> None:
    """Refuse names that occur twice. Raises RequestError.

    Args:
        names: of fields or columns.
        what: "field" or "column".
    """
    for name, count in Counter(names).items():
        if count > 1 and name:
            raise RequestError(f"the {what} {name!r} occurs {count} times; leave one")


def with_rest(edit: Record, rest: Mapping[str, Any]) -> Record:
    """An edit made of a benchmark's record, and what else the record has in the plain schema.

    Prompts and probes are added to those of the edit, other fields where the edit has none.

    Args:
        edit: in the plain schema.
        rest: fields of the record that the edit was not made of.
    """
    merged, unused = dict(edit), [*edit.get(UNUSED, ())]
    for name, value in rest.items():
        own = merged.get(name)
        if is_empty(own):
            merged[name] = value
        elif isinstance(own, LISTS) and isinstance(value, LISTS):
            merged[name] = [*own, *(one for one in value if one not in own)]
        elif own != value:
            unused.append(name)
    return merged | {UNUSED: unused} if unused else merged


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a name resembles most; None if it resembles none."""
    usual = {_plain_letters(one): one for one in known}
    close = get_close_matches(_plain_letters(name), usual, n=1, cutoff=0.75)
    return usual[close[0]] if close else None


def unused_remark(unused: Mapping[str, int], known: Collection[str] = PLAIN) -> str:
    """One line on fields that nothing reads, each with the nearest known name.

    Args:
        unused: name → number of records that have it.
        known: names that are read.
    """
    named = []
    for name, count in unused.items():
        close = nearest(name.rpartition(".")[2], known)
        hint = f", like {close!r}" if close and close != name else ""
        named.append(f"{name!r} ({count}{hint})")
    return f"fields that are not read, with the number of their records: {', '.join(named)}"


def _plain_letters(name: str) -> str:
    """A name in lower case, its words joined by "_"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.strip())
    return re.sub(r"[\s_.-]+", "_", words).lower()
