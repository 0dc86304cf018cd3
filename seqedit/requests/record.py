"""Check one raw record and read the fields of an `EditRequest` from it."""

import re
from typing import Any, NamedTuple, NoReturn, TypeGuard

from .plain import PROBES, PROMPTS, RequestError


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
    fields: dict[str, Any] = {
        "case_id": case_id,
        "subject": subject,
        "prompt": record.prompt(subject),
        "target_new": record.target("target_new"),
        "target_new_id": record.identifier("target_new"),
        "relation_id": record.relation(),
    }
    if record.core.get("target_true") is not None:
        fields["target_true"] = record.target("target_true")
    for name in PROMPTS:
        fields[name] = record.prompts(name)
    for name in PROBES:
        fields[name] = record.probes(name)
    fields["left_out_probes"] = tuple(record.left_out)
    return fields


class _Record:
    """One raw record. Every method reads a field and raises RequestError if it is wrong.

    Attributes:
        raw: the record.
        core: the part that states the fact: CounterFact's `requested_rewrite`, else the record.
        where: file, number and case_id, with which every message begins.
        left_out: messages about probes that cannot be used.
    """

    def __init__(self, raw: Any, where: str):
        self.where = where
        self.left_out: list[str] = []
        if not isinstance(raw, dict):
            raise RequestError(f"{where}: expected an object, found {type(raw).__name__}")
        self.raw: dict[str, Any] = raw
        if "case_id" in raw:
            self.where = f"{where} (case_id {raw['case_id']!r})"
        self.core: dict[str, Any] = raw.get("requested_rewrite", raw)
        if not isinstance(self.core, dict):
            self._refuse(
                "requested_rewrite", f"expected an object, found {type(self.core).__name__}"
            )

    def _refuse(self, name: str, problem: str) -> NoReturn:
        raise RequestError(f"{self.where}: {name}: {problem}")

    def _text(self, name: str, value: Any, expected: str) -> str:
        """`value` of the field `name`, which must be a string that is not blank."""
        if value is None:
            self._refuse(name, "is missing")
        if not isinstance(value, str):
            self._refuse(name, f"expected {expected}, found {type(value).__name__}")
        if not value.strip():
            self._refuse(name, "is empty")
        return value

    def case_id(self) -> int | str:
        value = self.raw.get("case_id")
        if not isinstance(value, int | str) or isinstance(value, bool):
            self._refuse("case_id", f"expected a number or a string, found {value!r}")
        return value

    def subject(self) -> str:
        subject = self._text("subject", self.core.get("subject"), "a string").strip()
        if "{}" in subject:
            self._refuse("subject", 'contains "{}", which marks the subject\'s place in the prompt')
        return subject

    def prompt(self, subject: str) -> str:
        """The prompt with "{}" in place of the subject's last occurrence."""
        prompt = self._text("prompt", self.core.get("prompt"), "a string").rstrip()
        places = prompt.count("{}")
        if places == 1:
            return prompt
        if places > 1:
            self._refuse("prompt", f'has {places} places "{{}}" for the subject; give exactly one')
        if subject not in prompt:
            self._refuse(
                "prompt",
                f'the subject {subject!r} is not in {prompt!r}; write "{{}}" where it goes',
            )
        before, _, after = prompt.rpartition(subject)
        return f"{before}{{}}{after}"

    def target(self, name: str) -> str:
        """A target given as a string, or as CounterFact's {"str": …, "id": …}."""
        value = self.core.get(name)
        value = value.get("str") if isinstance(value, dict) else value
        return self._text(name, value, 'a string or {"str": …}').strip()

    def identifier(self, name: str) -> str | None:
        """The "id" of a target, if it has one."""
        value = self.core.get(name)
        given = value.get("id") if isinstance(value, dict) else None
        return given if isinstance(given, str) else None

    def relation(self) -> str | None:
        value = self.core.get("relation_id")
        return value if isinstance(value, str) else None

    def prompts(self, name: str) -> tuple[str, ...]:
        value = self.raw.get(name) or []
        if not isinstance(value, list) or not all(map(_is_text, value)):
            self._refuse(name, "expected a list of non-empty strings")
        return tuple(value)

    def probes(self, name: str) -> tuple[Probe, ...]:
        """The usable probes of a field; a faulty one costs itself, not the edit."""
        value = self.raw.get(name) or []
        if not isinstance(value, list):
            self._refuse(name, 'expected a list of {"prompt": …, "answer": …}')
        probes = []
        for number, item in enumerate(value):
            probe = item if isinstance(item, dict) else {}
            prompt, answer, previous = (probe.get(n) for n in ("prompt", "answer", "previous"))
            if not (_is_text(prompt) and _is_text(answer)):
                self.left_out.append(
                    f"{self.where}: {name}[{number}]: left out, because it is not "
                    '{"prompt": …, "answer": …} with non-empty strings'
                )
                continue
            relation, aliases = probe.get("relation_id"), probe.get("aliases")
            aliases = aliases if isinstance(aliases, list) else []
            probes.append(
                Probe(
                    prompt.rstrip(),
                    answer.strip(),
                    _kind(probe.get("kind")),
                    previous.strip() if _is_text(previous) else None,
                    relation if _is_text(relation) else None,
                    tuple(alias.strip() for alias in aliases if _is_text(alias)),
                )
            )
        return tuple(probes)


def _kind(value: Any) -> str:
    """The name of a kind of probes as it ends the name of a measure: lower case, joined by "_"."""
    return re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_") if isinstance(value, str) else ""


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a string that is not blank."""
    return isinstance(value, str) and bool(value.strip())
