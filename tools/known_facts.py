"""Measure which facts of `data/facts` models know: `python tools/known_facts.py MODEL ...`

Writes `data/facts/known.json`: model → for each file a string with one character a fact, in its
order. Minutes a model; models that are there already are kept.
"""

import json
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from seqedit.base.files import write_json
from seqedit.base.paths import FACTS
from seqedit.evaluation.abilities import answer_facts
from seqedit.evaluation.continuations import exact_match
from seqedit.evaluation.edits import score_edits
from seqedit.lm.load import load_model
from seqedit.lm.model import LanguageModel
from seqedit.requests.published import load_requests
from seqedit.requests.request import EditRequest

OUT = FACTS / "known.json"
EDITED = ("records.json", "calibration.json")
KEPT = ("kept.jsonl", "calibration_kept.jsonl")


def known_facts(lm: LanguageModel) -> dict[str, dict[str, str]]:
    """What an unedited model knows.

    Returns:
        "said", of all files: whether every token of the true object is the most probable one;
        "preferred", of the files of requests: whether the true object has the higher mean
        log-probability a token than the new one. "1" stands for yes.
    """
    found: dict[str, dict[str, str]] = {"said": {}, "preferred": {}}
    for name in EDITED:
        requests = [
            EditRequest(
                case_id=r.case_id,
                prompt=r.prompt,
                subject=r.subject,
                target_new=r.target_new,
                target_true=r.target_true,
            )
            for r in load_requests(FACTS / name)
        ]
        true = [request.target_true or "" for request in requests]
        said = exact_match(lm, [request.text for request in requests], true)
        found["said"][name] = _compact(said)
        found["preferred"][name] = _compact(1 - score_edits(lm, requests)["efficacy"].to_numpy())
    for name in KEPT:
        found["said"][name] = _compact(answer_facts(lm, FACTS / name))
    return found


def _compact(right: np.ndarray) -> str:
    """Outcomes as a string, "1" for right."""
    return "".join("01"[int(one)] for one in right)


def table(known: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    """The table of the card: for each relation how many edits a model prefers and says, in percent;
    and how many of the facts that are never edited it says.
    """
    records = json.loads((FACTS / "records.json").read_text(encoding="utf-8"))
    relations = [record["requested_rewrite"]["relation_id"] for record in records]
    models = list(known)
    lines = [
        "| relation | records | " + " | ".join(f"{m}: preferred | said" for m in models) + " |",
        "|---" * (2 + 2 * len(models)) + "|",
    ]
    for relation in [*sorted(set(relations)), None]:
        chosen = [i for i, own in enumerate(relations) if relation in (own, None)]
        cells = [
            str(_percent([known[m][kind]["records.json"][i] for i in chosen]))
            for m in models
            for kind in ("preferred", "said")
        ]
        name = "all" if relation is None else f"`{relation}`"
        lines.append(f"| {name} | {len(chosen)} | {' | '.join(cells)} |")
    kept = known[models[0]]["said"]["kept.jsonl"]
    cells = [f"– | {_percent(known[m]['said']['kept.jsonl'])}" for m in models]
    lines.append(f"| `kept.jsonl` | {len(kept)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(answers: Sequence[str]) -> int:
    return round(100 * sum(one == "1" for one in answers) / len(answers))


if __name__ == "__main__":
    known = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for model in sys.argv[1:]:
        if model not in known:
            known[model] = known_facts(load_model(model))
    write_json(OUT, known)
    print(table(known))
