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
    """Author and year, with a letter where two entries would read the same."""

    def format_labels(self, sorted_entries) -> Iterator[str]:
        plain = [label(entry) for entry in sorted_entries]
        count, seen = Counter(plain), Counter()
        for text in plain:
            letter = chr(ord("a") + seen[text]) if count[text] > 1 else ""
            seen[text] += 1
            yield text + letter


class AuthorYear(Style):
    """pybtex's plain style with these labels."""

    default_sorting_style = "author_year_title"
    default_label_style = Labels


def setup(app) -> dict:
    register_plugin("pybtex.style.formatting", "author_year", AuthorYear)
    return {"parallel_read_safe": True}
