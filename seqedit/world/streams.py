"""Edit records of the fictional world in which several facts of each subject are edited."""

from collections import defaultdict
from typing import Any

from .facts import Fact, World
from .records import make_records

FIRST_ID = 200_000
"""`case_id` of the first of these records; those of the world's other files are smaller."""


def subject_records(world: World, split: str, seed: int = 0) -> list[dict[str, Any]]:
    """Return edit requests in CounterFact's schema that edit every fact of each subject.

    The records of a subject come together; they are of different relations. Each is made as
    `make_records` makes it, in a world where its subject has this one fact.

    Args:
        world: whose facts are edited.
        split: the split of the subjects.
        seed: of new objects and wordings.
    """
    own: dict[str, list[Fact]] = defaultdict(list)
    for fact in world.of_split(split):
        own[fact.subject].append(fact)
    found: dict[str, list[dict[str, Any]]] = {subject: [] for subject in own}
    for place in range(max(map(len, own.values()))):
        facts = (f for f in world.facts if f.split != split or own[f.subject][place:][:1] == [f])
        for record in make_records(World(tuple(facts), world.objects), split, seed):
            found[record["requested_rewrite"]["subject"]].append(record)
    records = [record for of_subject in found.values() for record in of_subject]
    return [record | {"case_id": FIRST_ID + i} for i, record in enumerate(records)]
