"""Makes small tests of general abilities in plain English: writes `data/abilities/*.jsonl`.

    python tools/make_abilities.py

Sentences are from the tables and modules in `tools/abilities`, facts from `tools/facts`. The files
are the same bytes every time.
"""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from abilities import acceptability, arithmetic, questions, tables
from abilities.item import Item

OUT = Path(__file__).resolve().parents[1] / "data" / "abilities"
TASKS: dict[str, Callable[[random.Random], Iterable[Item]]] = {
    "acceptability": lambda rng: acceptability.items(),
    "sentiment": lambda rng: tables.sentiment(),
    "entailment": lambda rng: tables.entailment(),
    "last_word": lambda rng: tables.last_word(),
    "arithmetic": arithmetic.arithmetic,
    "questions": questions.questions,
}
"""Name of a task → the function that makes its items."""


def contents(seed: int = 0) -> dict[str, str]:
    """Return the content of each file, by name."""
    return {f"{task}.jsonl": _lines(task, seed) for task in TASKS}


def _lines(task: str, seed: int) -> str:
    """Return the items of a task as JSON lines, in random order."""
    rng = random.Random(f"{seed}/{task}")
    items = list(TASKS[task](rng))
    rng.shuffle(items)
    places = [i % len(items[0].choices) for i in range(len(items))]  # of the right choice
    rng.shuffle(places)
    return "".join(_line(item, place, rng) for item, place in zip(items, places, strict=True))


def _line(item: Item, place: int, rng: random.Random) -> str:
    """Return an item as a line of JSON; the wrong choices stand in random order."""
    choices = [choice for choice in item.choices if choice != item.right]
    rng.shuffle(choices)
    choices.insert(place, item.right)
    row = {"kind": item.kind, "prompt": item.prompt, "choices": choices, "answer": place}
    return json.dumps(row, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name, text in contents().items():
        (OUT / name).write_text(text, encoding="utf-8")
        print(f"{name}: {text.count(chr(10))} items")
