"""One item of a task."""

from typing import NamedTuple


class Item(NamedTuple):
    """A prompt, the continuations to choose from, and the right one of them.

    Attributes:
        kind: of the item within its task: phenomenon, subject, relation.
        prompt: what stands before each choice; empty if the choices are whole sentences.
        choices: continuations, without the space before them.
        right: the right one.
    """

    kind: str
    prompt: str
    choices: tuple[str, ...]
    right: str
