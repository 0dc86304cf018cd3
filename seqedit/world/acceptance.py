"""Acceptance figures: what the shipped model must reach before anything is built on it.

At least 98 % of all facts must be right under wordings that never occur in the corpus, and at least
90 % of the items of every general task. An answer counts if greedy decoding gives all its tokens.
"""

from pathlib import Path
from typing import Any

from ..base.paths import WORLD
from ..evaluation.abilities import perplexity, score_abilities
from ..evaluation.continuations import exact_match
from ..lm.model import LanguageModel
from .facts import World, build_world
from .vocabulary import BY_NAME

FACTS_NEEDED, TASKS_NEEDED = 0.98, 0.90


def measure(lm: LanguageModel, world_folder: Path = WORLD, seed: int = 0) -> dict[str, Any]:
    """Measure the share of facts and tasks answered right, and perplexity on held-out text.

    Args:
        lm: the trained model.
        world_folder: folder that `write_world` filled.
        seed: of the world whose facts are asked.

    Returns:
        {"facts": {"train": …, "heldout": …}, "tasks": {…}, "perplexity": …, "accepted": bool}.
    """
    world = build_world(seed)
    facts = {kind: _share_known(lm, world, kind) for kind in ("train", "heldout")}
    tasks = {name: round(value, 4) for name, value in score_abilities(lm, world_folder).items()}
    texts = (world_folder / "heldout.txt").read_text(encoding="utf-8").splitlines()
    accepted = facts["heldout"] >= FACTS_NEEDED and min(tasks.values()) >= TASKS_NEEDED
    return {
        "facts": facts,
        "tasks": tasks,
        "perplexity": round(perplexity(lm, texts), 3),
        "accepted": accepted,
    }


def _share_known(lm: LanguageModel, world: World, kind: str) -> float:
    """Return the share of facts that are right, each asked with the first two wordings."""
    prompts, answers = [], []
    for fact in world.facts:
        for template in BY_NAME[fact.relation].templates(kind)[:2]:
            prompts.append(template.format(fact.subject))
            answers.append(fact.object)
    return round(float(exact_match(lm, prompts, answers).mean()), 4)
