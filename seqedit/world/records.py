"""Edit records of the fictional world, in CounterFact's schema.

Beside CounterFact's prompts a record has probes whose answers are exact, because every fact of the
world is known: what the edit entails (`portability`), what it must not change (`locality`), and
prompts that deny the new fact (`negated_prompts`). The world has no objects with facts of their
own, but for mentors and pupils; two-hop questions are therefore asked about these alone.
"""

import random
from collections import defaultdict
from typing import Any

from .facts import KEPT, Fact, World
from .vocabulary import BY_NAME, Relation

PROMPTS = 10  # of a kind in a record, as in CounterFact


def make_records(
    world: World, split: str, seed: int = 0, first_id: int = 0
) -> list[dict[str, Any]]:
    """Return edit requests in CounterFact's schema: one fact of each subject gets a new object.

    Neighbourhood prompts ask about subjects that share the true object, attribute prompts about
    subjects that already have the new one. Both, and the sentences in front of paraphrases, are
    about facts that are never edited (`KEPT`), so that no edit can change what is right.

    Args:
        world: whose facts are edited.
        split: the split of the subjects, "edit" or "calibration".
        seed: of new objects and wordings.
        first_id: `case_id` of the first record.
    """
    rng = random.Random(f"{seed}/{split}")
    prompts = _Prompts(world, world.of_split(KEPT[split]), rng)
    chosen = world.of_split(split)
    rng.shuffle(chosen)
    seen: set[str] = set()
    records: list[dict[str, Any]] = []
    for fact in chosen:
        if fact.subject not in seen:
            seen.add(fact.subject)
            records.append({"case_id": first_id + len(records)} | _record(world, fact, prompts))
    return records


class _Prompts:
    """Draws the prompts of records.

    Args:
        world: the world of the edited facts.
        never_edited: the facts that all other prompts are about.
        rng: what is drawn from.
    """

    def __init__(self, world: World, never_edited: list[Fact], rng: random.Random):
        self.never_edited, self.rng = never_edited, rng
        self.sharing: dict[tuple[str, str], list[str]] = defaultdict(list)
        for fact in never_edited:
            self.sharing[fact.relation, fact.object].append(fact.subject)
        self.facts_of: dict[str, list[Fact]] = defaultdict(list)
        for fact in world.facts:
            self.facts_of[fact.subject].append(fact)

    def paraphrases(self, fact: Fact) -> list[str]:
        """Return the held-out wordings of a fact, each after a sentence about another fact."""
        texts = []
        for template in BY_NAME[fact.relation].heldout:
            other = self.rng.choice(self.never_edited)
            sentence = other.sentence(self.rng.choice(BY_NAME[other.relation].train))
            texts.append(f"{sentence}. {template.format(fact.subject)}")
        return texts

    def others_with(self, obj: str, relation: Relation) -> list[str]:
        """Return up to ten different prompts about never-edited subjects that have `obj`."""
        possible = [
            template.format(subject)
            for subject in self.sharing[relation.name, obj]
            for template in relation.train
        ]
        return self.rng.sample(possible, min(PROMPTS, len(possible)))

    def about(self, fact: Fact) -> list[str]:
        """Return ten prompts about the fact's own subject."""
        templates = BY_NAME[fact.relation].train
        return [self.rng.choice(templates).format(fact.subject) for _ in range(PROMPTS)]

    def same_subject(self, fact: Fact) -> list[dict[str, str]]:
        """Return a probe for each other fact of the subject, which the edit must not change."""
        return [
            {
                "kind": "same_subject",
                "relation_id": other.relation,
                "prompt": self.rng.choice(BY_NAME[other.relation].train).format(other.subject),
                "answer": other.object,
            }
            for other in self.facts_of[fact.subject]
            if other.relation != fact.relation
        ]


def _record(world: World, fact: Fact, prompts: _Prompts) -> dict[str, Any]:
    """Return one record without its `case_id`; the order of the lines decides what is drawn."""
    relation = BY_NAME[fact.relation]
    new = prompts.rng.choice([o for o in world.objects[relation.objects] if o != fact.object])
    return {
        "requested_rewrite": {
            "prompt": prompts.rng.choice(relation.train),
            "relation_id": fact.relation,
            "subject": fact.subject,
            "target_new": {"str": new},
            "target_true": {"str": fact.object},
        },
        "paraphrase_prompts": prompts.paraphrases(fact),
        "neighborhood_prompts": prompts.others_with(fact.object, relation),
        "attribute_prompts": prompts.others_with(new, relation),
        "generation_prompts": prompts.about(fact),
        "questions": [relation.question.format(fact.subject)],
        "negated_prompts": [relation.negated.format(fact.subject)],
        "locality": prompts.same_subject(fact),
        "portability": [
            {
                "kind": "alias",
                "prompt": prompts.rng.choice(relation.train).format(alias(fact, relation)),
                "answer": new,
                "previous": fact.object,
            }
        ],
    }


def alias(fact: Fact, relation: Relation) -> str:
    """Return the one word of the subject's name that no other subject has.

    It is the last name of a person, the last word of a title and the first word of a company.
    """
    words = fact.subject.split()
    return words[0] if relation.kind == "company" else words[-1]


def reversal_records(world: World, seed: int = 0) -> list[dict[str, Any]]:
    """Return edits of mentors, each with what it entails through the relation of pupils.

    A record gives a pupil A a new mentor M. Its probes are the inverse, "The pupil of M is" A, and
    a question of two hops, "The pupil of the mentor of A is", whose answer is the pupil that M has
    in the unedited world, as MQuAKE (2305.14795) counts: only the edited fact changes. The two
    answers contradict each other; they are probes of different readings.
    """
    rng = random.Random(f"{seed}/reversal")
    pupil_of = {f.subject: f.object for f in world.facts if f.relation == "pupil"}
    records: list[dict[str, Any]] = []
    for fact in world.of_split("reversal"):
        if fact.relation != "mentor":
            continue
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
                "paraphrase_prompts": [t.format(fact.subject) for t in BY_NAME["mentor"].heldout],
                "neighborhood_prompts": [],
                "attribute_prompts": [],
                "generation_prompts": [],
                "questions": [BY_NAME["mentor"].question.format(fact.subject)],
                "negated_prompts": [BY_NAME["mentor"].negated.format(fact.subject)],
                "portability": [
                    {
                        "kind": "inverse",
                        "prompt": f"The pupil of {new} is",
                        "answer": fact.subject,
                        "previous": pupil_of[new],
                    },
                    {
                        "kind": "two_hop",
                        "prompt": f"The pupil of the mentor of {fact.subject} is",
                        "answer": pupil_of[new],
                        "previous": fact.subject,
                    },
                ],
            }
        )
    return records
