"""Edit records of the fictional world, in CounterFact's schema."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from .facts import Fact, World
from .vocabulary import BY_NAME


def make_records(
    world: World, split: str, seed: int = 0, first_id: int = 0
) -> list[dict[str, Any]]:
    """Return edit requests in CounterFact's schema: one fact of each subject gets a new object.

    Neighbourhood prompts ask about other subjects, of any split, that share the true object.
    Attribute prompts ask about subjects that already have the new object. Neither kind asks about
    the record's own subject.

    Args:
        world: whose facts are edited.
        split: the split of the subjects.
        seed: of new objects and wordings.
        first_id: `case_id` of the first record.
    """
    rng = random.Random(f"{seed}/{split}")
    prompts = _Prompts(world, rng)
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
    """Draws the prompts of records."""

    def __init__(self, world: World, rng: random.Random):
        self.world, self.rng = world, rng
        self.sharing: dict[tuple[str, str], list[str]] = defaultdict(list)
        for fact in world.facts:
            self.sharing[fact.relation, fact.object].append(fact.subject)

    def paraphrases(self, fact: Fact, before: Sequence[Fact]) -> list[str]:
        """Return the held-out wordings of a fact, each after a sentence about another fact."""
        texts = []
        for other, template in zip(before, BY_NAME[fact.relation].heldout, strict=True):
            sentence = other.sentence(self.rng.choice(BY_NAME[other.relation].train))
            texts.append(f"{sentence}. {template.format(fact.subject)}")
        return texts

    def others_with(self, obj: str, fact: Fact) -> list[str]:
        """Return ten prompts about other subjects that have `obj`; none where there are none."""
        subjects = [s for s in self.sharing[fact.relation, obj] if s != fact.subject]
        if not subjects:
            return []
        templates = BY_NAME[fact.relation].train
        return [self.rng.choice(templates).format(self.rng.choice(subjects)) for _ in range(10)]

    def about(self, fact: Fact) -> list[str]:
        """Return ten prompts about the fact's own subject."""
        templates = BY_NAME[fact.relation].train
        return [self.rng.choice(templates).format(fact.subject) for _ in range(10)]


def _record(world: World, fact: Fact, prompts: _Prompts) -> dict[str, Any]:
    """Return one record without its `case_id`; the order of the lines decides what is drawn."""
    relation = BY_NAME[fact.relation]
    new = prompts.rng.choice([o for o in world.objects[relation.objects] if o != fact.object])
    before = [prompts.rng.choice(world.facts) for _ in relation.heldout]
    return {
        "requested_rewrite": {
            "prompt": prompts.rng.choice(relation.train),
            "relation_id": fact.relation,
            "subject": fact.subject,
            "target_new": {"str": new},
            "target_true": {"str": fact.object},
        },
        "paraphrase_prompts": prompts.paraphrases(fact, before),
        "neighborhood_prompts": prompts.others_with(fact.object, fact),
        "attribute_prompts": prompts.others_with(new, fact),
        "generation_prompts": prompts.about(fact),
    }


def reversal_records(world: World, seed: int = 0) -> list[dict[str, Any]]:
    """Return edits of mentors, each with the prompt that asks for the inverse.

    A record gives a pupil a new mentor; its `reverse_prompt` asks for the pupil of that mentor.
    """
    rng = random.Random(f"{seed}/reversal")
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
                "reverse_prompt": f"The pupil of {new} is",
                "reverse_target": fact.subject,
            }
        )
    return records
