"""Edit requests: what a fact is now, what it shall become, and the prompts that test it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


class RequestError(ValueError):
    """A request that cannot be edited as given; the message names the record and the field."""


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One fact to rewrite, in CounterFact's vocabulary.

    Attributes:
        case_id: identifies the request; unique in a file.
        prompt: the fact's beginning, with exactly one "{}" where the subject goes.
        subject: whom the fact is about.
        target_new: the continuation to be written, without the leading space it is given when tokenised.
        target_true: the continuation before the edit, where known; needed for success metrics.
        paraphrase_prompts: other wordings, with the subject filled in.
        neighborhood_prompts: other subjects for which `target_true` must stay true.
        attribute_prompts: other subjects for which `target_new` is already true.
        generation_prompts: beginnings of free text about the subject.
    """

    case_id: int | str
    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    relation_id: str | None = None
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    attribute_prompts: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt with its subject."""
        return self.prompt.replace("{}", self.subject)


def load_requests(path: Path | str) -> list[EditRequest]:
    """Requests of a .json or .jsonl file: CounterFact's schema or plain records, or {"rounds": [[…], …]}.

    Raises:
        RequestError: the file is unreadable or a record is wrong (see `parse_requests`).
    """
    return [request for batch in load_rounds(path) for request in batch]


def load_rounds(path: Path | str) -> list[list[EditRequest]]:
    """Like `load_requests`, in the rounds the file gives; one round where it gives none."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: not valid JSON: {error}") from error
    rounds = content.get("rounds") if isinstance(content, dict) else [content]
    if not isinstance(rounds, list) or not all(isinstance(batch, list) for batch in rounds):
        raise RequestError(f'{path}: expected a list of records, or {{"rounds": [[…], …]}}')
    if not any(rounds):
        raise RequestError(f"{path}: holds no records")
    if not all(rounds):
        raise RequestError(f"{path}: round {rounds.index([])} holds no records; leave it out")
    parsed = iter(parse_requests([record for batch in rounds for record in batch], source=str(path)))
    return [[next(parsed) for _ in batch] for batch in rounds]


def parse_requests(records: Sequence[Any], source: str = "requests") -> list[EditRequest]:
    """Check records and turn them into requests.

    Raises:
        RequestError: a field is missing, empty or of the wrong type, the subject is not in the prompt, a case_id
            occurs twice, or one (prompt, subject) is given two different targets.
    """
    requests = [_Record(record, f"{source}, record {i}").request() for i, record in enumerate(records)]
    seen: dict[Any, int] = {}
    targets: dict[str, EditRequest] = {}
    for i, request in enumerate(requests):
        if request.case_id in seen:
            raise RequestError(f"{source}, record {i}: case_id {request.case_id!r} already names record "
                               f"{seen[request.case_id]}; give each record its own")
        seen[request.case_id] = i
        other = targets.setdefault(request.text, request)
        if other.target_new != request.target_new:
            raise RequestError(f"{source}, record {i} (case_id {request.case_id!r}): target_new {request.target_new!r} "
                               f"contradicts {other.target_new!r} of case_id {other.case_id!r} for the same prompt")
    return requests


def batched(requests: Sequence[EditRequest], size: int) -> Iterator[list[EditRequest]]:
    """Consecutive lists of `size` requests; the last may be shorter."""
    if size < 1:
        raise ValueError(f"batch_size is {size}; a round needs at least one request")
    for start in range(0, len(requests), size):
        yield list(requests[start:start + size])


def reversed_words(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests whose subject has several words, with these in reverse order."""
    return [replace(r, subject=" ".join(reversed(r.subject.split()))) for r in requests if " " in r.subject]


class _Record:
    """One raw record on its way to an `EditRequest`; every complaint names record and field."""

    def __init__(self, raw: Any, where: str):
        self.where = where
        if not isinstance(raw, dict):
            raise RequestError(f"{where}: expected an object, found {type(raw).__name__}")
        self.raw = raw
        if "case_id" in raw:
            self.where = f"{where} (case_id {raw['case_id']!r})"
        self.core = raw.get("requested_rewrite", raw)
        if not isinstance(self.core, dict):
            self.fail("requested_rewrite", f"expected an object, found {type(self.core).__name__}")

    def fail(self, name: str, problem: str) -> None:
        raise RequestError(f"{self.where}: {name}: {problem}")

    def request(self) -> EditRequest:
        case_id = self.raw.get("case_id")
        if not isinstance(case_id, int | str) or isinstance(case_id, bool):
            self.fail("case_id", f"expected a number or a string, found {case_id!r}")
        subject = self.text("subject").strip()
        if "{}" in subject:
            self.fail("subject", 'contains "{}", which marks the subject\'s place in the prompt')
        relation = self.core.get("relation_id")
        return EditRequest(
            case_id=case_id, subject=subject, prompt=self.prompt(subject),
            target_new=self.target("target_new"),
            target_true=self.target("target_true") if self.core.get("target_true") is not None else None,
            relation_id=relation if isinstance(relation, str) else None,
            **{name: self.prompts(name) for name in ("paraphrase_prompts", "neighborhood_prompts",
                                                     "attribute_prompts", "generation_prompts")})

    def text(self, name: str) -> str:
        value = self.core.get(name)
        if value is None:
            self.fail(name, "is missing")
        if not isinstance(value, str):
            self.fail(name, f"expected a string, found {type(value).__name__}")
        if not value.strip():
            self.fail(name, "is empty")
        return value

    def prompt(self, subject: str) -> str:
        prompt = self.text("prompt").rstrip()
        if prompt.count("{}") == 1:
            return prompt
        if "{}" in prompt:
            self.fail("prompt", f'has {prompt.count("{}")} places "{{}}" for the subject; give exactly one')
        if subject not in prompt:
            self.fail("prompt", f'the subject {subject!r} is not in {prompt!r}; write "{{}}" where it goes')
        before, _, after = prompt.rpartition(subject)
        return f"{before}{{}}{after}"

    def target(self, name: str) -> str:
        value = self.core.get(name)
        value = value.get("str") if isinstance(value, dict) else value
        if value is None:
            self.fail(name, "is missing")
        if not isinstance(value, str):
            self.fail(name, f'expected a string or {{"str": …}}, found {type(value).__name__}')
        if not value.strip():
            self.fail(name, "is empty")
        return value.strip()

    def prompts(self, name: str) -> tuple[str, ...]:
        value = self.raw.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            self.fail(name, "expected a list of non-empty strings")
        return tuple(value)
