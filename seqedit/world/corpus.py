"""The training text: an endless, seeded stream of short documents about the world.

A document holds one to three fact sentences, one fact as a question, or one item of a general task.
The text of a training step depends only on the seed and the number of the step, so that training
can resume anywhere.
"""

import random
from collections.abc import Sequence

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
    """Documents about a world; `documents(step, count)` returns the same ones at every call.

    Args:
        world: the world whose facts the sentences state.
        seed: seed of the stream.
        templates: "train" for the wordings of the corpus, "heldout" for the held-out ones.
        splits: the splits of the facts that are stated; none given means all.

    Attributes:
        facts: those that are stated.
        test_prompts: prompts of test items, which never occur in a document.
    """

    def __init__(
        self, world: World, seed: int = 0, templates: str = "train", splits: Sequence[str] = ()
    ):
        self.seed, self.templates = seed, templates
        self.facts = world.of_split(*splits) if splits else world.facts
        self.test_prompts = {
            item["prompt"] for item in test_items(world) if item["task"] != "questions"
        }

    def documents(self, step: int, count: int) -> list[str]:
        """Return the first `count` documents of a step."""
        rng = random.Random(f"{self.seed}/{self.templates}/{step}")
        return [self._document(rng) for _ in range(count)]

    def sentence(self, fact: Fact, rng: random.Random) -> str:
        """Return a fact in one of its wordings, with a full stop."""
        templates = BY_NAME[fact.relation].templates(self.templates)
        return fact.sentence(rng.choice(templates)) + "."

    def _document(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < TASK_SHARE:
            return self._task(rng)
        if draw < TASK_SHARE + QUESTION_SHARE:
            prompt, answer = question(rng.choice(self.facts))
            return f"{prompt} {answer}."
        facts = rng.choices(self.facts, k=rng.choice([1, 1, 2, 3]))
        return " ".join(self.sentence(fact, rng) for fact in facts)

    def _task(self, rng: random.Random) -> str:
        """Return an item of a task that is not a test item."""
        make = GENERATED[rng.choices(list(TASK_WEIGHTS), weights=list(TASK_WEIGHTS.values()))[0]]
        while True:
            prompt, answer = make(rng)
            if prompt not in self.test_prompts:
                return f"{prompt} {answer}."
