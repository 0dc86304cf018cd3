"""Sphinx extension: the bibliography is labelled as the text cites, "Fang et al., 2025"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle


def label(entry) -> str:
    """Family names of one or two authors, or of the first of several, and the year."""
    people = entry.persons.get("author", [])
    names = [" ".join([*person.prelast_names, *person.last_names]) for person in people]
    several = len(names) > 2 or names[-1] == "others"
    who = f"{names[0]} et al." if several else " and ".join(names)
    return f"{who}, {entry.fields['year']}".replace("{", "").replace("}", "")


class Labels(BaseLabelStyle):
    """Author and year. Where two entries would read the same, their years need letters, 2024a and
    2024b, which the text then shows, too.

    Raises:
        ValueError: two entries read the same.
    """

    def format_labels(self, sorted_entries) -> Iterator[str]:
        plain = [label(entry) for entry in sorted_entries]
        if twice := [text for text, count in Counter(plain).items() if count > 1]:
            raise ValueError(
                f"references.bib: two entries read {twice[0]!r}; put letters after their years, "
                "such as 2024a and 2024b"
            )
        yield from plain


class AuthorYear(Style):
    """pybtex's plain style with these labels."""

    default_sorting_style = "author_year_title"
    default_label_style = Labels


def setup(app) -> dict:
    register_plugin("pybtex.style.formatting", "author_year", AuthorYear)
    return {"parallel_read_safe": True}
