"""Which kinds of facts a pretrained model keeps, of those in `data/facts` that are never edited."""

import json
from collections.abc import Iterable

import pandas as pd

from ..base.jsonl import read_jsonl
from ..base.paths import FACTS
from ..requests.published import load_requests
from ..runs.records import Record


def kept_by_kind(record: Record) -> pd.DataFrame:
    """How many facts of each kind the unedited model said, and how many of them the edited one
    still says.

    Facts about subjects that the run itself edits are counted here, too; `kept_facts` of the record
    leaves them out.

    Args:
        record: of a run on a model in `data/facts/known.json`, which measured kept facts.

    Returns:
        Indexed by the template of the prompt: `known`, how many the unedited model said; `kept`,
        how many of them are still said; those with the most first.

    Raises:
        ValueError: it is not known which facts the model said unedited.
    """
    facts = pd.DataFrame(read_jsonl(FACTS / "kept.jsonl"))
    facts["known"] = said_unedited(record.run["parameters"]["model"])
    facts["kept"] = [mark == "1" for mark in record.scores["answers.kept_facts"].iloc[-1]]
    templates = {request.prompt for request in load_requests("facts")}
    facts["asked"] = [_template(prompt, templates) for prompt in facts["prompt"]]
    found = facts[facts["known"]].groupby("asked")[["known", "kept"]].sum()
    return found.sort_values("known", ascending=False)


def said_unedited(model: str) -> list[bool]:
    """Which of the facts in `data/facts/kept.jsonl` a pretrained model says unedited, in order.

    Raises:
        ValueError: this is not known of the model.
    """
    every = json.loads((FACTS / "known.json").read_text(encoding="utf-8"))
    if model not in every:
        raise ValueError(
            f"model: which facts {model!r} says unedited is known for {', '.join(every)} only"
        )
    return [mark == "1" for mark in every[model]["said"]["kept.jsonl"]]


def _template(prompt: str, templates: Iterable[str]) -> str:
    """The one that a prompt was made of."""
    for template in templates:
        before, after = template.split("{}")
        if prompt.startswith(before) and prompt.endswith(after):
            return template
    raise ValueError(f"kept.jsonl: {prompt!r} is made of no template of records.json")
