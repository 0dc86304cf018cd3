"""Edit requests: what a fact is now, what it shall become, and the prompts that test it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .formats import RequestError, read_rounds


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
        locality: (prompt, gold answer) of facts that must stay; ZsRE's and KnowEdit's locality.
        portability: (prompt, gold answer) of facts that follow from the edit; KnowEdit's portability.
        target_new_id: identifier of `target_new` (Wikidata's in CounterFact), by which reference texts are found.
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
    locality: tuple[tuple[str, str], ...] = ()
    portability: tuple[tuple[str, str], ...] = ()
    target_new_id: str | None = None

    @property
    def text(self) -> str:
        """The prompt with its subject."""
        return self.prompt.replace("{}", self.subject)

    def evaluated_texts(self) -> dict[str, list[str]]:
        """Every text that an evaluation may read beside the prompt: field → prompts with their answers.

        Prompts of a field without answers of its own come with each known target.
        """
        targets = [t for t in (self.target_new, self.target_true) if t is not None]
        prompts = {
            "paraphrase_prompts": self.paraphrase_prompts,
            "neighborhood_prompts": self.neighborhood_prompts,
            "attribute_prompts": self.attribute_prompts,
            "generation_prompts": self.generation_prompts,
        }
        probes = {"locality": self.locality, "portability": self.portability}
        return {
            field: [f"{prompt} {target}" for prompt in of_field for target in targets]
            for field, of_field in prompts.items()
        } | {
            field: [f"{prompt} {answer}" for prompt, answer in of_field]
            for field, of_field in probes.items()
        }


def load_rounds(path: Path | str) -> list[list[EditRequest]]:
    """Requests of a file, in the rounds that it gives, {"rounds": [[…], …]}; one round where it gives none.

    Raises:
        RequestError: the file is unreadable or a record is wrong (see `parse_requests`).
    """
    rounds = read_rounds(path)
    parsed = iter(
        parse_requests([record for batch in rounds for record in batch], source=str(path))
    )
    return [[next(parsed) for _ in batch] for batch in rounds]


def parse_requests(records: Sequence[Any], source: str = "requests") -> list[EditRequest]:
    """Check records and turn them into requests.

    Raises:
        RequestError: a field is missing, empty or of the wrong type, the subject is not in the prompt, a case_id
            occurs twice, or one (prompt, subject) is given two different targets.
    """
    requests, seen = [], _Seen()
    for i, record in enumerate(records):
        request = _Record(record, f"{source}, record {i}").request()
        if problem := seen.problem(request):
            raise RequestError(f"{source}, record {i}{problem[1]}")
        seen.add(request, i)
        requests.append(request)
    return requests


def usable_requests(
    rounds: Sequence[Sequence[Any]],
    source: str = "requests",
) -> tuple[list[list[EditRequest]], dict[str, list[str]]]:
    """The records that can be edited together, and why the others are left out.

    Left out are those that `parse_requests` refuses, and those whose subject and relation an earlier record edits to
    another target, as MEMIT (2210.07229) leaves contradictions out of CounterFact. The first of several stays.

    Returns:
        Rounds of requests, none empty; what is wrong ("wrong record", "repeats a case_id" or "contradicts an earlier
        record") → a message for each record left out.

    Raises:
        RequestError: no record is left.
    """
    kept, left_out, seen = [], {}, _Seen(relations=True)
    start = 0
    for batch in rounds:
        usable = []
        for i, record in enumerate(batch, start):
            try:
                request = _Record(record, f"{source}, record {i}").request()
            except RequestError as error:
                left_out.setdefault("wrong record", []).append(str(error))
                continue
            if problem := seen.problem(request):
                left_out.setdefault(problem[0], []).append(f"{source}, record {i}{problem[1]}")
                continue
            seen.add(request, i)
            usable.append(request)
        start += len(batch)
        kept += [usable] if usable else []
    if not kept:
        raise RequestError(
            f"{source}: no record can be used; the first problem is: "
            f"{next(iter(left_out.values()))[0]}"
        )
    return kept, left_out


def batched(requests: Sequence[EditRequest], size: int) -> Iterator[list[EditRequest]]:
    """Consecutive lists of `size` requests; the last may be shorter."""
    if size < 1:
        raise ValueError(f"batch_size is {size}; a round needs at least one request")
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


def reversed_words(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests whose subject has several words, with these in reverse order."""
    return [
        replace(r, subject=" ".join(reversed(r.subject.split())))
        for r in requests
        if " " in r.subject
    ]


class _Seen:
    """What the requests so far have claimed: their identifiers, and which target each prompt gets.

    Args:
        relations: two targets for one subject and relation are a contradiction too, however they are worded.
    """

    def __init__(self, relations: bool = False):
        self.relations, self.ids, self.targets = relations, {}, {}

    def claims(self, request: EditRequest) -> list:
        related = self.relations and request.relation_id is not None
        return [request.text, (request.subject, request.relation_id)] if related else [request.text]

    def problem(self, request: EditRequest) -> tuple[str, str] | None:
        """What is wrong with a request after these: in a few words, and as the rest of a message."""
        if request.case_id in self.ids:
            return "repeats a case_id", (
                f": case_id {request.case_id!r} already names record "
                f"{self.ids[request.case_id]}; give each record its own"
            )
        for claim in self.claims(request):
            other = self.targets.get(claim, request)
            if other.target_new != request.target_new:
                same = "prompt" if claim == request.text else "subject and relation"
                return "contradicts an earlier record", (
                    f" (case_id {request.case_id!r}): target_new {request.target_new!r} contradicts "
                    f"{other.target_new!r} of case_id {other.case_id!r} for the same {same}"
                )
        return None

    def add(self, request: EditRequest, record: int) -> None:
        self.ids[request.case_id] = record
        for claim in self.claims(request):
            self.targets.setdefault(claim, request)


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
            case_id=case_id,
            subject=subject,
            prompt=self.prompt(subject),
            target_new=self.target("target_new"),
            target_true=self.target("target_true")
            if self.core.get("target_true") is not None
            else None,
            relation_id=relation if isinstance(relation, str) else None,
            target_new_id=self.identifier("target_new"),
            **{name: self.probes(name) for name in ("locality", "portability")},
            **{
                name: self.prompts(name)
                for name in (
                    "paraphrase_prompts",
                    "neighborhood_prompts",
                    "attribute_prompts",
                    "generation_prompts",
                )
            },
        )

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
            self.fail(
                "prompt",
                f'has {prompt.count("{}")} places "{{}}" for the subject; give exactly one',
            )
        if subject not in prompt:
            self.fail(
                "prompt",
                f'the subject {subject!r} is not in {prompt!r}; write "{{}}" where it goes',
            )
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

    def identifier(self, name: str) -> str | None:
        value = self.core[name]
        given = value.get("id") if isinstance(value, dict) else None
        return given if isinstance(given, str) else None

    def probes(self, name: str) -> tuple[tuple[str, str], ...]:
        value = self.raw.get(name) or []
        probes = [
            (probe.get("prompt"), probe.get("answer")) if isinstance(probe, dict) else ()
            for probe in value
        ]
        if not all(
            len(probe) == 2 and all(isinstance(text, str) and text.strip() for text in probe)
            for probe in probes
        ):
            self.fail(name, 'expected a list of {"prompt": …, "answer": …}, both non-empty strings')
        return tuple((prompt.rstrip(), answer.strip()) for prompt, answer in probes)

    def prompts(self, name: str) -> tuple[str, ...]:
        value = self.raw.get(name) or []
        if not isinstance(value, list) or not all(
            isinstance(item, str) and item.strip() for item in value
        ):
            self.fail(name, "expected a list of non-empty strings")
        return tuple(value)
