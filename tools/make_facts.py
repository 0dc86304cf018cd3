"""Makes edit requests about the real world: writes `data/facts`.

    python tools/make_facts.py [compare]

The facts come from the tables in `tools/facts`, the sentences from `tools/facts/relations.py`. The
files are the same bytes every time. With `compare`, the tables are compared with the data of
packages instead, see `tools/facts/sources.py`.
"""

import json
import random
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from facts.graph import KEPT, Fact, Graph
from facts.relations import BY_NAME, NEUTRAL, RELATIONS, Relation

OUT = Path(__file__).resolve().parents[1] / "data" / "facts"
NEIGHBOURS, ATTRIBUTES, SAME_RELATION = 6, 4, 3
"""Prompts and probes of a kind in a record."""
FEWEST_KEPT = 10
"""New objects are drawn from those with kept facts of their own, if there are so many."""


class Maker:
    """Makes the records of a split; the order of the calls decides what is drawn.

    Args:
        graph: all facts.
        split: "edit" or "calibration".
        seed: of new objects and wordings.
    """

    def __init__(self, graph: Graph, split: str, seed: int = 0):
        self.graph, self.split = graph, split
        self.rng = random.Random(f"{seed}/{split}")
        self.kept = graph.of_split(KEPT[split])
        self.used: set[tuple[str, str]] = set()  # new objects of relations that are one-to-one

    def records(self, first_id: int = 0) -> list[dict[str, Any]]:
        """Return one record for each fact of the split, in random order."""
        chosen = self.graph.of_split(self.split)
        self.rng.shuffle(chosen)
        return [{"case_id": first_id + i} | self._record(fact) for i, fact in enumerate(chosen)]

    def _record(self, fact: Fact) -> dict[str, Any]:
        relation = BY_NAME[fact.relation]
        new = self._new_object(fact)
        return {
            "requested_rewrite": {
                "prompt": relation.prompt,
                "relation_id": relation.name,
                "subject": fact.subject,
                "target_new": {"str": new},
                "target_true": {"str": fact.object},
            },
            "paraphrase_prompts": [
                f"{sentence} {_capital(template.format(fact.subject))}"
                for sentence, template in zip(
                    self.rng.sample(NEUTRAL, len(relation.wordings)), relation.wordings, strict=True
                )
            ],
            "neighborhood_prompts": self._others_with(fact.object, relation, NEIGHBOURS),
            "attribute_prompts": self._others_with(new, relation, ATTRIBUTES),
            "generation_prompts": [_fill(t, fact.subject) for t in relation.templates],
            "questions": [relation.question.format(fact.subject)],
            "negated_prompts": [_fill(relation.negated, fact.subject)],
            "locality": self._same_subject(fact) + self._same_relation(fact, new),
            "portability": [
                *self._aliases(fact, new),
                *self._first_hop(fact, new),
                *self._second_hop(fact, new),
                *self._inverse(fact, new),
            ],
        }

    def _new_object(self, fact: Fact) -> str:
        """Draw an object of the same kind that is not true of the subject under any name."""
        relation, true = BY_NAME[fact.relation], self.graph.true_names(fact)
        objects = dict.fromkeys(
            f.object for f in self.graph.facts if BY_NAME[f.relation].kind == relation.kind
        )
        pool = [
            name
            for name in objects
            if not self.graph.names(name) & true
            and name != fact.subject
            and (relation.name, name) not in self.used
        ]
        safe = [o for o in pool if relation.phrase and self.graph.never_edited(o, self.split)]
        new = self.rng.choice(safe if len(safe) >= FEWEST_KEPT else pool)
        if relation.inverse:
            self.used.add((relation.name, new))
        return new

    def _others_with(self, obj: str, relation: Relation, number: int) -> list[str]:
        """Return prompts about kept subjects that have an object, of as many as there are."""
        subjects = [f.subject for f in self.kept if (f.relation, f.object) == (relation.name, obj)]
        self.rng.shuffle(subjects)
        prompts = []
        for i in range(min(number, 2 * len(subjects))):  # at most two wordings for a subject
            template = relation.templates[i // len(subjects) + self.rng.choice((0, 2))]
            prompts.append(_fill(template, subjects[i % len(subjects)]))
        return prompts

    def _same_subject(self, fact: Fact) -> list[dict[str, Any]]:
        """Return a probe for each other fact of the subject."""
        return [
            self._probe("same_subject", other)
            for other in self.graph.facts
            if other.subject == fact.subject and other.relation != fact.relation
        ]

    def _same_relation(self, fact: Fact, new: str) -> list[dict[str, Any]]:
        """Return probes for kept subjects of the relation that have neither object."""
        of_relation = (f for f in self.kept if f.relation == fact.relation)
        others = [f for f in of_relation if f.object not in (fact.object, new)]
        chosen = self.rng.sample(others, min(SAME_RELATION, len(others)))
        return [self._probe("same_relation", other) for other in chosen]

    def _probe(self, kind: str, fact: Fact) -> dict[str, Any]:
        template = self.rng.choice(BY_NAME[fact.relation].templates)
        probe = {"kind": kind, "relation_id": fact.relation}
        return probe | {"prompt": _fill(template, fact.subject)} | self._answer(fact.object)

    def _answer(self, obj: str) -> dict[str, Any]:
        aliases = self.graph.aliases(obj)
        return {"answer": obj} | ({"aliases": aliases} if aliases else {})

    def _change(self, kind: str, prompt: str, new: str, previous: str) -> dict[str, Any]:
        """Return a probe of portability."""
        return {"kind": kind, "prompt": prompt} | self._answer(new) | {"previous": previous}

    def _aliases(self, fact: Fact, new: str) -> list[dict[str, Any]]:
        """Return a probe for the first other name of the subject."""
        prompt = BY_NAME[fact.relation].prompt
        return [
            self._change("alias", _fill(prompt, alias), new, fact.object)
            for alias in self.graph.aliases(fact.subject)[:1]
        ]

    def _first_hop(self, fact: Fact, new: str) -> list[dict[str, Any]]:
        """Return up to two questions whose first hop is edited and whose second one is kept."""
        phrase = BY_NAME[fact.relation].phrase.format(fact.subject)
        if not phrase or not self.graph.never_edited(new, self.split):
            return []
        probes = []
        for relation in RELATIONS:
            answer = self.graph.object_of.get((relation.name, new))
            previous = self.graph.object_of.get((relation.name, fact.object))
            if answer and previous and answer != previous:
                prompt = _fill(relation.hop or relation.prompt, phrase)
                probes.append(self._change("two_hop", prompt, answer, previous))
        return self.rng.sample(probes, min(2, len(probes)))

    def _second_hop(self, fact: Fact, new: str) -> list[dict[str, Any]]:
        """Return up to one question whose first hop is kept and whose second one is edited."""
        first = [f for f in self.kept if f.object == fact.subject and BY_NAME[f.relation].phrase]
        if not first:
            return []
        hop, relation = self.rng.choice(first), BY_NAME[fact.relation]
        phrase = BY_NAME[hop.relation].phrase.format(hop.subject)
        prompt = _fill(relation.hop or relation.prompt, phrase)
        return [self._change("two_hop", prompt, new, fact.object)]

    def _inverse(self, fact: Fact, new: str) -> list[dict[str, Any]]:
        """Return the question for the subject, if the relation is one-to-one."""
        template = BY_NAME[fact.relation].inverse
        if not template:
            return []
        (owner,) = (f.subject for f in self.graph.facts if (f.relation, f.object) == (fact[0], new))
        return [self._change("inverse", _fill(template, new), fact.subject, owner)]


def kept_rows(graph: Graph, split: str) -> list[dict[str, str]]:
    """Return the facts of a split that is never edited as prompts and targets."""
    return [
        {"prompt": _fill(BY_NAME[fact.relation].prompt, fact.subject), "target": fact.object}
        for fact in graph.of_split(split)
    ]


def _fill(template: str, name: str) -> str:
    return _capital(template.format(name))


def _capital(text: str) -> str:
    """Return a sentence with its first letter large."""
    return text[0].upper() + text[1:]


def contents(seed: int = 0) -> dict[str, str]:
    """Return the text of each file."""
    graph = Graph(seed)
    records = Maker(graph, "edit", seed).records()
    calibration = Maker(graph, "calibration", seed).records(first_id=len(records))
    return {
        "records.json": _json(records),
        "calibration.json": _json(calibration),
        "kept.jsonl": _lines(kept_rows(graph, "kept")),
        "calibration_kept.jsonl": _lines(kept_rows(graph, "calibration_kept")),
    }


def _json(records: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n]\n"


def _lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def counts(seed: int = 0) -> str:
    """Return a table of the number of facts of each relation in each split, in Markdown."""
    graph, lines = Graph(seed), []
    for relation in RELATIONS:
        of_split: dict[str, int] = defaultdict(int)
        for fact in graph.facts:
            if fact.relation == relation.name:
                of_split[graph.split[fact.subject]] += 1
        numbers = (str(of_split[s]) for s in ("edit", "calibration", "kept", "calibration_kept"))
        lines.append(f"| `{relation.name}` | {relation.prompt} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the files, or compare the tables with the packages' data."""
    if sys.argv[1:] == ["compare"]:
        from facts.sources import differences

        print("\n".join(differences()) or "no differences")
        return
    if sys.argv[1:]:
        raise SystemExit(__doc__)
    OUT.mkdir(exist_ok=True)
    for name, text in contents().items():
        (OUT / name).write_text(text, encoding="utf-8")
    print(counts())


if __name__ == "__main__":
    main()
