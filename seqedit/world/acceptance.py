"""What the shipped model must reach before anything is built on it, measured and written down.

The criteria: at least 98 % of all facts under templates that never occur in the corpus, and at least 90 %
on every general task; both greedy, all target tokens.
"""

from pathlib import Path

from ..base.paths import WORLD
from ..evaluation.abilities import perplexity, score_abilities
from ..evaluation.continuations import exact_match
from ..lm.model import LanguageModel
from .facts import build_world
from .vocabulary import BY_NAME

FACTS_NEEDED, TASKS_NEEDED = 0.98, 0.90


def measure(lm: LanguageModel, world_folder: Path = WORLD, seed: int = 0) -> dict:
    """Shares of facts (by template set) and of tasks answered right, and held-out perplexity.

    Returns:
        {"facts": {"train": …, "heldout": …}, "tasks": {…}, "perplexity": …, "accepted": bool}.
    """
    world = build_world(seed)
    facts = {}
    for kind in ("train", "heldout"):
        pairs = [
            (template.format(fact.subject), fact.object)
            for fact in world.facts
            for template in getattr(BY_NAME[fact.relation], kind)[:2]
        ]
        facts[kind] = round(float(exact_match(lm, *map(list, zip(*pairs, strict=True))).mean()), 4)
    tasks = {name: round(value, 4) for name, value in score_abilities(lm, world_folder).items()}
    texts = (world_folder / "heldout.txt").read_text(encoding="utf-8").splitlines()
    accepted = facts["heldout"] >= FACTS_NEEDED and min(tasks.values()) >= TASKS_NEEDED
    return {
        "facts": facts,
        "tasks": tasks,
        "perplexity": round(perplexity(lm, texts), 3),
        "accepted": accepted,
    }
