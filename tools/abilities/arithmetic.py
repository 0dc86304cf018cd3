"""Word problems with one addition or one subtraction."""

import random
from collections.abc import Iterator

from .item import Item

NAMES = ("Anna", "Ben", "Clara", "David", "Ella", "Frank", "Grace", "Henry", "Ida", "Jack")
STORIES = (
    (
        "{name} has {a} apples in a basket.",
        "A neighbour brings {b} more apples.",
        "The pony eats {b} of the apples.",
        "Now the number of apples in the basket is",
    ),
    (
        "There are {a} passengers on the bus.",
        "At the next stop {b} people get on.",
        "At the next stop {b} people get off.",
        "Now the number of passengers on the bus is",
    ),
    (
        "{name} had {a} coins in a jar.",
        "Then {name} put in {b} coins.",
        "Then {name} took out {b} coins.",
        "Now the number of coins in the jar is",
    ),
    (
        "On Monday there were {a} ducks on the pond.",
        "On Tuesday {b} more ducks came.",
        "On Tuesday {b} of the ducks flew away.",
        "After that, the number of ducks on the pond was",
    ),
    (
        "{name} owns {a} books.",
        "For Christmas {name} gets {b} new books.",
        "For Christmas {name} gives away {b} books.",
        "After Christmas, the number of books that {name} owns is",
    ),
    (
        "The baker had {a} cakes in the window.",
        "In the morning she added {b} cakes.",
        "In the morning she sold {b} cakes.",
        "At noon the number of cakes in the window was",
    ),
    (
        "A farmer keeps {a} cows.",
        "At the market he buys {b} cows.",
        "At the market he sells {b} cows.",
        "Now the number of cows on the farm is",
    ),
    (
        "There were {a} children in the pool.",
        "Another {b} children jumped in.",
        "Then {b} children climbed out.",
        "After that, the number of children in the pool was",
    ),
    (
        "{name} is {a} years old.",
        "Think of the day {b} years from now.",
        "Think of the day {b} years ago.",
        "On that day the age of {name} in years is",
    ),
    (
        "The lift was on floor {a}.",
        "It went up {b} floors.",
        "It went down {b} floors.",
        "Then the lift was on floor",
    ),
    (
        "{name} baked {a} biscuits.",
        "Grandmother baked another {b} biscuits.",
        "The children ate {b} of the biscuits.",
        "So the number of biscuits on the plate was",
    ),
    (
        "In the morning it was {a} degrees warm.",
        "By noon it was {b} degrees warmer.",
        "By noon it was {b} degrees colder.",
        "So the temperature at noon in degrees was",
    ),
    (
        "A shelf holds {a} plates.",
        "{name} puts {b} plates on it.",
        "{name} drops {b} of the plates.",
        "Now the number of plates on the shelf is",
    ),
    (
        "{name} has {a} stamps.",
        "A cousin sends {name} {b} stamps.",
        "{name} sends a cousin {b} of the stamps.",
        "Now the number of stamps that {name} has is",
    ),
    (
        "The choir has {a} singers.",
        "This year {b} singers join.",
        "This year {b} singers leave.",
        "So the number of singers in the choir is",
    ),
    (
        "There were {a} cars in front of the school.",
        "At eight o'clock {b} cars arrived.",
        "At eight o'clock {b} cars drove off.",
        "After that, the number of cars was",
    ),
    (
        "{name} walked {a} miles from home along the river.",
        "Then {name} walked {b} miles further.",
        "Then {name} walked {b} miles back.",
        "Now the distance to home in miles is",
    ),
    (
        "A bunch has {a} roses.",
        "{name} ties in {b} more.",
        "{name} pulls out {b} of them.",
        "Now the number of roses in the bunch is",
    ),
    (
        "The ticket used to cost {a} pounds.",
        "The price was raised by {b} pounds.",
        "The price was cut by {b} pounds.",
        "Today the price of the ticket in pounds is",
    ),
    (
        "{name} saved {a} pounds.",
        "For mowing the lawn {name} was paid {b} pounds.",
        "For a new ball {name} paid {b} pounds.",
        "So the money that {name} has now, in pounds, is",
    ),
)
"""How a story begins, how it goes on with more or with less, and how it ends."""
ROUNDS = 5
"""Times that each story is told, with other numbers."""


def arithmetic(rng: random.Random) -> Iterator[Item]:
    """Yield word problems in twos, one with more and one with less; both have the same choices.

    Choices are equations: each operation with its right result and with one that is off by one.
    """
    for _ in range(ROUNDS):
        for opening, more, less, end in STORIES:
            name, a, b = rng.choice(NAMES), rng.randint(9, 20), rng.randint(2, 8)
            off = rng.choice((-1, 1))
            total, rest = f"{a} + {b} = ", f"{a} - {b} = "
            right = (f"{total}{a + b}", f"{rest}{a - b}")
            choices = (*right, f"{total}{a + b + off}", f"{rest}{a - b - off}")
            for kind, middle, choice in zip(
                ("addition", "subtraction"), (more, less), right, strict=True
            ):
                text = f"{opening} {middle} {end}".format(name=name, a=a, b=b)
                yield Item(kind, text, choices, choice)
