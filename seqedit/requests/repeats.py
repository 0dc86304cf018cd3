"""Requests that repeat or contradict an earlier one of their file."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Fact(Protocol):
    """What of a request says which fact it edits, and to what; see `EditRequest`."""

    @property
    def case_id(self) -> int | str: ...
    @property
    def text(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def relation_id(self) -> str | None: ...
    @property
    def target_new(self) -> str: ...


class Seen:
    """The requests of a file so far, found by case_id, prompt, and subject with relation.

    A case_id names one request. A prompt with its subject is edited once, to one target. A subject
    has one target under a relation, whatever the wording of the prompts; several wordings with the
    same target are no contradiction. To edit facts again on purpose is what streams are for, see
    `seqedit.requests.streams`.
    """

    def __init__(self) -> None:
        self.ids: dict[int | str, int] = {}  # case_id → number of the record
        self.facts: dict[Any, Fact] = {}  # see `_keys` → first request

    def problem(self, request: Fact) -> tuple[str, str] | None:
        """Why a request does not fit to the earlier ones, or None if it fits.

        Returns:
            The reason in a few words, and the rest of a message that begins with the record.
        """
        if request.case_id in self.ids:
            return "repeats a case_id", (
                f": case_id {request.case_id!r} already names record "
                f"{self.ids[request.case_id]}; give each record its own"
            )
        for what, key in _keys(request).items():
            other = self.facts.get(key)
            if other and other.target_new != request.target_new:
                return "contradicts an earlier record", (
                    f" (case_id {request.case_id!r}): target_new {request.target_new!r} "
                    f"contradicts {other.target_new!r} of case_id {other.case_id!r} for the same "
                    f"{what}; {ADVICE}"
                )
        if other := self.facts.get(_keys(request)["prompt"]):
            return "repeats an earlier record", (
                f" (case_id {request.case_id!r}): prompt: repeats that of case_id "
                f"{other.case_id!r}, with the same target; {ADVICE}"
            )
        return None

    def add(self, request: Fact, record: int) -> None:
        """Remember a request and the number of its record."""
        self.ids[request.case_id] = record
        for key in _keys(request).values():
            self.facts.setdefault(key, request)


ADVICE = (
    "remove one of the two, keep the first of such records with --clean, or edit facts again on "
    "purpose with --stream"
)


def _keys(request: Fact) -> dict[str, Any]:
    """What can have one target only: the prompt, and the subject with its relation."""
    keys: dict[str, Any] = {"prompt": " ".join(request.text.split())}
    if request.relation_id is not None:
        keys["subject and relation"] = (request.subject, request.relation_id)
    return keys
