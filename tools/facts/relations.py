"""Relations of the facts and their wordings.

A sentence is a template with the subject in place of "{}", a space and the object. Subjects such as
"the Netherlands" have their article with them; templates for them do not begin with the subject.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A kind of fact, with its wordings.

    Attributes:
        name: identifier, used as `relation_id`.
        table: file of the facts, without ".csv".
        column: its column that holds the object.
        kind: kind of object; relations with objects of one kind share them.
        prompt: the template of edits.
        wordings: other templates.
        question: the fact as a question.
        negated: the beginning of a sentence that denies the fact if its object follows.
        hop: the template of questions of two hops that end with this relation; `prompt` if empty.
        phrase: a description of the object by its subject, for questions of two hops.
        inverse: template with the object in place of "{}", which the subject follows; only for
            relations that are one-to-one.
    """

    name: str
    table: str
    column: str
    kind: str
    prompt: str
    wordings: tuple[str, ...]
    question: str
    negated: str
    hop: str = ""
    phrase: str = ""
    inverse: str = ""

    @property
    def templates(self) -> tuple[str, ...]:
        """All templates of a sentence."""
        return (self.prompt, *self.wordings)


RELATIONS = (
    Relation(
        name="capital",
        table="countries",
        column="capital",
        kind="capital",
        prompt="The capital of {} is",
        wordings=(
            "The capital city of {} is",
            "Students of geography learn that the capital of {} is",
            "The city that serves as the capital of {} is",
            "On a map of {}, the capital is marked as",
        ),
        question="What is the capital of {}?",
        negated="The capital of {} is not",
        inverse="{} is the capital of",
    ),
    Relation(
        name="continent",
        table="countries",
        column="continent",
        kind="continent",
        prompt="The continent of {} is",
        wordings=(
            "A traveler who visits {} is on the continent of",
            "On a map of the world, {} belongs to the continent of",
            "Geographers count {} among the countries of",
            "The part of the world in which {} lies is",
        ),
        question="On which continent is {}?",
        negated="The continent of {} is not",
    ),
    Relation(
        name="language",
        table="countries",
        column="language",
        kind="language",
        prompt="The official language of {} is",
        wordings=(
            "The laws of {} are written in",
            "The national language of {} is",
            "Official documents in {} are written in",
            "The language of the government of {} is",
        ),
        question="What is the official language of {}?",
        negated="The official language of {} is not",
    ),
    Relation(
        name="currency",
        table="countries",
        column="currency",
        kind="currency",
        prompt="The currency of {} is the",
        wordings=(
            "The money used in {} is the",
            "Prices in {} are given in a currency called the",
            "The unit of currency of {} is called the",
            "The central bank of {} sets the value of the",
        ),
        question="What is the currency of {}?",
        negated="The currency of {} is not the",
    ),
    Relation(
        name="city_country",
        table="cities",
        column="country",
        kind="country",
        prompt="{} is a city in",
        wordings=(
            "{} is located in the country of",
            "The country where {} lies is",
            "On a map, you will find {} in",
            "People who live in {} are residents of",
        ),
        question="In which country is {}?",
        negated="{} is not a city in",
        hop="The country that includes {} is",
        phrase="the country where {} lies",
    ),
    Relation(
        name="landmark_city",
        table="landmarks",
        column="city",
        kind="city",
        prompt="The city where you can visit {} is",
        wordings=(
            "To see {}, tourists travel to the city of",
            "You will find {} in",
            "The home of {} is the city of",
            "A famous sight, {}, is in",
        ),
        question="In which city is {}?",
        negated="The city where you can visit {} is not",
        phrase="the city where you can visit {}",
    ),
    Relation(
        name="element_symbol",
        table="elements",
        column="symbol",
        kind="symbol",
        prompt="The chemical symbol for {} is",
        wordings=(
            "The symbol of the element {} is",
            "In the periodic table, {} has the symbol",
            "Chemists abbreviate {} as",
            "In chemical formulas, {} is written as",
        ),
        question="What is the chemical symbol for {}?",
        negated="The chemical symbol for {} is not",
        inverse="The chemical element with the symbol {} is",
    ),
    Relation(
        name="element_number",
        table="elements",
        column="number",
        kind="number",
        prompt="The atomic number of {} is",
        wordings=(
            "The number of protons in an atom of {} is",
            "In the periodic table, {} is element number",
            "The nucleus of {} has a number of protons equal to",
            "The element {} has the atomic number",
        ),
        question="What is the atomic number of {}?",
        negated="The atomic number of {} is not",
        inverse="The chemical element with atomic number {} is",
    ),
    Relation(
        name="book_author",
        table="books",
        column="author",
        kind="author",
        prompt="The author of {} is",
        wordings=(
            "{} was written by",
            "The writer of {} is",
            "The name on the cover of {} is that of its author,",
            "In libraries, {} is listed under the name of",
        ),
        question="Who wrote {}?",
        negated="The author of {} is not",
        phrase="the author of {}",
    ),
    Relation(
        name="writer_language",
        table="writers",
        column="language",
        kind="literary language",
        prompt="The language in which {} wrote is",
        wordings=(
            "The best-known works of {} were written in",
            "The original language of the works of {} is",
            "To read {} in the original, you have to know",
            "The manuscripts of {} are in",
        ),
        question="In which language did {} write?",
        negated="The language in which {} wrote is not",
    ),
    Relation(
        name="painting_artist",
        table="paintings",
        column="artist",
        kind="artist",
        prompt="The artist who painted {} is",
        wordings=(
            "The painter of {} is",
            "In museum guides, {} is attributed to",
            "The artist behind {} is",
            "A famous picture, {}, is by",
        ),
        question="Who painted {}?",
        negated="The artist who painted {} is not",
        phrase="the artist who painted {}",
    ),
    Relation(
        name="music_composer",
        table="music",
        column="composer",
        kind="composer",
        prompt="The composer of {} is",
        wordings=(
            "The music of {} was written by",
            "In concert programs, {} is listed under the name of",
            "The musician who composed {} is",
            "The score of {} is the work of",
        ),
        question="Who composed {}?",
        negated="The composer of {} is not",
        phrase="the composer of {}",
    ),
    Relation(
        name="film_director",
        table="films",
        column="director",
        kind="director",
        prompt="The director of the film {} is",
        wordings=(
            "The film {} was directed by",
            "The movie {} was made by the director",
            "On the set of the film {}, the director was",
            "The filmmaker behind {} is",
        ),
        question="Who directed the film {}?",
        negated="The director of the film {} is not",
        phrase="the director of the film {}",
    ),
    Relation(
        name="company_country",
        table="companies",
        column="country",
        kind="country",
        prompt="The company {} comes from",
        wordings=(
            "{} is a company from",
            "The home country of the company {} is",
            "The company {} was founded in",
            "The country that the company {} is from is",
        ),
        question="Which country does the company {} come from?",
        negated="The company {} does not come from",
        phrase="the home country of the company {}",
    ),
    Relation(
        name="birth_country",
        table="people",
        column="country",
        kind="country",
        prompt="The country where {} was born is",
        wordings=(
            "{} was born in",
            "The birthplace of {} lies in",
            "The native country of {} is",
            "On today's maps, the place where {} was born is in",
        ),
        question="In which country was {} born?",
        negated="The country where {} was born is not",
        phrase="the country where {} was born",
    ),
    Relation(
        name="sport",
        table="athletes",
        column="sport",
        kind="sport",
        prompt="{} became famous in the sport of",
        wordings=(
            "The sport of {} is",
            "{} is best known for success in",
            "The sport in which {} won fame is",
            "Fans know {} as a star of",
        ),
        question="In which sport did {} become famous?",
        negated="{} did not become famous in the sport of",
    ),
    Relation(
        name="instrument",
        table="musicians",
        column="instrument",
        kind="instrument",
        prompt="{} is famous for playing the",
        wordings=(
            "The instrument of {} is the",
            "On stage, {} plays the",
            "The musician {} is a master of the",
            "Recordings of {} feature the",
        ),
        question="Which instrument is {} famous for playing?",
        negated="{} is not famous for playing the",
    ),
)
"""All relations; the order decides what is drawn."""

BY_NAME = {relation.name: relation for relation in RELATIONS}

NEUTRAL = (
    "The train was a few minutes late this morning.",
    "It rained for most of the afternoon.",
    "She put the letter back into the drawer.",
    "The meeting was moved to next week.",
    "He forgot his umbrella on the bus again.",
    "The kitchen window was left open overnight.",
    "They had soup and bread for lunch.",
    "The library closes early on weekends.",
    "A neighbor watered the plants during the holidays.",
    "The new chairs are more comfortable than the old ones.",
    "Nobody answered the door, so we left a note.",
    "The children were playing in the yard.",
    "There was a long line in front of the bakery.",
    "The elevator has been out of order since Monday.",
    "We took a short walk after dinner.",
    "The lamp in the hall needs a new bulb.",
    "His bicycle had a flat tire.",
    "The dog slept in front of the fireplace.",
    "The report has to be finished by Friday.",
    "A strong wind blew the leaves across the street.",
    "The shop was out of milk.",
    "She could not find her keys anywhere.",
    "The bridge is closed for repairs.",
    "They painted the fence last summer.",
)
"""Sentences in front of paraphrases; they state no fact of any relation."""
