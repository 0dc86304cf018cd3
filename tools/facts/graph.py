"""The tables of facts, what else is true of their subjects, and which facts may be edited."""

import csv
import random
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from .relations import RELATIONS

TABLES = Path(__file__).parent
SPLITS = {"edit": 0.50, "kept": 0.28, "calibration": 0.11, "calibration_kept": 0.11}
"""Splits of the subjects and their shares."""
KEPT = {"edit": "kept", "calibration": "calibration_kept"}
"""Split of the never-edited facts that go with a split of edits."""


class Fact(NamedTuple):
    """A fact: the object stands in the relation to the subject."""

    relation: str
    subject: str
    object: str


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a table, given without ".csv"."""
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Graph:
    """All facts and the splits of their subjects.

    A subject is in one split under all its relations, so that a kept subject is never edited.

    Args:
        seed: of the splits.

    Attributes:
        facts: in the order of relations and tables.
        object_of: (relation, subject) → object. Beside the facts it holds the country of each
            capital, which is never edited.
        split: subject → its split; capitals are "fixed".
    """

    def __init__(self, seed: int = 0):
        self.facts: list[Fact] = []
        self._aliases: dict[str, list[str]] = defaultdict(list)
        self._also = {
            (row["relation"], row["subject"]): row["also"].split(";") for row in read_table("also")
        }
        tables = {name: read_table(name) for name in dict.fromkeys(r.table for r in RELATIONS)}
        for rows in (*tables.values(), read_table("names")):
            for row in rows:
                for alias in filter(None, row.get("aliases", "").split(";")):
                    if alias not in self._aliases[row["name"]]:
                        self._aliases[row["name"]].append(alias)
        for relation in RELATIONS:
            for row in tables[relation.table]:
                if row[relation.column]:
                    self.facts.append(Fact(relation.name, row["name"], row[relation.column]))
        self.object_of = {(fact.relation, fact.subject): fact.object for fact in self.facts}
        self.split = self._draw_splits(random.Random(f"{seed}/splits"))
        for fact in self.facts:
            if fact.relation == "capital":
                self.object_of["city_country", fact.object] = fact.subject
                self.split[fact.object] = "fixed"

    def _draw_splits(self, rng: random.Random) -> dict[str, str]:
        split: dict[str, str] = {}
        for relation in RELATIONS:
            of_relation = (f.subject for f in self.facts if f.relation == relation.name)
            subjects = [subject for subject in of_relation if subject not in split]
            rng.shuffle(subjects)
            start, share = 0, 0.0
            for name, part in SPLITS.items():
                share += part
                end = round(share * len(subjects))
                split |= dict.fromkeys(subjects[start:end], name)
                start = end
        return split

    def of_split(self, split: str) -> list[Fact]:
        """Return the facts whose subjects are in a split."""
        return [fact for fact in self.facts if self.split[fact.subject] == split]

    def aliases(self, name: str) -> list[str]:
        """Return other names of a subject or an object."""
        return self._aliases.get(name, [])

    def names(self, name: str) -> set[str]:
        """Return all names of a subject or an object."""
        return {name, *self.aliases(name)}

    def true_names(self, fact: Fact) -> set[str]:
        """Return all names of all objects that are true of a fact's subject under its relation."""
        true = [fact.object, *self._also.get((fact.relation, fact.subject), [])]
        return set().union(*map(self.names, true))

    def never_edited(self, subject: str, split: str) -> bool:
        """Whether edits of a split and what goes with it leave a subject's facts as they are."""
        return self.split.get(subject) in (KEPT[split], "fixed")
