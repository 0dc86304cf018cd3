"""All methods by name, and what may follow a name: ``memit``, ``memit+with_history+prune``.

Every method is a function with a docstring, entered into `CATALOGUE` by the decorator above it. The
functions are in the files beside this one, from `rome` to `grace`. Systems of the literature that
are a method with something after it are in `composed`.
"""

import inspect
from collections.abc import Iterator

from ..editing.contract import EditMethod
from . import (
    alphaedit,
    breadth_first,
    composed,
    curvature,
    fine_tuned,
    from_gradients,
    grace,
    in_context,
    memit,
    nse,
    recursive,
    rome,
    stableedit,
)
from .combinators import COMBINATORS
from .entry import ENTERED, Constructor, Entry, Setting

_FILES = (
    *(rome, memit, recursive, alphaedit, nse, from_gradients, stableedit),
    *(fine_tuned, breadth_first, curvature, grace, in_context, composed),
)

CATALOGUE: dict[str, Entry] = {
    name: entry
    for file in _FILES
    for name, entry in ENTERED.items()
    if entry.make.__module__ == file.__name__
}
"""Entries by name, in the order in which tables list them."""

METHODS: dict[str, Constructor] = {
    name: entry.make for name, entry in CATALOGUE.items() if "+" not in name
}
"""Constructors by the name that the command line and the chapters use."""

COMPOSED: dict[str, Entry] = {name: entry for name, entry in CATALOGUE.items() if "+" in name}
"""Systems of the literature that are a method with something after it."""

SHORT = {"rect": "memit_rect", "prune": "memit_prune"}
"""What the field calls a restraint on MEMIT when it names no base."""


def canonical(name: str) -> str:
    """The name under which a method is entered: ``rect`` is ``memit_rect``."""
    base, plus, rest = name.partition("+")
    return SHORT.get(base, base) + plus + rest


def base_entry(name: str) -> Entry:
    """The entry of the method before the first "+" of a name.

    Raises:
        ValueError: there is no such method; the message lists those there are.
    """
    base = canonical(name).partition("+")[0]
    if base not in METHODS:
        raise ValueError(f"no method named {base!r}; known are {', '.join(METHODS)}")
    return CATALOGUE[base]


def method_parameters(name: str) -> dict[str, Setting]:
    """The parameters that a method takes, those of its combinators included, with their defaults.

    Raises:
        ValueError: no such method or combinator, or two of them take a parameter of the same name;
            the message lists those there are.
    """
    parameters: dict[str, Setting] = {}
    for part, make in _parts(name):
        own = {
            p.name: p.default
            for p in inspect.signature(make).parameters.values()
            if p.name != "base"
        }
        if shared := sorted(own.keys() & parameters):
            raise ValueError(
                f"{name}: {part} takes {', '.join(shared)}, as another part does; "
                "compose them in Python"
            )
        parameters |= own
    return parameters


def make_method(name: str, **parameters: Setting) -> EditMethod:
    """A method by name, such as ``memit`` or ``memit+with_history+prune``.

    Raises:
        ValueError: no such method, or it takes no such parameter; the message lists the known ones.
    """
    known = method_parameters(name)
    for parameter in parameters:
        if parameter not in known:
            taken = ", ".join(known) if known else "none"
            raise ValueError(f"{name} has no parameter {parameter!r}; it takes {taken}")
    (_, make), *after = _parts(name)
    method = make(**_own(make, parameters))
    for _, combine in after:
        method = combine(method, **_own(combine, parameters))
    return method


def _own(make: Constructor, parameters: dict[str, Setting]) -> dict[str, Setting]:
    """Those of the parameters that a constructor or combinator takes."""
    return {
        name: parameters[name] for name in inspect.signature(make).parameters if name in parameters
    }


def _parts(name: str) -> Iterator[tuple[str, Constructor]]:
    """Name and constructor of the method, then name and combinator of each part after it."""
    base, *combinators = canonical(name).split("+")
    if base not in METHODS:
        raise ValueError(f"no method named {base!r}; known are {', '.join(METHODS)}")
    for part in combinators:
        if part not in COMBINATORS:
            raise ValueError(
                f"{name}: nothing named {part!r} follows a method; known are "
                f"{', '.join(COMBINATORS)}"
            )
    yield base, METHODS[base]
    for part in combinators:
        yield part, COMBINATORS[part]
