"""Converts records of EasyEdit and KnowEdit (2401.01286) to the plain schema."""

from typing import Any

from .plain import Record, first, pair


def from_easyedit(record: Record, number: int) -> list[Record]:
    """KnowEdit and its relatives, and EasyEdit's files and arguments.

    If an answer has several wordings the first is used.
    """
    return [
        {
            "case_id": record.get("case_id", number),
            "prompt": record.get("prompt") or record.get("prompts"),
            "subject": record.get("subject"),
            "target_new": record.get("target_new"),
            "target_true": first(record.get("ground_truth")) or None,
            "paraphrase_prompts": _texts(record, "rephrase", "rephrase_prompt", "rephrase_prompts"),
            "locality": _probes(record, "locality"),
            "portability": _probes(record, "portability"),
        }
    ]


def _texts(record: Record, *names: str) -> list[Any]:
    """What the fields of these names hold, each a text or a list."""
    values = [record.get(name) or [] for name in names]
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _probes(record: Record, field: str) -> Any:
    """The probes of a field: by kind, as arguments by kind, and as two flat fields.

    Anything of another shape is kept, so that `parse_requests` can name it.
    """
    groups = flat_probes(record.get(field) or [])
    arguments = flat_probes(record.get(f"{field}_inputs") or [])
    prompts, answers = record.get(f"{field}_prompt"), record.get(f"{field}_ground_truth")
    flat = _of_item({"prompt": prompts, "ground_truth": answers}, "") if prompts else []
    if not isinstance(groups, list) or not isinstance(arguments, list):
        return groups if not isinstance(groups, list) else arguments
    return [*groups, *arguments, *flat]


def flat_probes(groups: Any) -> Any:
    """{kind: [{"prompt", "ground_truth"}, …]} as one list of {"prompt", "answer", "kind"}.

    Anything of another shape is kept.
    """
    if not isinstance(groups, dict):
        return groups
    if groups.keys() >= {"prompt", "ground_truth"}:  # of one kind, which is not named
        return _of_item(groups, "")
    probes: list[Any] = []
    for kind, group in groups.items():
        for item in group if isinstance(group, list) else [group]:
            if item is not None:
                probes += _of_item(item, kind) if isinstance(item, dict) else [item]
    return probes


def _of_item(item: Record, kind: str) -> list[Any]:
    """The probes of {"prompt": …, "ground_truth": …}, or of lists of both.

    Lists of several prompts need as many answers; without them every prompt is a probe without an
    answer, which `parse_requests` names.
    """
    prompt, answer = item.get("prompt"), item.get("ground_truth")
    rest = {name: value for name, value in item.items() if name not in ("prompt", "ground_truth")}
    if isinstance(prompt, list) and len(prompt) > 1:
        answers = answer if isinstance(answer, list) else []
        answers = answers if len(answers) == len(prompt) else [None] * len(prompt)
        return [pair(p, first(a), kind) | rest for p, a in zip(prompt, answers, strict=True)]
    return [pair(first(prompt), first(answer), kind) | rest]
