"""Edit requests: a fact, what it should become, and the prompts that test it."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .fields import place_of
from .formats import read_rounds
from .joining import SPACE, join
from .plain import RequestError
from .record import Probe, Remark, parse_fields
from .repeats import Seen


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One fact to rewrite, in CounterFact's vocabulary.

    Attributes:
        case_id: identifies the request; unique in a file.
        prompt: the fact's beginning, with "{}" where the subject goes.
        subject: what the fact is about.
        target_new: the continuation to write, without white space around it.
        target_true: the continuation before the edit, if known; the success metrics need it.
        relation_id: identifier of the relation (Wikidata's in CounterFact).
        paraphrase_prompts: the fact in other words, with the subject filled in.
        neighborhood_prompts: the relation for other subjects, for which `target_true` is true and
            must stay true.
        attribute_prompts: the relation for other subjects, for which `target_new` is true already.
        generation_prompts: beginnings of free text about the subject.
        negated_prompts: beginnings that deny the fact if its object follows; `target_new` is wrong
            after them.
        distracting_neighborhood_prompts: neighborhood prompts after a statement of the edit.
        locality: facts that must not change, with their answers, as in ZsRE and KnowEdit.
        portability: facts that follow from the edit, with their answers, as in KnowEdit.
        questions: the fact as a question, with the subject filled in.
        target_new_id: identifier of `target_new` (Wikidata's in CounterFact), by which reference
            texts are found.
        separator: what stands between the request's prompts and their continuations, see `join`;
            None leaves it to the run, whose setting is a space by default.
        subject_at: where in the prompt the subject's "{}" stands, if the prompt has others; None
            for the first.
        left_out_probes: messages about the record's probes that cannot be used.
        remarks: what a user should know about how the record was read.
        unused: the record's fields that are not read.
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
    negated_prompts: tuple[str, ...] = ()
    distracting_neighborhood_prompts: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    questions: tuple[str, ...] = ()
    target_new_id: str | None = None
    separator: str | None = None
    subject_at: int | None = None
    left_out_probes: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = field(default=(), compare=False)
    unused: tuple[str, ...] = field(default=(), compare=False)

    @property
    def before_subject(self) -> str:
        """What of the prompt stands before the subject."""
        return self.prompt[: self._mark]

    @property
    def after_subject(self) -> str:
        """What of the prompt follows the subject."""
        return self.prompt[self._mark + 2 :]

    @property
    def _mark(self) -> int:
        return self.prompt.index("{}") if self.subject_at is None else self.subject_at

    @property
    def text(self) -> str:
        """The prompt with its subject."""
        return self.before_subject + self.subject + self.after_subject

    @property
    def joined_by(self) -> str:
        """What stands between the request's prompts and what continues them."""
        return SPACE if self.separator is None else self.separator

    def continued(self, prompt: str, continuation: str) -> str:
        """One of the request's prompts with what continues it, see `join`."""
        return join(prompt, continuation, self.joined_by)

    def in_context(self, template: str) -> "EditRequest":
        """The request with its prompt in a context template, which has "{}" for it."""
        before, _, after = template.partition("{}")
        return replace(
            self, prompt=before + self.prompt + after, subject_at=len(before) + self._mark
        )

    def evaluated_texts(self) -> dict[str, list[str]]:
        """Every text that an evaluation may read beside the prompt.

        Returns:
            field → its prompts with their answers. Prompts of a field without answers of its own
            come with each known target.
        """
        targets = [t for t in (self.target_new, self.target_true) if t is not None]
        prompts = {
            "paraphrase_prompts": self.paraphrase_prompts,
            "neighborhood_prompts": self.neighborhood_prompts,
            "attribute_prompts": self.attribute_prompts,
            "generation_prompts": self.generation_prompts,
            "negated_prompts": self.negated_prompts,
            "distracting_neighborhood_prompts": self.distracting_neighborhood_prompts,
            "questions": self.questions,
        }
        probes = {"locality": self.locality, "portability": self.portability}
        return {
            field: [self.continued(prompt, target) for prompt in of_field for target in targets]
            for field, of_field in prompts.items()
        } | {
            field: [
                self.continued(probe.prompt, answer)
                for probe in of_field
                for answer in (probe.answer, probe.previous, *probe.aliases)
                if answer is not None
            ]
            for field, of_field in probes.items()
        }


