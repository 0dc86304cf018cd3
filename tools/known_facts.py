"""Measure which facts of `data/facts` models know: `python tools/known_facts.py MODEL ...`

Writes `data/facts/known.json`: model → for each file a string with one character a fact, in its
order. Minutes a model; models that are there already are kept.
"""

import json
import sys

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


if __name__ == "__main__":
    known = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for model in sys.argv[1:]:
        if model not in known:
            known[model] = known_facts(load_model(model))
        for kind, files in known[model].items():
            for name, answers in files.items():
                share = answers.count("1") / len(answers)
                print(f"{model:<14}{kind:<11}{name:<24}{100 * share:5.1f} % of {len(answers)}")
    write_json(OUT, known)
