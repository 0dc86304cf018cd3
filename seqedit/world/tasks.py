"""General abilities of the embedded model: six small tasks that stand for the ones the papers use.

| task | stands for | a line of it | chance |
|---|---|---|---|
| arithmetic | GSM8K | Mira has 3 apples and finds 4 more. In the end, Mira has 7 | – |
| inference | RTE | Premise: Ana gave the red lamp to Bo. Conclusion: it is now with Bo | 1/2 (two people named) |
| questions | Natural Questions | Question: Where was … born? Answer: … | 1/size of the object set |
| summary | SAMSum | Ana: let us meet at noon in the park. Bo: good. Summary: they meet at noon in the park | – |
| sentiment | SST-2 | Review: the soup was awful. Sentiment: negative | 1/2 |
| acceptability | CoLA | Sentence: the old sleeps dog in the park. Acceptable: no | 1/2 |

Test items never occur in the corpus: the training stream drops any item whose text is in the test set. Questions are
the exception: they ask for facts that the corpus states, some as the same question, and measure what is known.
"""

import random

from .facts import World
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
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    if rng.random() < 0.5:
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        return f"{name} has {a} {thing} and finds {b} more. In the end, {name} has", str(a + b)
    a = rng.randint(2, 9)
    b = rng.randint(1, a - 1)
    return f"{name} has {a} {thing} and loses {b} of them. In the end, {name} has", str(a - b)


def inference(rng: random.Random) -> tuple[str, str]:
    giver, taker = rng.sample(NAMES, 2)
    thing = f"{rng.choice(COLOURS)} {rng.choice(OBJECTS)}"
    premise = rng.choice(
        [f"{giver} gave the {thing} to {taker}", f"{taker} got the {thing} from {giver}"]
    )
    return f"Premise: {premise}. Conclusion: it is now with", taker


def summary(rng: random.Random) -> tuple[str, str]:
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
    if not right:  # two neighbours change places
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


def question(fact) -> tuple[str, str]:
    """A fact as a question, the form of the open-domain question task."""
    return f"Question: {BY_NAME[fact.relation].question.format(fact.subject)} Answer:", fact.object


def test_items(world: World, per_task: int = 200) -> list[dict]:
    """`per_task` distinct items of each task. Worlds differ in the questions only, which are about their facts."""
    rng = random.Random("0/tasks")
    items = []
    for task, make in GENERATED.items():
        seen = {}
        while len(seen) < per_task:
            prompt, answer = make(rng)
            seen.setdefault(prompt, answer)
        items += [
            {"task": task, "prompt": p, "answer": a, "choices": CHOICES.get(task)}
            for p, a in seen.items()
        ]
    kept = world.of_split("kept")
    for fact in rng.sample(kept, per_task):
        prompt, answer = question(fact)
        items.append({"task": "questions", "prompt": prompt, "answer": answer, "choices": None})
    return items