def load_rounds(path: Path | str) -> list[list[EditRequest]]:
    """Load the requests of a file in its rounds, {"rounds": [[…], …]}.

    A file without rounds is one round.

    Raises:
        RequestError: the file cannot be read, or a record is wrong (see `parse_requests`).
    """
    rounds = read_rounds(path)
    parsed = iter(
        parse_requests([record for batch in rounds for record in batch], source=str(path))
    )
    return [[next(parsed) for _ in batch] for batch in rounds]


def parse_requests(records: Sequence[Any], source: str = "requests") -> list[EditRequest]:
    """Check records in the plain or CounterFact's schema and convert them to requests.

    Args:
        records: as JSON gives them; anything but a correct record is refused.
        source: name of the file, for messages.

    Raises:
        RequestError: a field is missing, empty or of the wrong type; the subject is not in the
            prompt; or a record repeats or contradicts an earlier one (see `Seen`). The message
            names record and field.
    """
    requests, seen = [], Seen()
    for i, record in enumerate(records):
        where = f"{source}{place_of(record)}, record {i}"
        request = EditRequest(**parse_fields(record, where))
        if problem := seen.problem(request):
            raise RequestError(f"{where}{problem[1]}")
        seen.add(request, i)
        requests.append(request)
    return requests


def usable_requests(
    rounds: Sequence[Sequence[Any]],
    source: str = "requests",
) -> tuple[list[list[EditRequest]], dict[str, list[str]]]:
    """Separate the records that can be edited together from those that cannot.

    A record is left out if `parse_requests` would refuse it. Of several that repeat or contradict
    each other the first is kept. MEMIT (2210.07229) leaves contradictions out of CounterFact.

    Args:
        rounds: raw records, as `read_rounds` returns them.
        source: name of the file, for messages.

    Returns:
        Rounds of requests, none empty; and reason ("wrong record", "repeats a case_id",
        "repeats an earlier record" or "contradicts an earlier record") → a message for each record
        that is left out.

    Raises:
        RequestError: no record is left.
    """
    kept: list[list[EditRequest]] = []
    left_out: dict[str, list[str]] = {}
    seen, number = Seen(), itertools.count()
    for batch in rounds:
        usable = []
        for record in batch:
            i = next(number)
            where = f"{source}{place_of(record)}, record {i}"
            try:
                request = EditRequest(**parse_fields(record, where))
            except RequestError as error:
                left_out.setdefault("wrong record", []).append(str(error))
                continue
            if problem := seen.problem(request):
                left_out.setdefault(problem[0], []).append(f"{where}{problem[1]}")
                continue
            seen.add(request, i)
            usable.append(request)
        if usable:
            kept.append(usable)
    if not kept:
        problems = [message for messages in left_out.values() for message in messages]
        raise RequestError(
            f"{source}: no record can be used; the first problem is: {problems[0]}"
            if problems
            else f"{source}: holds no records"
        )
    return kept, left_out


def batched(requests: Sequence[EditRequest], size: int) -> Iterator[list[EditRequest]]:
    """Yield consecutive lists of `size` requests; the last may be shorter.

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"batch_size is {size}; a round needs at least one request")
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


def joined(requests: Sequence[EditRequest], separator: str) -> list[EditRequest]:
    """The requests, joined by a run's separator where they have none of their own."""
    return [replace(r, separator=separator) if r.separator is None else r for r in requests]


def reversed_words(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests whose subject has several words, with the words in reverse order."""
    return [
        replace(r, subject=" ".join(reversed(r.subject.split())))
        for r in requests
        if " " in r.subject
    ]
