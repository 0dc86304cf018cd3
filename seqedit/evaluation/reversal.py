"""Is an edit known from the other side? "The mentor of A is B" edited, "The pupil of B is" asked."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..base.paths import WORLD
from ..lm.model import LanguageModel
from .continuations import rate


@dataclass(frozen=True)
class ReverseQuestion:
    """The inverse of an edit.

    Attributes:
        prompt: asks for the edited subject; target: that subject; previous: what was true before.
    """

    case_id: int
    prompt: str
    target: str
    previous: str


def reverse_questions(world: Path = WORLD) -> list[ReverseQuestion]:
    """The inverse of every record of `world`/reversal.json."""
    facts = [
        json.loads(line)
        for line in (world / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    ]
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
    """Share of inverses that the model prefers to what was true before (BAKE's reverse question score), and tells.

    Source: BAKE (2310.10322); its judgement score needs a prompt of its own for every model and is left out.
    """
    prompts = [q.prompt for q in questions]
    new, old = (
        rate(lm, prompts, [q.target for q in questions]),
        rate(lm, prompts, [q.previous for q in questions]),
    )
    return {"success": float((new.nll < old.nll).mean()), "accuracy": float(new.correct.mean())}
