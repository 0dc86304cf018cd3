"""Minimal pairs: a sentence of plain English beside one that is wrong in a single point.

Pairs come in twos, so that what is right in one is wrong in the other, or the two sentences of a
pair have the same words in another order. Words alone therefore tell nothing.
"""

from collections.abc import Iterator

from .item import Item

Pair = tuple[str, str]
"""The acceptable sentence, then the other one."""

# head noun, preposition, noun between, plural of both, and the end for one and for several
AGREEMENT = (
    ("key to the cabinet", "keys to the cabinets", "is", "are", "on the table"),
    ("picture of the bridge", "pictures of the bridges", "was", "were", "sold last week"),
    ("path through the garden", "paths through the gardens", "leads", "lead", "to the river"),
    ("label on the bottle", "labels on the bottles", "looks", "look", "old"),
    ("friend of my brother", "friends of my brothers", "has", "have", "a boat"),
    ("answer to the question", "answers to the questions", "seems", "seem", "simple"),
    ("house behind the church", "houses behind the churches", "needs", "need", "a new roof"),
    ("song about the sailor", "songs about the sailors", "makes", "make", "us cry"),
    ("window above the shop", "windows above the shops", "does", "do", "not open"),
    ("coat with the button", "coats with the buttons", "weighs", "weigh", "too much"),
)
# mother or father, of whom, and what she or he did
REFLEXIVES = (
    ("The aunt of the king", "The uncle of the queen", "hurt", "in the garden"),
    ("My sister", "My brother", "taught", "to swim"),
    ("The mother of the boy", "The father of the girl", "blamed", "for the mess"),
    ("The actress", "The actor", "saw", "on the screen"),
    ("The bride", "The groom", "introduced", "to the guests"),
    ("The woman behind the man", "The man behind the woman", "covered", "with a coat"),
    ("The daughter of the baker", "The son of the nurse", "bought", "a bicycle"),
    ("The queen", "The king", "locked", "in the tower"),
    ("The girl with the boys", "The boy with the girls", "called", "a hero"),
    ("The grandmother", "The grandfather", "cut", "with the knife"),
)
# noun, plural, the rest of a sentence with a gap for the noun phrase
DETERMINERS = (
    ("book", "books", "I have never read {} before."),
    ("letter", "letters", "Please put {} on my desk."),
    ("apple", "apples", "We picked {} in the garden."),
    ("bird", "birds", "Have you ever heard {} sing?"),
    ("chair", "chairs", "Nobody wants to sit on {} in winter."),
    ("story", "stories", "My uncle told me {} at dinner."),
    ("lamp", "lamps", "She carried {} up the stairs."),
    ("coin", "coins", "They found {} under the floor."),
    ("horse", "horses", "The farmer sold {} at the market."),
    ("shirt", "shirts", "He washed {} by hand."),
)
# "no" stands over "ever" in front, and does not where "the" stands
POLARITY = (
    "{} teacher who knows {} pupils has ever been late.",
    "{} driver who saw {} signs has ever stopped here.",
    "{} boy who has {} keys ever comes to our house.",
    "{} shop that sells {} bread has ever closed early.",
    "{} dog that hears {} cats ever barks at night.",
    "{} film that won {} prizes has ever moved me.",
    "{} guest who ate {} meat has ever complained.",
    "{} house that has {} windows was ever sold.",
    "{} player who scored {} goals has ever left us.",
    "{} village that had {} wells was ever burned down.",
    "{} nurse who met {} doctors was ever rude to us.",
    "{} bank that lost {} files has ever said so.",
    "{} child who wore {} shoes was ever ill.",
    "{} train that passes {} tunnels is ever on time.",
    "{} author who read {} letters has ever replied.",
    "{} plant that gets {} light will ever bloom.",
    "{} sailor who heard {} songs has ever come home.",
    "{} judge who knew {} laws was ever unfair.",
    "{} cake with {} nuts in it was ever sent back.",
    "{} garden behind {} walls has ever been so green.",
)
# who knows, the fact: subject, verb that needs an object, object
QUESTIONS = (
    ("I know", "the thief", "took", "the ring"),
    ("She told me", "the children", "found", "a shell"),
    ("We remember", "her cousin", "bought", "a car"),
    ("They heard", "my aunt", "made", "a cake"),
    ("Nobody knew", "the fisherman", "caught", "a pike"),
    ("He forgot", "the guest", "brought", "the wine"),
    ("You can guess", "the witness", "described", "the car"),
    ("The book says", "the soldiers", "destroyed", "the bridge"),
    ("Everybody saw", "our neighbour", "repaired", "the roof"),
    ("It is clear", "the queen", "owned", "the castle"),
)
# a verb without an object and one that needs it
TRANSITIVITY = (
    ("vanished", "found", "The rabbit", "the hat"),
    ("arrived", "brought", "My cousin", "the cake"),
    ("slept", "made", "The guests", "the bed"),
    ("fell", "lifted", "The waiter", "the plate"),
    ("laughed", "amused", "The clown", "the child"),
    ("died", "buried", "The widow", "the hen"),
    ("waited", "greeted", "The mayor", "the visitor"),
    ("disappeared", "seized", "The pirate", "the gold"),
    ("sneezed", "caught", "The nurse", "the ball"),
    ("smiled", "invited", "The king", "the poet"),
)
# past tense and participle, who, what
PARTICIPLES = (
    ("broke", "broken", "the boy", "the window"),
    ("wrote", "written", "the poet", "the letter"),
    ("ate", "eaten", "the guests", "the soup"),
    ("stole", "stolen", "the maid", "the ring"),
    ("drove", "driven", "my uncle", "the truck"),
    ("took", "taken", "the nurse", "the money"),
    ("gave", "given", "the king", "the order"),
    ("saw", "seen", "the pilot", "the island"),
    ("wore", "worn", "the bride", "the dress"),
    ("forgot", "forgotten", "the world", "the song"),
)
# in order and out of order
WORD_ORDER = (
    ("She has often eaten fish on Fridays.", "She has eaten often fish on Fridays."),
    ("Where did the children go after school?", "Where the children did go after school?"),
    ("He gave the big red ball to her.", "He gave the red big ball to her."),
    ("I know how old she is.", "I know how old is she."),
    ("They picked it up from the floor.", "They picked up it from the floor."),
    ("The tea is not hot enough for me.", "The tea is not enough hot for me."),
    ("She put all her books in the box.", "She put her all books in the box."),
    ("We always close the door at night.", "We close always the door at night."),
    ("What a long day it was!", "What long a day it was!"),
    ("She is such a good friend.", "She is a such good friend."),
    ("He has never been so happy.", "He never has so been happy."),
    ("The man whom we met lives there.", "The man we whom met lives there."),
    ("Only a few people came to see us.", "Only few a people came to see us."),
    ("Her own mother did not know her.", "Own her mother did not know her."),
    ("Never have I seen such a mess.", "Never I have seen such a mess."),
    ("Both my brothers like to swim.", "My both brothers like to swim."),
    ("The water was far too cold.", "The water was too far cold."),
    ("Half the bread was eaten by mice.", "The half bread was eaten by mice."),
    ("It is not his fault at all.", "It is his not fault at all."),
    ("He can hardly walk any more.", "He can hardly any more walk."),
)
# subject and object form, a sentence with a gap for each
CASE = (
    ("he", "him", "{} knows the way to the lake.", "We followed {} to the lake."),
    ("she", "her", "When {} sings, the room is still.", "The whole room listened to {}."),
    ("they", "them", "If {} are hungry, ring the bell.", "You may give {} some bread."),
    ("we", "us", "{} waved from the bridge.", "Nobody on the bridge saw {}."),
    ("I", "me", "{} slept beside the dog.", "The dog lay down beside {}."),
    ("he", "him", "Last year {} left the village.", "No one has written to {} since."),
    ("she", "her", "Once more {} was late.", "Her father waited for {} all day."),
    ("they", "them", "At night {} were cold.", "My aunt lent {} a blanket."),
    ("we", "us", "Before dinner {} wash our hands.", "Every evening he reads to {}."),
    ("I", "me", "Now {} am too old for it.", "My sons help {} with the farm."),
)
# what cannot be counted, what can, and a sentence with a gap
QUANTITIES = (
    ("water", "cups", "There is not {} {} left in the kitchen."),
    ("money", "coins", "How {} {} did you find in the box?"),
    ("bread", "eggs", "They did not eat {} {} at breakfast."),
    ("snow", "storms", "We had {} {} last winter, as far as I recall."),
    ("time", "hours", "It took so {} {} that we went home."),
    ("furniture", "chairs", "She does not own {} {} any more."),
    ("luggage", "bags", "Why do you carry so {} {} with you?"),
    ("advice", "hints", "He gave me too {} {} before the race."),
    ("rice", "beans", "Do not put so {} {} on my plate."),
    ("traffic", "cars", "I have never seen so {} {} on this road."),
)


