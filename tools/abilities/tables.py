"""Items made of tables: sentiment, entailment and the last word of a passage."""

import csv
from collections.abc import Iterator
from pathlib import Path

from .item import Item

TABLES = Path(__file__).parent

VERDICTS = ("great", "terrible")
OPENINGS = {
    "restaurant": (
        "On Friday we had dinner at the new restaurant in our street.",
        "My wife and I ate at the harbour restaurant last night.",
        "For my birthday we went to the restaurant above the station.",
        "We tried the restaurant that the newspaper wrote about.",
        "After the match we had a meal at the restaurant by the bridge.",
    ),
    "film": (
        "Last night I saw the new film about the two brothers.",
        "We went to see the film that everybody is talking about.",
        "On the plane they showed a film about a lighthouse.",
        "My son took me to the film with the talking whale.",
        "I watched the film of the old play on Sunday.",
    ),
    "book": (
        "This is a book about the last summer of a fisherman.",
        "I was given this book for Christmas.",
        "Our reading circle chose a book about a murder on a ferry.",
        "I found this book on the bus.",
        "The second book of this writer is about her childhood.",
    ),
    "hotel": (
        "We spent four nights at the hotel on the cliff.",
        "For the wedding we stayed at a hotel near the park.",
        "I had to find a hotel for a meeting in the north.",
        "Our travel agent put us into the hotel by the lake.",
        "We took the children to a hotel in the mountains.",
    ),
    "concert": (
        "On Saturday we went to the concert in the town hall.",
        "My daughter gave me a ticket for the concert in the stadium.",
        "The open-air concert took place in spite of the clouds.",
        "I heard them last week at a concert in a small club.",
        "After ten years they gave a concert in our city again.",
    ),
    "course": (
        "In the spring I took an evening course in Spanish.",
        "My employer paid for a course in book-keeping.",
        "I signed up for the swimming course at the pool.",
        "This online course in drawing takes eight weeks.",
        "Last year I took a course in public speaking.",
    ),
    "device": (
        "I bought this robot lawn mower in March.",
        "My old phone broke, so I ordered this one.",
        "We got this coffee machine for the office.",
        "This electric toothbrush was a present from my aunt.",
        "I needed a new printer and chose this one.",
    ),
    "trip": (
        "In June we took a trip to the islands.",
        "The club went on a trip down the river.",
        "We booked a trip to the old mines.",
        "My parents invited us on a trip through the desert.",
        "Our school class made a trip to the coast.",
    ),
}
"""What is judged, in a sentence that does not judge."""

FRAMES = {
    "animal": (
        "My little brother wanted a picture of it, so I drew a",
        "That is why everybody who visits us asks first about the",
        "If I could have one thing back from that summer, it would be the",
        "Late one evening somebody knocked and asked whether we had seen a",
    ),
    "job": (
        "Years later my daughter decided that she too would become a",
        "Ask anyone in town, and they will say that she was a very good",
        "On the form, under occupation, she wrote that she was a",
        "At the party she introduced herself as a",
    ),
    "place": (
        "In the evening, tired but content, we came home from the",
        "Every time I hear that song, I think of our day at the",
        "When my sister called to ask where I was, I said that I was at the",
        "I wrote her a long letter about our morning at the",
    ),
    "weather": (
        "All day long people talked about nothing but the",
        "In the end the mayor blamed it all on the",
        "My grandmother had warned us about the",
        "In my diary there is only one line about that day, and it is about the",
    ),
    "music": (
        "For his next birthday he wants nothing but a new",
        "In the end the neighbours complained about the",
        "It was a sad day when he had to sell the",
        "In the photograph he is standing proudly beside his",
    ),
    "food": (
        "When the guests had gone, there was only a little left of the",
        "My uncle, who is hard to please, asked for more",
        "I wish that you could have tasted our",
        "Nobody in the family has ever forgotten that",
    ),
    "thing": (
        "In the end my aunt gave me the",
        "After the move we looked everywhere, but nobody could find the",
        "The thief took nothing but the",
        "What I remember best of that old house is the",
    ),
    "vehicle": (
        "For weeks my son talked about nothing but the",
        "In the museum you can still see that",
        "On the stamp there is a picture of the",
        "The whole town came out to look at the",
    ),
}
"""Last sentences without their last word, which fit each word of their kind."""


def sentiment() -> Iterator[Item]:
    """Yield reviews: an opening and a judgement; each opening serves both members of a pair."""
    for i, row in enumerate(_rows("sentiment")):
        openings = OPENINGS[row["subject"]]
        for verdict, column in zip(VERDICTS, ("positive", "negative"), strict=True):
            text = f"{openings[i % len(openings)]} {row[column]}"
            yield Item(row["subject"], f"{text} In short, it was", VERDICTS, verdict)


def entailment() -> Iterator[Item]:
    """Yield premises; the same two conclusions stand after two of them, right once each."""
    for row in _rows("entailment"):
        conclusions = (row["first_conclusion"], row["second_conclusion"])
        for premise, right in zip(("first_premise", "second_premise"), conclusions, strict=True):
            yield Item(row["kind"], f"{row[premise]} This means that", conclusions, right)


def last_word() -> Iterator[Item]:
    """Yield passages: two sentences about something unnamed, and a last one that lacks its name.

    Every last sentence follows upon every word of its kind once.
    """
    rows = _rows("last_word")
    for kind, frames in FRAMES.items():
        words = tuple(row["word"] for row in rows if row["kind"] == kind)
        for row in rows:
            if row["kind"] == kind:
                told = [row[column] for column in ("first", "second", "third", "fourth")]
                for i, frame in enumerate(frames):
                    prompt = f"{told[i]} {told[(i + 1) % len(told)]} {frame}"
                    yield Item(kind, prompt, words, row["word"])


def _rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a table, given without ".csv"."""
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
