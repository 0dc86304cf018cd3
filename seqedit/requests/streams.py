"""Streams of edits that are hard on purpose: facts edited again, contradicted or undone.

A file of requests may neither repeat a case_id nor give one prompt two targets, because there this
would be a mistake. A named stream is the way to ask for it: it makes, of the requests of a file,
the edits of a run. The first edit of a fact keeps the case_id of its request; later ones are
numbered, "17#2" and "17#3" for the second and third edit of request 17. `Stream.fact` says which
request an edit belongs to. Of the edits of one fact only the last one is true; `Stream.current`
finds it.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .plain import RequestError
from .request import EditRequest

CaseId = int | str
Passes = list[list[EditRequest]]

REPETITIONS = 4
"""Largest number of times that `repeated` edits a fact."""
TARGETS = 3
"""Number of targets that `contradictory` gives each fact, one after the other."""


@dataclass(frozen=True)
class Stream:
    """The edits of a run in the order in which they are made.

    Attributes:
        name: in `STREAMS`; None for the requests of a file as they are.
        passes: the edits, in passes that are divided into rounds one by one, so that no round holds
            two edits of a fact.
        fact: case_id of an edit → case_id of the request whose fact it edits.
    """

    name: str | None
    passes: Passes
    fact: dict[CaseId, CaseId]

    @property
    def facts(self) -> int:
        """The number of facts."""
        return len(set(self.fact.values()))

    def history(self, done: Sequence[EditRequest]) -> list[list[EditRequest]]:
        """The edits of each fact among the first edits of the stream.

        Args:
            done: the edits made so far, in order.

        Returns:
            For each fact its edits, the last one being the true one. Facts are in the order of
            their last edits.
        """
        found: dict[CaseId, list[EditRequest]] = {}
        for edit in done:
            fact = self.fact[edit.case_id]
            found[fact] = [*found.pop(fact, []), edit]
        return list(found.values())

    def current(self, done: Sequence[EditRequest]) -> list[EditRequest]:
        """The last edit of each fact among the edits made so far, which alone is to be measured."""
        return [edits[-1] for edits in self.history(done)]


def make_stream(
    name: str | None, requests: Sequence[EditRequest], *, n: int | None = None, seed: int = 0
) -> Stream:
    """Make the edits of a run of requests.

    Args:
        name: in `STREAMS`; None takes the requests as they are.
        requests: of a file, in order.
        n: take only so many requests, the first ones; None takes all. The stream may make several
            edits of each. "same_subject" counts only requests whose subject has several.
        seed: of new targets.

    Raises:
        ValueError: the stream is unknown, or `n` is out of range.
        RequestError: the stream cannot be made of these requests; the message names the case_id.
    """
    if name is not None and name not in STREAMS:
        raise ValueError(f"stream: there is no {name!r}; streams are {', '.join(STREAMS)}")
    if n is not None and not 1 <= n <= len(requests):
        raise ValueError(f"n_edits is {n}; the file has {len(requests)} requests")
    if name is None:
        taken = list(requests[:n])
        return Stream(None, [taken], {request.case_id: request.case_id for request in taken})
    taken = _sharing_subjects(requests, n) if name == "same_subject" else list(requests[:n])
    facts = _facts(taken)
    passes = STREAMS[name].make(taken, requests, seed)
    return Stream(name, passes, _fact_of_each(name, passes, facts))


def repeated(taken: list[EditRequest], pool: Sequence[EditRequest], seed: int) -> Passes:
    """Edit facts again and again to the same target, `REPETITIONS` times, fewer or once.

    All facts are edited in the last pass, which makes their last edits equally old; they differ in
    how often they were edited before. The first fact is edited `REPETITIONS` times, the next one
    once less, and so on down to once, then anew.
    """
    counts = [REPETITIONS - i % REPETITIONS for i in range(len(taken))]
    return [
        [
            _numbered(request, count - left)
            for request, count in zip(taken, counts, strict=True)
            if count > left
        ]
        for left in reversed(range(max(counts)))  # how many edits of the fact are left after it
    ]


def contradictory(taken: list[EditRequest], pool: Sequence[EditRequest], seed: int) -> Passes:
    """Edit each fact to its target, then to other ones, `TARGETS` in all; the last one counts.

    The other targets are drawn from those that the pool's requests of the same relation have. They
    depend on the seed, the case_id and the pool alone.

    Raises:
        RequestError: a request has no relation, or its relation has too few targets.
    """
    targets: dict[str | None, set[str]] = defaultdict(set)
    for request in pool:
        targets[request.relation_id].add(request.target_new)
    others = []
    for request in taken:
        own = {request.target_new, request.target_true}
        choice = sorted(targets[request.relation_id] - own)
        if request.relation_id is None or len(choice) < TARGETS - 1:
            raise RequestError(
                f"case_id {request.case_id!r}: relation_id: a contradictory stream needs "
                f"{TARGETS - 1} other targets from requests of the same relation, "
                f"{request.relation_id!r} has {len(choice) if request.relation_id else 0}; leave "
                "the record out or give more of its relation"
            )
        rng = random.Random(f"{seed}/{request.case_id}")
        others.append(rng.sample(choice, TARGETS - 1))
    later = [
        [
            _rewritten(request, i + 2, target_new=drawn[i], attribute_prompts=())
            for request, drawn in zip(taken, others, strict=True)
        ]
        for i in range(TARGETS - 1)
    ]
    return [taken, *later]


def same_subject(taken: list[EditRequest], pool: Sequence[EditRequest], seed: int) -> Passes:
    """Keep the edits of one subject together: equal or close keys, different values.

    The requests are those of subjects that have several, subject by subject. A batch size that the
    number of relations divides keeps the edits of a subject in one round; where `n` ends inside
    a subject, its last edits are left out.
    """
    return [taken]


def undone(taken: list[EditRequest], pool: Sequence[EditRequest], seed: int) -> Passes:
    """Edit every fact, then edit every fact back to its true object, in the same order.

    A request that undoes another one has the two targets exchanged, and with them the prompts about
    subjects that have the one or the other. So its success means that the old object is again more
    probable than the one that was written. What followed from the edit (portability) is not asked.

    Raises:
        RequestError: a request has no true object.
    """
    back = []
    for request in taken:
        if request.target_true is None:
            raise RequestError(
                f"case_id {request.case_id!r}: target_true: is missing, and an edit can only be "
                "undone if the true object is known; give it or leave the record out"
            )
        back.append(
            _rewritten(
                request,
                2,
                target_new=request.target_true,
                target_true=request.target_new,
                neighborhood_prompts=request.attribute_prompts,
                attribute_prompts=request.neighborhood_prompts,
            )
        )
    return [taken, back]


@dataclass(frozen=True, kw_only=True)
class StreamKind:
    """A kind of stream.

    Attributes:
        make: requests that are taken, all requests of the file and a seed → passes of edits.
        summary: one line.
        source: where it comes from.
    """

    make: Callable[[list[EditRequest], Sequence[EditRequest], int], Passes]
    summary: str
    source: str


STREAMS = {
    "repeated": StreamKind(
        make=repeated,
        summary=f"facts are edited to the same target again and again, 1 to {REPETITIONS} times",
        source="ours",
    ),
    "contradictory": StreamKind(
        make=contradictory,
        summary=f"facts are edited to {TARGETS} targets in turn; the last one counts",
        source="coverage edits of ConflictEdit (2310.02129), with drawn targets",
    ),
    "same_subject": StreamKind(
        make=same_subject,
        summary="edits of several relations of one subject come together",
        source="2502.07322",
    ),
    "undone": StreamKind(
        make=undone,
        summary="every edit is undone later by an edit back to the true object",
        source="RoundEdit (2310.02129), all edits first",
    ),
}
"""Stream by the name that ``--stream`` takes."""


def _facts(requests: Sequence[EditRequest]) -> dict[str, CaseId]:
    """Prompt with its subject → case_id. Raises RequestError if two requests have the same one."""
    facts: dict[str, CaseId] = {}
    for request in requests:
        if request.text in facts:
            raise RequestError(
                f"case_id {request.case_id!r}: prompt: is that of case_id "
                f"{facts[request.text]!r}, too; a stream repeats facts itself, leave one out"
            )
        facts[request.text] = request.case_id
    return facts


def _fact_of_each(name: str, passes: Passes, facts: dict[str, CaseId]) -> dict[CaseId, CaseId]:
    """case_id of each edit → that of its fact. Raises RequestError if two edits share a case_id."""
    found: dict[CaseId, CaseId] = {}
    for edit in (edit for edits in passes for edit in edits):
        if edit.case_id in found:
            raise RequestError(
                f"case_id {edit.case_id!r} would name two edits of the stream {name!r}; rename the "
                'records whose case_id ends in "#" and a number, or differs only in its type'
            )
        found[edit.case_id] = facts[edit.text]
    return found


def _sharing_subjects(requests: Sequence[EditRequest], n: int | None) -> list[EditRequest]:
    """The first n requests of subjects that have several, subject by subject.

    Raises:
        RequestError: there are not so many, or none.
    """
    of_subject: dict[str, list[EditRequest]] = defaultdict(list)
    for request in requests:
        of_subject[request.subject].append(request)
    shared = [request for own in of_subject.values() if len(own) > 1 for request in own]
    if len(shared) < (n or 1):
        raise RequestError(
            f"subject: a stream of same_subject needs {n or 2} requests whose subject has several, "
            f"the file has {len(shared)}; `seqedit world subjects` writes such requests for the "
            "embedded world"
        )
    return shared[:n]


def _numbered(request: EditRequest, number: int) -> EditRequest:
    """The request as the `number`-th edit of its fact, from 1."""
    case_id = request.case_id if number == 1 else f"{request.case_id}#{number}"
    return replace(request, case_id=case_id)


def _rewritten(request: EditRequest, number: int, **changes: Any) -> EditRequest:
    """The request with another target, as the `number`-th edit of its fact.

    What belongs to the first target, its identifier and what follows from it, is dropped.
    """
    return replace(_numbered(request, number), target_new_id=None, portability=(), **changes)
