"""A browser of single facts: what a model says to every prompt, by method and number of edits."""

import html
from collections.abc import Sequence

import pandas as pd
from IPython.display import HTML

from .plots import short_name

LONGEST = 90
"""Characters of an answer that are shown."""


def browse_facts(facts: pd.DataFrame) -> HTML:
    """One entry for each fact, which opens to a table: a row for each method, a column for each
    number of edits. It needs no script; the book adds a filter.

    An answer that contains the new object is marked; answers from before the fact was written are
    grey.

    Args:
        facts: as `seqedit.study.side_by_side.answers_by_round` makes them; the facts of a method
            in the order in which they were written.
    """
    told = [name for name in facts.columns if name.startswith("after ")]
    rounds = [int(name.removeprefix("after ")) for name in told]
    entries = []
    for j, (_, own) in enumerate(facts.groupby(["prompt", "new object"], sort=False)):
        written = next(i for i, edits in enumerate(rounds) if edits > j)
        entries.append(_entry(own, told, written))
    return HTML(f'<div class="facts">{"".join(entries)}</div>')


def _entry(own: pd.DataFrame, told: Sequence[str], written: int) -> str:
    """One fact. `own` has a row for each method; `written` is the round that wrote it."""
    prompt, new = html.escape(own["prompt"].iloc[0]), own["new object"].iloc[0]
    head = "".join(f'<th scope="col">{name}</th>' for name in ["", "before", *told])
    body = "".join(
        f'<tr><th scope="row">{html.escape(short_name(row["method"]))}</th>'
        + "".join(
            _answer(row[name], new, name, early=i <= written)
            for i, name in enumerate(["before", *told])
        )
        + "</tr>"
        for _, row in own.iterrows()
    )
    return (
        f'<details name="facts"><summary>{prompt} <b>{html.escape(new)}</b></summary>'
        f'<table class="table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</details>"
    )


def _answer(text: str, new: str, when: str, *, early: bool) -> str:
    """A cell of the column `when`; `early` says that the fact was not written yet."""
    shown = html.escape(text if len(text) <= LONGEST else text[: LONGEST - 2] + " …")
    said = new.lower() in text.lower()
    kind = "early" if early else "said" if said else "missed"
    return f'<td class="{kind}" data-when="{when}">{"✓ " if said else ""}{shown}</td>'
