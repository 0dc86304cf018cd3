"""One catalogue entry a method: all that commands, tests, settings and tables ask of it."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import docstring_parser

from ..editing.contract import EditMethod
from .ranges import Search

Constructor = Callable[..., EditMethod]
Make = TypeVar("Make", bound=Constructor)
Setting = float | int | str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method as the catalogue knows it.

    Attributes:
        name: what the command line calls it, e.g. ``memit`` or ``alphaedit+sphere``.
        make: its constructor, whose docstring has summary, formula, parameters and departures.
        source: paper and released code, with the code's licence.
        search: what is tried when settings are searched, see `seqedit.methods.ranges`.
        test: parameters that suit random models, whose second moments have eigenvalues around 1.
        colour: of its lines and points in figures.
        label: its name in figures where the method's own is too long.
        oracle: the tests that compare it with the paper's equations.
        ignored: fields of released configuration files that its released code never reads.
        fixed: field of a released configuration file → the only value that is honoured.
    """

    name: str
    make: Constructor
    source: str
    search: Search
    test: Mapping[str, Setting]
    colour: str
    label: str | None = None
    oracle: str = "test_methods.py::test_oracle_parity"
    ignored: frozenset[str] = frozenset({"mom2_adjustment"})
    fixed: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first sentence of the constructor's docstring, without its full stop."""
        return inspect.cleandoc(self.make.__doc__ or "").splitlines()[0].rstrip(".")

    @property
    def formula(self) -> str | None:
        """The update rule in LaTeX; None for a method without one."""
        found = re.search(
            r"\.\. math::\s*\n((?:[ \t]+\S.*\n?|\n)+)", inspect.cleandoc(self.make.__doc__ or "")
        )
        return " ".join(found[1].split()) if found else None

    @cached_property
    def parameters(self) -> dict[str, "Parameter"]:
        """The constructor's parameters in order."""
        described = {
            one.arg_name: " ".join((one.description or "").split())
            for one in docstring_parser.parse(self.make.__doc__ or "").params
        }
        return {
            name: Parameter(parameter.default, described.get(name, ""))
            for name, parameter in inspect.signature(self.make).parameters.items()
        }


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        default: the published value, where there is one.
        meaning: symbol, meaning and unit.
    """

    default: Setting
    meaning: str


ENTERED: dict[str, Entry] = {}
"""Entries of all files that were read so far, by name; `catalogue` puts them in order."""


def method(
    *,
    source: str,
    search: Search,
    test: Mapping[str, Setting],
    colour: str,
    name: str | None = None,
    **others: Any,
) -> Callable[[Make], Make]:
    """Enter a constructor into the catalogue.

    Args:
        name: the method's name in the catalogue; by default that of the constructor.
        others: optional fields of `Entry`, which describes the remaining arguments too.

    Raises:
        ValueError: the name is taken.
    """

    def enter(make: Make) -> Make:
        own = name or make.__name__
        if own in ENTERED:
            raise ValueError(f"{own!r} is in the catalogue already; give the method another name")
        ENTERED[own] = Entry(
            name=own, make=make, source=source, search=search, test=test, colour=colour, **others
        )
        return make

    return enter
