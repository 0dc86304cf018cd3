"""General abilities of the embedded model: six small tasks in place of those that papers use.

| task | in place of | an item | chance |
|---|---|---|---|
| arithmetic | GSM8K | Mira has 3 apples and finds 4 more. In the end, Mira has 7 | – |
| inference | RTE | Premise: Ana gave the red lamp to Bo. Conclusion: it is now with Bo | 1/2 |
| questions | Natural Questions | Question: Where was … born? Answer: … | 1/objects |
| summary | SAMSum | Ana: let us meet at noon. … Summary: they meet in the park at noon | – |
| sentiment | SST-2 | Review: the meal was awful and dull. Sentiment: negative | 1/2 |
| acceptability | CoLA | Sentence: the old sleeps dog in the park. Acceptable: no | 1/2 |

Test items never occur in the corpus: the training stream drops any item whose prompt is in the test
set. Questions are the exception. They ask for facts that the corpus states, some in the same words,
and measure what is known.
"""

import random
from typing import Any

from .facts import Fact, World
from .vocabulary import BY_NAME

NAMES = "Ana Bo Cara Dov Eli Fay Gus Hana Ivo Jon Kim Leo Mira Nils Otto Pia".split()
THINGS = "apples coins books stamps shells cards pens keys".split()
OBJECTS = "lamp chair clock table mirror basket ladder carpet".split()
COLOURS = "red blue green white black yellow".split()
TIMES = "noon dawn midnight sunset lunch breakfast".split()
PLACES = "park station market museum harbor bridge".split()
GOOD = "wonderful great lovely brilliant superb charming excellent delightful".split()
BAD = "awful terrible boring dreadful horrible poor dull bad".split()
REVIEWED = "movie meal hotel concert story game play tour".split()
NOUNS = "dog cat girl boy bird horse".split()
VERBS = "sleeps runs sings jumps rests waits".split()


def arithmetic(rng: random.Random) -> tuple[str, str]:
    """Draw a word problem with one addition or subtraction; return prompt and answer."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    if rng.random() < 0.5:
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        return f"{name} has {a} {thing} and finds {b} more. In the end, {name} has", str(a + b)
    a = rng.randint(2, 9)
    b = rng.randint(1, a - 1)
    return f"{name} has {a} {thing} and loses {b} of them. In the end, {name} has", str(a - b)


def inference(rng: random.Random) -> tuple[str, str]:
    """Draw a transfer of a thing; return the question who has it now, and the answer."""
    giver, taker = rng.sample(NAMES, 2)
    thing = f"{rng.choice(COLOURS)} {rng.choice(OBJECTS)}"
    premise = rng.choice(
        [f"{giver} gave the {thing} to {taker}", f"{taker} got the {thing} from {giver}"]
    )
    return f"Premise: {premise}. Conclusion: it is now with", taker


def summary(rng: random.Random) -> tuple[str, str]:
    """Draw a dialogue about a meeting; return it as a prompt, and place and time."""
    a, b = rng.sample(NAMES, 2)
    time, place = rng.choice(TIMES), rng.choice(PLACES)
    first = rng.choice(
        [
            f"{a}: let us meet in the {place}. {b}: when? {a}: at {time}.",
            f"{a}: let us meet at {time}. {b}: where? {a}: in the {place}.",
        ]
    )
    return f"{first} {b}: good. Summary: they meet in the", f"{place} at {time}"


def sentiment(rng: random.Random) -> tuple[str, str]:
    """Draw a review; return it as a prompt, and "positive" or "negative"."""
    good = rng.random() < 0.5
    words = rng.sample(GOOD if good else BAD, 2)
    text = rng.choice(
        [
            "the {0} was {1} and {2}",
            "what a {1} {0}, really {2}",
            "we found the {0} {1} and {2}",
            "a {1} {0} with {2} people",
        ]
    ).format(rng.choice(REVIEWED), *words)
    return f"Review: {text}. Sentiment:", "positive" if good else "negative"


def acceptability(rng: random.Random) -> tuple[str, str]:
    """Draw a sentence with or without two words swapped; return a prompt, and "yes" or "no"."""
    words = [
        rng.choice(["the", "a"]),
        rng.choice(["old", "young", "small", "big", "happy", "quiet"]),
        rng.choice(NOUNS),
        rng.choice(VERBS),
        "in",
        "the",
        rng.choice(PLACES),
    ]
    right = rng.random() < 0.5
    if not right:  # swap two neighbouring words
        i = rng.randrange(len(words) - 1)
        words[i : i + 2] = words[i + 1], words[i]
    return f"Sentence: {' '.join(words)}. Acceptable:", "yes" if right else "no"


GENERATED = {
    "arithmetic": arithmetic,
    "inference": inference,
    "summary": summary,
    "sentiment": sentiment,
    "acceptability": acceptability,
}
CHOICES = {"sentiment": ["positive", "negative"], "acceptability": ["yes", "no"]}


def question(fact: Fact) -> tuple[str, str]:
    """Return a fact as an open-domain question, and the answer."""
    return f"Question: {BY_NAME[fact.relation].question.format(fact.subject)} Answer:", fact.object


def test_items(world: World, per_task: int = 200) -> list[dict[str, Any]]:
    """Return `per_task` distinct items of each task.

    Only the questions depend on the world; all other items are the same in every world.
    """
    rng = random.Random("0/tasks")
    items = []
    for task, make in GENERATED.items():
        answers: dict[str, str] = {}
        while len(answers) < per_task:
            prompt, answer = make(rng)
            answers.setdefault(prompt, answer)
        for prompt, answer in answers.items():
            items.append(_item(task, prompt, answer))
    for fact in rng.sample(world.of_split("kept"), per_task):
        items.append(_item("questions", *question(fact)))
    return items


def _item(task: str, prompt: str, answer: str) -> dict[str, Any]:
    return {"task": task, "prompt": prompt, "answer": answer, "choices": CHOICES.get(task)}