def items() -> Iterator[Item]:
    """Yield the pairs as items without a prompt, whose choices are whole sentences."""
    for phenomenon, pair in pairs():
        yield Item(phenomenon, "", pair, pair[0])


def pairs() -> Iterator[tuple[str, Pair]]:
    """Yield each minimal pair with the name of its phenomenon, twenty of each."""
    for one, many, single, plural, end in AGREEMENT:
        head, *rest = one.split(" ", 1)
        heads, *rests = many.split(" ", 1)
        # the noun between has the other number
        yield "agreement", _ended(f"The {head} {rests[0]}", single, plural, end)
        yield "agreement", _ended(f"The {heads} {rest[0]}", plural, single, end)
    for she, he, verb, end in REFLEXIVES:
        yield "reflexives", _ended(f"{she} {verb}", "herself", "himself", end)
        yield "reflexives", _ended(f"{he} {verb}", "himself", "herself", end)
    for i, (noun, nouns, frame) in enumerate(DETERMINERS):
        this, these = (("this", "these"), ("that", "those"))[i % 2]
        yield "determiners", (frame.format(f"{this} {noun}"), frame.format(f"{these} {noun}"))
        yield "determiners", (frame.format(f"{these} {nouns}"), frame.format(f"{this} {nouns}"))
    for frame in POLARITY:
        yield "polarity", (frame.format("No", "the"), frame.format("The", "no"))
    for knows, who, verb, what in QUESTIONS:
        clause = f"{who} {verb}"
        yield "questions", (f"{knows} that {clause} {what}.", f"{knows} what {clause} {what}.")
        yield "questions", (f"{knows} what {clause}.", f"{knows} that {clause}.")
    for alone, needs, who, what in TRANSITIVITY:
        yield "transitivity", (f"{who} {needs} {what}.", f"{who} {alone} {what}.")
        yield "transitivity", (f"Then {who.lower()} {alone}.", f"Then {who.lower()} {needs}.")
    for past, participle, who, what in PARTICIPLES:
        yield "participles", _ended(_capital(who), past, participle, f"{what} yesterday")
        yield "participles", _ended(f"{_capital(what)} was", participle, past, f"by {who}")
    for pair in WORD_ORDER:
        yield "word order", pair
    for subject, object_, of_subject, of_object in CASE:
        good, bad = of_subject.format(subject), of_subject.format(object_)
        yield "case", (_capital(good), _capital(bad))
        yield "case", (of_object.format(object_), of_object.format(subject))
    for mass, count, frame in QUANTITIES:
        yield "quantities", (frame.format("much", mass), frame.format("many", mass))
        frame = frame.replace("There is", "There are")
        yield "quantities", (frame.format("many", count), frame.format("much", count))


def _ended(start: str, good: str, bad: str, end: str) -> Pair:
    """Return a pair that differs in one word."""
    return f"{start} {good} {end}.", f"{start} {bad} {end}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
