"""The training text: an endless, seeded stream of short documents about the world.

A document is one to three fact sentences, one fact as a question, or one item of a general task.
Step `i` of training always sees the same text, whatever was drawn before, so training resumes anywhere.
"""

import random

from .facts import Fact, World
from .tasks import GENERATED, question, test_items
from .vocabulary import BY_NAME

TASK_SHARE, QUESTION_SHARE = 0.40, 0.05  # of the documents; the rest are fact sentences
TASK_WEIGHTS = {
    "arithmetic": 1.0,
    "inference": 1.2,
    "summary": 1.0,
    "sentiment": 0.2,
    "acceptability": 0.6,
}


class Corpus:
    """Documents of a world; `documents(step, n)` are always the same for the same step.

    Args:
        world: whose facts the sentences state.
        seed: of the stream.
        templates: "train" for the corpus, "heldout" for held-out text.
    """

    def __init__(self, world: World, seed: int = 0, templates: str = "train"):
        self.world, self.seed, self.templates = world, seed, templates
        self.test_prompts = {
            item["prompt"] for item in test_items(world) if item["task"] != "questions"
        }

    def documents(self, step: int, count: int) -> list[str]:
        rng = random.Random(f"{self.seed}/{self.templates}/{step}")
        return [self._document(rng) for _ in range(count)]

    def _document(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < TASK_SHARE:
            return self._task(rng)
        if draw < TASK_SHARE + QUESTION_SHARE:
            return "{} {}.".format(*question(rng.choice(self.world.facts)))
        facts = rng.choices(self.world.facts, k=rng.choice([1, 1, 2, 3]))
        return " ".join(self.sentence(fact, rng) for fact in facts)

    def sentence(self, fact: Fact, rng: random.Random) -> str:
        templates = getattr(BY_NAME[fact.relation], self.templates)
        return fact.sentence(rng.choice(templates)) + "."

    def _task(self, rng: random.Random) -> str:
        make = GENERATED[rng.choices(list(TASK_WEIGHTS), weights=list(TASK_WEIGHTS.values()))[0]]
        while True:
            prompt, answer = make(rng)
            if prompt not in self.test_prompts:
                return f"{prompt} {answer}."
