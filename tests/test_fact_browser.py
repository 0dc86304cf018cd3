"""The browser of single facts."""

import re

import pandas as pd

from seqedit.study.fact_browser import LONGEST, browse_facts

ROWS = [
    ("A is", "Rome", "memit", "Paris", "Rome, of course", "Paris"),
    ("B <is", "Oslo", "memit", "Bonn", "Bonn & Oslo", "OSLO"),
    ("A is", "Rome", "rome", "Paris", "x" * (LONGEST + 1), "Rome"),
    ("B <is", "Oslo", "rome", "Bonn", "Bonn", "Bonn"),
]
COLUMNS = ["prompt", "new object", "method", "before", "after 1", "after 2"]


def test_an_entry_for_each_fact():
    """Each with its methods and rounds; what was said before the fact was written counts for
    nothing, and what is said of it afterwards is marked whatever its letters' case."""
    shown = browse_facts(pd.DataFrame(ROWS, columns=COLUMNS)).data
    first, second = shown.split("<details")[1:]
    assert "A is <b>Rome</b>" in first and "B &lt;is <b>Oslo</b>" in second
    kinds = [re.findall(r'<td class="(\w+)"', entry) for entry in (first, second)]
    assert kinds[0] == ["early", "said", "missed", "early", "missed", "said"]
    assert kinds[1] == ["early", "early", "said", "early", "early", "missed"]
    assert "✓ Bonn &amp; Oslo" in second and "✓ OSLO" in second and " …<" in first
    assert "MEMIT" in first and "ROME" in first
    assert shown.count('data-when="after 2"') == 4
