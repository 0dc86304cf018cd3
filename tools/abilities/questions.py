"""Questions about facts that are never edited, with answers of the same relation."""

import random
from collections.abc import Iterator

from facts.graph import Fact, Graph
from facts.relations import BY_NAME, RELATIONS

from .item import Item

CHOICES, SETS = 4, 3
"""Answers to choose from; sets of questions of a relation that share their answers."""


def questions(rng: random.Random) -> Iterator[Item]:
    """Yield questions in sets: each answer of a set is right for one of its questions."""
    graph = Graph()
    kept = graph.of_split("kept")
    for relation in RELATIONS:
        left = [fact for fact in kept if fact.relation == relation.name]
        rng.shuffle(left)
        for _ in range(SETS):
            chosen = _set(graph, left)
            if len(chosen) < CHOICES:
                break
            answers = tuple(fact.object for fact in chosen)
            for fact in chosen:
                left.remove(fact)
                question = BY_NAME[fact.relation].question.format(fact.subject)
                yield Item(relation.name, f"Question: {question}\nAnswer:", answers, fact.object)


def _set(graph: Graph, facts: list[Fact]) -> list[Fact]:
    """Return facts, as many as there are choices, none of whose objects is true of another one."""
    chosen: list[Fact] = []
    for fact in facts:
        apart = all(
            other.object not in graph.true_names(fact)
            and fact.object not in graph.true_names(other)
            for other in chosen
        )
        if apart and len(chosen) < CHOICES:
            chosen.append(fact)
    return chosen
