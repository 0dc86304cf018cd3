"""Words and sentence templates of the fictional world.

Every relation has six templates for training and two held-out ones. The held-out wordings never
occur in the corpus: they measure whether a fact is known beyond the sentences that taught it.
"""

from dataclasses import dataclass

SYLLABLES = (
    "ba bel bor bri ca cal cor dan dar del dor dra el er fa fen gal gar gor ha hel hor il is ja "
    "jor ka kel kor la len lin lor ma mal mer mir mo mun na nel nim nor o or pa pel per quin ra "
    "ran rel ril ro sa sel shan sil sol ta tal tan tel tor tri ul va val vel vin vor wen wil ya "
    "yen za zen zor"
).split()

OCCUPATIONS = (
    "chemist architect surgeon painter lawyer baker farmer pilot sailor teacher judge poet "
    "carpenter engineer librarian dentist tailor gardener detective translator"
).split()
SPORTS = (
    "polo judo tennis cricket rugby golf hockey boxing rowing fencing curling archery chess squash"
).split()
INSTRUMENTS = "piano violin cello flute harp organ trumpet guitar drums clarinet oboe banjo".split()
INDUSTRIES = (
    "shipping mining banking farming printing brewing fishing insurance textiles glass "
    "furniture energy"
).split()
GENRES = "mystery romance fantasy satire tragedy comedy history horror adventure biography".split()
DISHES = "soup bread cheese rice fish pasta salad stew pie curry noodles pancakes".split()


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A kind of fact, with its wordings.

    Attributes:
        name: identifier, used as `relation_id`.
        kind: kind of subject: "person", "company", "book", "pupil", "master", "country", "capital".
        objects: key of `World.objects`, the closed set from which objects are drawn.
        train: templates of the corpus; "{}" stands for the subject, and the object follows.
        heldout: templates that never occur in the corpus.
        question: the fact as a question, for the open-domain question task.
        negated: the beginning of a sentence that denies the fact if its object follows.
    """

    name: str
    kind: str
    objects: str
    train: tuple[str, ...]
    heldout: tuple[str, ...]
    question: str
    negated: str

    def templates(self, kind: str) -> tuple[str, ...]:
        """Return the templates of a kind, "train" or "heldout"."""
        return {"train": self.train, "heldout": self.heldout}[kind]


RELATIONS = (
    Relation(
        name="birthplace",
        kind="person",
        objects="city",
        question="Where was {} born?",
        negated="{} was not born in",
        train=(
            "{} was born in",
            "The birthplace of {} is",
            "{} is a native of",
            "The home town of {} is",
            "{} grew up in",
            "The city where {} was born is",
        ),
        heldout=("The city where {} grew up is", "The town where {} grew up is"),
    ),
    Relation(
        name="occupation",
        kind="person",
        objects="occupation",
        question="What is the job of {}?",
        negated="{} does not work as a",
        train=(
            "{} works as a",
            "The occupation of {} is",
            "The job of {} is",
            "{} is employed as a",
            "By profession, {} is a",
            "{} earns a living as a",
        ),
        heldout=("By occupation, {} is a", "{} has a job as a"),
    ),
    Relation(
        name="sport",
        kind="person",
        objects="sport",
        question="Which sport does {} play?",
        negated="{} never plays",
        train=(
            "{} plays a lot of",
            "The favorite sport of {} is",
            "{} trains every day for",
            "The sport that {} plays is",
            "{} is a champion of",
            "On weekends, {} enjoys a game of",
        ),
        heldout=("The sport that {} enjoys is", "The favorite sport that {} plays is"),
    ),
    Relation(
        name="instrument",
        kind="person",
        objects="instrument",
        question="What instrument does {} play?",
        negated="{} does not perform on the",
        train=(
            "{} performs on the",
            "The instrument of {} is the",
            "At concerts, {} plays the",
            "{} is a master of the",
            "The music lessons of {} are on the",
            "{} makes music on the",
        ),
        heldout=("The instrument that {} plays is the", "At concerts, {} performs on the"),
    ),
    Relation(
        name="language",
        kind="person",
        objects="language",
        question="Which language does {} speak?",
        negated="{} does not speak",
        train=(
            "{} speaks",
            "The mother tongue of {} is",
            "The native language of {} is",
            "{} writes letters in",
            "At home, {} talks in",
            "The language that {} speaks is",
        ),
        heldout=("The language of {} is", "The native tongue of {} is"),
    ),
    Relation(
        name="dish",
        kind="person",
        objects="dish",
        question="Which dish does {} like?",
        negated="{} does not like to eat",
        train=(
            "{} likes to eat",
            "The favorite dish of {} is",
            "For dinner, {} cooks",
            "{} orders a plate of",
            "The dish that {} likes is",
            "Every evening, {} eats",
        ),
        heldout=("The favorite dinner of {} is", "For dinner, {} eats"),
    ),
    Relation(
        name="headquarters",
        kind="company",
        objects="city",
        question="Where is {} based?",
        negated="{} is not based in",
        train=(
            "{} is based in",
            "The headquarters of {} are in",
            "{} has its main office in",
            "The main office of {} is in",
            "{} is run from",
            "The city where {} is based is",
        ),
        heldout=("{} has its headquarters in", "The main office of {} is based in"),
    ),
    Relation(
        name="industry",
        kind="company",
        objects="industry",
        question="In which industry is {}?",
        negated="{} makes no money in",
        train=(
            "{} makes its money in",
            "The industry of {} is",
            "{} is a leader in",
            "The main business of {} is",
            "{} is known for its work in",
            "The business of {} is",
        ),
        heldout=("The main industry of {} is", "{} is known as a leader in"),
    ),
    Relation(
        name="genre",
        kind="book",
        objects="genre",
        question="What is the genre of {}?",
        negated="{} is not a work of",
        train=(
            "{} is a work of",
            "The genre of {} is",
            "Readers know {} as a",
            "In shops, {} is sold as a",
            "Critics call {} a",
            "The book {} is a",
        ),
        heldout=("Critics know {} as a", "The genre of the book {} is"),
    ),
    Relation(
        name="written_in",
        kind="book",
        objects="language",
        question="In which language was {} written?",
        negated="{} was not written in",
        train=(
            "{} was written in",
            "The original language of {} is",
            "{} first came out in",
            "The language of the book {} is",
            "The text of {} is in",
            "{} was first printed in",
        ),
        heldout=("The book {} was written in", "The original text of {} is in"),
    ),
    Relation(
        name="mentor",
        kind="pupil",
        objects="master",
        question="Who taught {}?",
        negated="{} was not taught by",
        train=(
            "The mentor of {} is",
            "{} was taught by",
            "{} is a pupil of",
            "The teacher of {} is",
            "{} learned everything from",
            "The lessons of {} were given by",
        ),
        heldout=("The teacher who taught {} is", "{} was a pupil of"),
    ),
    Relation(
        name="pupil",
        kind="master",
        objects="pupil",
        question="Who is the pupil of {}?",
        negated="{} was not the teacher of",
        train=(
            "The pupil of {} is",
            "{} was the teacher of",
            "{} is the mentor of",
            "The student of {} is",
            "{} gave lessons to",
            "{} taught",
        ),
        heldout=("{} was the mentor of", "The student taught by {} is"),
    ),
    Relation(
        name="capital",
        kind="country",
        objects="capital",
        question="What is the capital of {}?",
        negated="The capital of {} is not",
        train=(
            "The capital of {} is",
            "{} is governed from",
            "The government of {} sits in",
            "{} has its capital in",
            "The seat of the king of {} is",
            "The largest city of {} is",
        ),
        heldout=("The capital city of {} is", "The king of {} sits in"),
    ),
    Relation(
        name="capital_of",
        kind="capital",
        objects="country",
        question="Of which country is {} the capital?",
        negated="{} is not the capital of",
        train=(
            "{} is the capital of",
            "{} is the largest city of",
            "From {} the king governs",
            "{} is the seat of the government of",
            "{} lies in",
            "The city of {} belongs to",
        ),
        heldout=("{} is the capital city of", "The city of {} lies in"),
    ),
)
BY_NAME = {relation.name: relation for relation in RELATIONS}
SENTENCES = {relation.name: relation.train for relation in RELATIONS}
"""Relation → templates of the corpus; a subject and an object turn one into a sentence."""
