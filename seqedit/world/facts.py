"""Entities and facts of the fictional world, and its edit records in CounterFact's schema.

Everything is drawn from one seed. Subjects are split once and for all: `edit` (results), `calibration`
(choice of hyper-parameters, never used for results) and `kept` (never edited: unrelated facts, questions).
"""

import random
from collections import defaultdict
from dataclasses import asdict, dataclass

from . import vocabulary as v

SUBJECTS = {
    "person": 1000,
    "company": 260,
    "book": 260,
}  # each has two facts of its kind's relations
PAIRS = 110  # one-to-one mentor / pupil pairs
COUNTRIES = 24
SPLITS = (("calibration", 0.11), ("kept", 0.15))  # the rest is for edits


@dataclass(frozen=True)
class Fact:
    """`subject` has `object` under `relation`; `split` says what the subject may be used for."""

    subject: str
    relation: str
    object: str
    split: str

    def sentence(self, template: str) -> str:
        return f"{template.format(self.subject)} {self.object}"


@dataclass(frozen=True)
class World:
    """All facts and the closed object sets they draw from."""

    facts: tuple[Fact, ...]
    objects: dict[str, tuple[str, ...]]

    def of_split(self, *splits: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.split in splits]


class _Names:
    """Fresh invented names: no two entities share one, nor a last word."""

    def __init__(self, rng: random.Random):
        self.rng, self.used = rng, set()

    def word(self, low: int, high: int) -> str:
        while True:
            word = "".join(
                self.rng.choices(v.SYLLABLES, k=self.rng.randint(low, high))
            ).capitalize()
            if word not in self.used and 4 <= len(word) <= 10:
                self.used.add(word)
                return word


def build_world(seed: int = 0) -> World:
    """The world of this seed: 1,520 subjects with two facts each, 110 mentor pairs, 24 capitals."""
    rng = random.Random(seed)
    names = _Names(rng)
    first_names = [names.word(2, 2) for _ in range(120)]
    adjectives = "Silver Golden Hidden Broken Silent Burning Frozen Ancient Distant Wooden".split()
    suffixes = "Works Labs Group Trading Brothers Partners".split()
    objects = {
        "city": tuple(names.word(2, 3) for _ in range(40)),
        "language": tuple(names.word(2, 2) + "ish" for _ in range(16)),
        "occupation": tuple(v.OCCUPATIONS),
        "sport": tuple(v.SPORTS),
        "instrument": tuple(v.INSTRUMENTS),
        "industry": tuple(v.INDUSTRIES),
        "genre": tuple(v.GENRES),
        "dish": tuple(v.DISHES),
        "country": tuple(names.word(2, 2) + "land" for _ in range(COUNTRIES)),
        "capital": tuple(names.word(2, 3) for _ in range(COUNTRIES)),
        "master": tuple(f"{rng.choice(first_names)} {names.word(2, 3)}" for _ in range(PAIRS)),
        "pupil": tuple(f"{rng.choice(first_names)} {names.word(2, 3)}" for _ in range(PAIRS)),
    }
    make = {
        "person": lambda: f"{rng.choice(first_names)} {names.word(2, 3)}",
        "company": lambda: f"{names.word(2, 3)} {rng.choice(suffixes)}",
        "book": lambda: f"{rng.choice(adjectives)} {names.word(2, 3)}",
    }
    facts = []
    for kind, count in SUBJECTS.items():
        relations = [r for r in v.RELATIONS if r.kind == kind]
        for i in range(count):
            subject = make[kind]()
            split = _split(i / count)
            for relation in rng.sample(relations, 2):
                facts.append(
                    Fact(subject, relation.name, rng.choice(objects[relation.objects]), split)
                )
    for pupil, master in zip(objects["pupil"], objects["master"], strict=True):
        facts += [
            Fact(pupil, "mentor", master, "reversal"),
            Fact(master, "pupil", pupil, "reversal"),
        ]
    for country, capital in zip(objects["country"], objects["capital"], strict=True):
        facts += [
            Fact(country, "capital", capital, "kept"),
            Fact(capital, "capital_of", country, "kept"),
        ]
    return World(tuple(facts), objects)


def _split(position: float) -> str:
    for name, share in SPLITS:
        if position < share:
            return name
        position -= share
    return "edit"


def make_records(world: World, split: str, seed: int = 0, first_id: int = 0) -> list[dict]:
    """Edit requests of one split in CounterFact's schema: the first fact of each subject gets a new object.

    Neighbourhood prompts ask for other subjects (of any split) that share the true object, attribute
    prompts for subjects that have the new one; both skip the record's own subject.
    """
    rng = random.Random(f"{seed}/{split}")
    sharing = defaultdict(list)
    for fact in world.facts:
        sharing[fact.relation, fact.object].append(fact.subject)
    seen, records = set(), []
    chosen = [f for f in world.of_split(split)]
    rng.shuffle(chosen)
    for fact in chosen:
        if fact.subject in seen:
            continue
        seen.add(fact.subject)
        relation = v.BY_NAME[fact.relation]
        new = rng.choice([o for o in world.objects[relation.objects] if o != fact.object])

        def prompts(obj: str, fact=fact, relation=relation) -> list[str]:
            subjects = [s for s in sharing[fact.relation, obj] if s != fact.subject]
            return (
                [rng.choice(relation.train).format(rng.choice(subjects)) for _ in range(10)]
                if subjects
                else []
            )

        distractions = [rng.choice(world.facts) for _ in relation.heldout]
        records.append(
            {
                "case_id": first_id + len(records),
                "requested_rewrite": {
                    "prompt": rng.choice(relation.train),
                    "relation_id": fact.relation,
                    "subject": fact.subject,
                    "target_new": {"str": new},
                    "target_true": {"str": fact.object},
                },
                "paraphrase_prompts": [
                    f"{d.sentence(rng.choice(v.BY_NAME[d.relation].train))}. {template.format(fact.subject)}"
                    for d, template in zip(distractions, relation.heldout, strict=True)
                ],
                "neighborhood_prompts": prompts(fact.object),
                "attribute_prompts": prompts(new),
                "generation_prompts": [
                    rng.choice(relation.train).format(fact.subject) for _ in range(10)
                ],
            }
        )
    return records


def reversal_records(world: World, seed: int = 0) -> list[dict]:
    """Mentor edits with the prompt that asks for the inverse: edit pupil → new master, ask the new master's pupil."""
    rng = random.Random(f"{seed}/reversal")
    records = []
    for fact in (f for f in world.of_split("reversal") if f.relation == "mentor"):
        new = rng.choice([m for m in world.objects["master"] if m != fact.object])
        records.append(
            {
                "case_id": len(records),
                "requested_rewrite": {
                    "prompt": "The mentor of {} is",
                    "relation_id": "mentor",
                    "subject": fact.subject,
                    "target_new": {"str": new},
                    "target_true": {"str": fact.object},
                },
                "paraphrase_prompts": [t.format(fact.subject) for t in v.BY_NAME["mentor"].heldout],
                "neighborhood_prompts": [],
                "attribute_prompts": [],
                "generation_prompts": [],
                "reverse_prompt": f"The pupil of {new} is",
                "reverse_target": fact.subject,
            }
        )
    return records


def fact_rows(world: World) -> list[dict]:
    return [asdict(fact) for fact in world.facts]
