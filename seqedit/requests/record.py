"""Check one raw record and read the fields of an `EditRequest` from it."""

import re
from typing import Any, NamedTuple, NoReturn

from .fields import Faulty, Tracked
from .joining import split_answer, split_target
from .plain import PROBES, PROMPTS, UNUSED, RequestError, first, half_character, is_blank, is_text
from .subject_place import best_occurrences, find_subject, given_place

LISTED = re.compile(r"""\[\s*(["']).*\1\s*\]""", re.DOTALL)
"""A text such as ["Rome"], which is a list for many programs."""


class Probe(NamedTuple):
    """A prompt with its gold answer.

    Attributes:
        prompt: the text that is continued.
        answer: the continuation that is right once the edit is made.
        kind: what the probe asks for, such as "two_hop" or "alias"; lower-case words joined by
            "_", empty if it is not said.
        previous: the continuation that was right before the edit, if the edit changes it.
        relation_id: the relation that the prompt asks for, if it is known; a probe of locality is
            left out once its subject has been edited under this relation.
        aliases: other continuations that count as the answer.
    """

    prompt: str
    answer: str
    kind: str = ""
    previous: str | None = None
    relation_id: str | None = None
    aliases: tuple[str, ...] = ()


class Remark(NamedTuple):
    """Something about a record that was read in a way that its author may not have meant.

    Attributes:
        what: what was done, in words that fit many records.
        message: the record and what was found in it.
    """

    what: str
    message: str


def parse_fields(raw: Any, where: str) -> dict[str, Any]:
    """The arguments of `EditRequest` from a record in the plain or CounterFact's schema.

    Args:
        raw: as JSON gives it; anything but a correct record is refused.
        where: file and number of the record, for messages.

    Raises:
        RequestError: a field is missing, empty or of the wrong type, or the subject is not in the
            prompt. The message names record and field.
    """
    record = _Record(raw, where)
    case_id, subject = record.case_id(), record.subject()
    prompt, subject_at = record.prompt(subject)
    prompt, target_new, separator = record.target_new(prompt)
    fields: dict[str, Any] = {
        "case_id": case_id,
        "subject": subject,
        "prompt": prompt,
        "subject_at": subject_at,
        "target_new": target_new,
        "target_new_id": record.identifier("target_new"),
        "relation_id": record.relation(),
        "separator": record.separator(separator),
    }
    if record.core.get("target_true") is not None:
        fields["target_true"] = record.target("target_true").strip()
    for name in PROMPTS:
        fields[name] = record.prompts(name)
    for name in PROBES:
        fields[name] = record.probes(name)
    fields["left_out_probes"] = tuple(record.left_out)
    fields["remarks"] = tuple(record.remarks)
    fields["unused"] = record.all_unused()
    return fields


