"""Entities and facts of the fictional world.

Everything is drawn from one seed. Each subject belongs to one split. Results edit `edit` and ask
`kept` what else has changed; the choice of settings edits `calibration` and asks
`calibration_kept`. Facts of the two kept splits are never edited. Mentors and pupils are
`reversal`.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

from . import vocabulary as v

SUBJECTS = {"person": 1000, "company": 260, "book": 260}
"""Kind → number of subjects; each has two facts under relations of its kind."""
PAIRS = 110  # one-to-one pairs of mentor and pupil
COUNTRIES = 24
# shares of subjects; the rest is for edits
SPLITS = (("calibration", 0.14), ("calibration_kept", 0.05), ("kept", 0.15))
KEPT = {"edit": "kept", "calibration": "calibration_kept"}
"""Split that is edited → split whose facts, never edited, show what the edits damage."""
ADJECTIVES = "Silver Golden Hidden Broken Silent Burning Frozen Ancient Distant Wooden".split()
SUFFIXES = "Works Labs Group Trading Brothers Partners".split()


@dataclass(frozen=True)
class Fact:
    """A fact: `subject` has `object` under `relation`.

    Attributes:
        split: what the subject may be used for.
    """

    subject: str
    relation: str
    object: str
    split: str

    def sentence(self, template: str) -> str:
        """Return the fact as a sentence without its full stop."""
        return f"{template.format(self.subject)} {self.object}"


@dataclass(frozen=True)
class World:
    """All facts of a world, and by kind the closed sets of objects that they are drawn from."""

    facts: tuple[Fact, ...]
    objects: dict[str, tuple[str, ...]]

    def of_split(self, *splits: str) -> list[Fact]:
        """Return the facts whose subjects belong to one of the splits."""
        return [fact for fact in self.facts if fact.split in splits]


class _Names:
    """Draws invented names; no word is drawn twice, so that no two entities share a last word."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.used: set[str] = set()
        self.first_names = [self.word(2, 2) for _ in range(120)]

    def word(self, low: int, high: int) -> str:
        """Return a new capitalised word of `low` to `high` syllables and 4 to 10 letters."""
        while True:
            syllables = self.rng.choices(v.SYLLABLES, k=self.rng.randint(low, high))
            word = "".join(syllables).capitalize()
            if word not in self.used and 4 <= len(word) <= 10:
                self.used.add(word)
                return word

    def words(self, count: int, low: int, high: int) -> list[str]:
        """Return several new words."""
        return [self.word(low, high) for _ in range(count)]

    def person(self) -> str:
        """Return a first name and a new last name."""
        return f"{self.rng.choice(self.first_names)} {self.word(2, 3)}"

    def company(self) -> str:
        """Return the name of a company, such as "Belcor Trading"."""
        return f"{self.word(2, 3)} {self.rng.choice(SUFFIXES)}"

    def book(self) -> str:
        """Return the title of a book, such as "Silent Marvin"."""
        return f"{self.rng.choice(ADJECTIVES)} {self.word(2, 3)}"


def build_world(seed: int = 0) -> World:
    """Return the world of a seed.

    It has 1,520 subjects with two facts each, 110 pairs of mentor and pupil, and 24 countries with
    their capitals.
    """
    rng = random.Random(seed)
    names = _Names(rng)
    objects = _object_sets(names)
    make = {"person": names.person, "company": names.company, "book": names.book}
    facts = []
    for kind, count in SUBJECTS.items():
        facts += _facts_of_kind(kind, count, make[kind], objects, rng)
    facts += _inverse_pairs(objects["pupil"], "mentor", objects["master"], "pupil", "reversal")
    facts += _inverse_pairs(objects["country"], "capital", objects["capital"], "capital_of", "kept")
    return World(tuple(facts), objects)


def _object_sets(names: _Names) -> dict[str, tuple[str, ...]]:
    """Return the closed set of objects of each kind; the order decides what is drawn."""
    return {
        "city": tuple(names.words(40, 2, 3)),
        "language": tuple(word + "ish" for word in names.words(16, 2, 2)),
        "occupation": tuple(v.OCCUPATIONS),
        "sport": tuple(v.SPORTS),
        "instrument": tuple(v.INSTRUMENTS),
        "industry": tuple(v.INDUSTRIES),
        "genre": tuple(v.GENRES),
        "dish": tuple(v.DISHES),
        "country": tuple(word + "land" for word in names.words(COUNTRIES, 2, 2)),
        "capital": tuple(names.words(COUNTRIES, 2, 3)),
        "master": tuple(names.person() for _ in range(PAIRS)),
        "pupil": tuple(names.person() for _ in range(PAIRS)),
    }


def _facts_of_kind(
    kind: str,
    count: int,
    make_name: Callable[[], str],
    objects: dict[str, tuple[str, ...]],
    rng: random.Random,
) -> list[Fact]:
    """Return two facts each for `count` new subjects of a kind."""
    relations = [relation for relation in v.RELATIONS if relation.kind == kind]
    facts = []
    for i in range(count):
        subject, split = make_name(), _split(i / count)
        for relation in rng.sample(relations, 2):
            facts.append(Fact(subject, relation.name, rng.choice(objects[relation.objects]), split))
    return facts


def _inverse_pairs(
    left: tuple[str, ...], relation: str, right: tuple[str, ...], inverse: str, split: str
) -> list[Fact]:
    """Return for each pair the fact and its inverse."""
    facts = []
    for a, b in zip(left, right, strict=True):
        facts += [Fact(a, relation, b, split), Fact(b, inverse, a, split)]
    return facts


def _split(position: float) -> str:
    """Return the split of a subject by its relative position in its kind, from 0 to 1."""
    for name, share in SPLITS:
        if position < share:
            return name
        position -= share
    return "edit"


def fact_rows(world: World) -> list[dict[str, str]]:
    """Return all facts as plain objects."""
    return [asdict(fact) for fact in world.facts]
