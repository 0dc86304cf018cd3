"""Reversal: is an edit known in the other direction?

After "The mentor of A is B" is edited, "The pupil of B is" should be answered by A.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ..base.jsonl import read_jsonl
from ..base.paths import WORLD
from ..lm.model import LanguageModel
from .continuations import rate


@dataclass(frozen=True)
class ReverseQuestion:
    """A question that asks for the inverse of an edit.

    Attributes:
        case_id: of the edit.
        prompt: asks for the subject of the edit.
        target: that subject.
        previous: the answer before the edit.
    """

    case_id: int
    prompt: str
    target: str
    previous: str


def reverse_questions(world: Path = WORLD) -> list[ReverseQuestion]:
    """The inverse question of every record of `world`/reversal.json, with the world's answer."""
    facts = read_jsonl(world / "facts.jsonl")
    pupils = {fact["subject"]: fact["object"] for fact in facts if fact["relation"] == "pupil"}
    records = json.loads((world / "reversal.json").read_text(encoding="utf-8"))
    return [
        ReverseQuestion(
            record["case_id"],
            record["reverse_prompt"],
            record["reverse_target"],
            pupils[record["requested_rewrite"]["target_new"]["str"]],
        )
        for record in records
    ]


def reversibility(lm: LanguageModel, questions: list[ReverseQuestion]) -> dict[str, float]:
    """Score the inverse questions of edits.

    Returns:
        `success`: share of questions after which the subject of the edit is more probable than the
        previous answer (BAKE's reverse question score). `accuracy`: share of questions that the
        model answers by the subject (greedy, all tokens).

    Source:
        BAKE (2310.10322). Its judgement score is left out, since it needs a prompt made for each
        model.
    """
    prompts = [q.prompt for q in questions]
    new = rate(lm, prompts, [q.target for q in questions])
    old = rate(lm, prompts, [q.previous for q in questions])
    return {"success": float((new.nll < old.nll).mean()), "accuracy": float(new.correct.mean())}