class _Record:
    """One raw record. Every method reads a field and raises RequestError if it is wrong.

    Attributes:
        raw: the record.
        core: the part that states the fact: CounterFact's `requested_rewrite`, else the record.
        where: file, number and case_id, with which every message begins.
        left_out: messages about probes that cannot be used.
        remarks: about what a user may not have meant.
        unused: names of fields that are not read, beside those that nothing asked for.
    """

    def __init__(self, raw: Any, where: str):
        self.where = where
        self.left_out: list[str] = []
        self.remarks: list[Remark] = []
        if isinstance(raw, Faulty):
            raise RequestError(f"{where}: {raw.problem}")
        if not isinstance(raw, dict):
            raise RequestError(f"{where}: expected an object, found {type(raw).__name__}")
        self.raw = Tracked(raw)
        if "case_id" in raw:
            self.where = f"{where} (case_id {raw['case_id']!r})"
        core = self.raw.get("requested_rewrite", self.raw)
        if not isinstance(core, dict):
            self._refuse("requested_rewrite", f"expected an object, found {type(core).__name__}")
        self.core = core if core is self.raw else Tracked(core)
        self.unused = _names(self.raw.get(UNUSED))

    def _refuse(self, name: str, problem: str) -> NoReturn:
        raise RequestError(f"{self.where}: {name}: {problem}")

    def _text(self, name: str, value: Any, expected: str) -> str:
        """`value` of the field `name`, which must be a string that is not blank."""
        if value is None:
            self._refuse(name, "is missing")
        if not isinstance(value, str):
            self._refuse(name, f"expected {expected}, found {type(value).__name__}")
        if is_blank(value):
            self._refuse(name, "is empty" if not value.strip() else f"nothing of {value!r} is seen")
        return self._whole(name, value)

    def _whole(self, name: str, value: str) -> str:
        """`value` of the field `name`, which must have whole characters."""
        if half := half_character(value):
            self._refuse(
                name, f"holds {half!r}, which is half of a character; write the whole one, or none"
            )
        return value

    def case_id(self) -> int | str:
        value = self.raw.get("case_id")
        if not isinstance(value, int | str) or isinstance(value, bool):
            self._refuse("case_id", f"expected a number or a string, found {value!r}")
        return self._whole("case_id", value) if isinstance(value, str) else value

    def subject(self) -> str:
        subject = self._text("subject", self.core.get("subject"), "a string").strip()
        if "{}" in subject:
            self._refuse("subject", 'contains "{}", which marks the subject\'s place in the prompt')
        return subject

    def prompt(self, subject: str) -> tuple[str, int | None]:
        """The prompt with "{}" in place of the subject, and where that is unless it is the only
        one.
        """
        prompt = self._text("prompt", self.core.get("prompt"), "a string")
        try:
            start, end = self._subject_place(prompt, subject)
        except RequestError as error:
            raise RequestError(f"{self.where}: {error}") from None
        given = prompt[start:end] != "{}"
        if given and len(best_occurrences(prompt, subject)) > 1:
            self._remark("prompts name their subject several times; the last one is edited", prompt)
        prompt = f"{prompt[:start]}{{}}{prompt[end:]}"
        if prompt.count("{}") == 1:
            return prompt, None
        self._remark('prompts have "{}" that is kept as text', prompt)
        return prompt, start

    def _subject_place(self, prompt: str, subject: str) -> tuple[int, int]:
        """Where the subject goes or stands in the prompt; see `find_subject`."""
        start = self.core.get("subject_at")
        if start is None:
            return find_subject(prompt, subject, always_marked=self.core is not self.raw)
        if not isinstance(start, int) or isinstance(start, bool):
            raise RequestError(f"subject_at: expected a number, found {start!r}")
        return given_place(prompt, subject, start)

    def _remark(self, what: str, found: str) -> None:
        self.remarks.append(Remark(what, f"{self.where}: {found!r}"))

    def target(self, name: str) -> str:
        """A target given as a string, or as CounterFact's {"str": …, "id": …}."""
        value = self.core.get(name)
        value = value.get("str") if isinstance(value, dict) else value
        return self._text(name, value, 'a string or {"str": …}')

    def target_new(self, prompt: str) -> tuple[str, str, str | None]:
        """Prompt, target and the separator that the target asks for, see `split_target`."""
        target = self.target("target_new")
        if target != target.rstrip():
            self._remark("targets end in white space, which is not edited", target)
        if LISTED.fullmatch(target.strip()):
            self._remark("targets look like lists and are edited as the text that they are", target)
        return split_target(prompt, target)

    def separator(self, of_target: str | None) -> str | None:
        """What the record says stands between its prompts and what continues them, if it says."""
        given = self.core.get("separator", self.raw.get("separator"))
        if given is None:
            return of_target
        if not isinstance(given, str) or given.strip():
            self._refuse("separator", f"expected white space or an empty string, found {given!r}")
        return given

    def identifier(self, name: str) -> str | None:
        """The "id" of a target, if it has one."""
        value = self.core.get(name)
        given = value.get("id") if isinstance(value, dict) else None
        return self._whole(f"{name}.id", given) if isinstance(given, str) else None

    def relation(self) -> str | None:
        value = self.core.get("relation_id")
        if value is not None and not isinstance(value, str):
            self.unused.append("relation_id")  # no text
        return self._whole("relation_id", value) if isinstance(value, str) else None

    def all_unused(self) -> tuple[str, ...]:
        """Names of the fields that are not read and hold something."""
        inner = [] if self.core is self.raw else self.core.rest
        names = (*self.unused, *self.raw.rest, *(f"requested_rewrite.{name}" for name in inner))
        return tuple(name.encode(errors="backslashreplace").decode() for name in names)

    def prompts(self, name: str) -> tuple[str, ...]:
        """The usable prompts of a field; a faulty one costs itself, not the edit."""
        value = self.raw.get(name) or []
        if not isinstance(value, list):
            self._refuse(name, "expected a list of non-empty strings")
        for number, prompt in enumerate(value):
            if not is_text(prompt):
                self.left_out.append(
                    f"{self.where}: {name}[{number}]: left out, because it is not a non-empty "
                    f"string of whole characters but {prompt!r}"
                )
        return tuple(prompt for prompt in value if is_text(prompt))

    def probes(self, name: str) -> tuple[Probe, ...]:
        """The usable probes of a field; a faulty one costs itself, not the edit."""
        value = self.raw.get(name) or []
        if not isinstance(value, list):
            self._refuse(name, 'expected a list of {"prompt": …, "answer": …}')
        probes = []
        for number, item in enumerate(value):
            probe = item if isinstance(item, dict) else {}
            prompt, answer, previous = (probe.get(n) for n in ("prompt", "answer", "previous"))
            answer = first(probe.get("ground_truth")) if answer is None else answer
            if not (is_text(prompt) and is_text(answer)):
                self.left_out.append(
                    f"{self.where}: {name}[{number}]: left out, because it is not "
                    '{"prompt": …, "answer": …} with non-empty strings of whole characters'
                )
                continue
            more = sorted(map(str, probe.keys() - {*Probe._fields, "ground_truth"}))
            self.unused += [one for n in more if (one := f"{name}.{n}") not in self.unused]
            relation, aliases = probe.get("relation_id"), probe.get("aliases")
            aliases = aliases if isinstance(aliases, list) else []
            prompt, answer = split_answer(prompt, answer)
            probes.append(
                Probe(
                    prompt,
                    answer,
                    _kind(probe.get("kind")),
                    previous.strip() if is_text(previous) else None,
                    relation if is_text(relation) else None,
                    tuple(alias.strip() for alias in aliases if is_text(alias)),
                )
            )
        return tuple(probes)


def _names(value: Any) -> list[str]:
    """Names of unused fields that a conversion has left in a record."""
    return [one for one in value if is_text(one)] if isinstance(value, list | tuple) else []


def _kind(value: Any) -> str:
    """The name of a kind of probes as it ends the name of a measure: lower case, joined by "_"."""
    return re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_") if isinstance(value, str) else ""
