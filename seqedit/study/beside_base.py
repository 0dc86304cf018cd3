"""Runs of a study beside one of them, their base: values, paired differences and verdicts."""

from collections.abc import Hashable, Mapping, Sequence

import pandas as pd

from ..runs.records import Record
from .statistics import Estimate, end_outcomes, mean_estimate, paired_estimate, probe_groups
from .verdicts import MARGIN, judge

PROBED = {"efficacy": "edits", "paraphrase": "paraphrases", "neighborhood": "neighbourhood"}
"""Kinds of probes → titles."""

KEPT = "unrelated facts"
"""The title of the facts that are never edited."""

MARKS = {
    name: f"\N{NARROW NO-BREAK SPACE}{mark}"
    for name, mark in {"higher": "▲", "lower": "▼", "equivalent": "≈"}.items()
} | {"undecided": ""}
"""Verdict → what stands behind a difference."""


def end_values(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """Title → what is right after the last round, exactly, of the runs of one label.

    Args:
        records: one for each order.

    Returns:
        Shares (orders, requests), and of unrelated facts 0 or 1 (orders, facts).
    """
    probes = {record.run["seed"]: record.probes for record in records}
    found = {title: end_outcomes(probes, kind, "exact") for kind, title in PROBED.items()}
    marks = {
        record.run["seed"]: [
            float(mark == "1") for mark in record.scores["answers.unrelated_facts"].iloc[-1]
        ]
        for record in records
    }
    return found | {KEPT: pd.DataFrame(marks).T}


def beside_base(
    runs: Mapping[str, Sequence[Record]], labels: Sequence[str], margin: float = MARGIN
) -> pd.DataFrame:
    """What runs reach, and how far each is from the first of them.

    Differences are paired by order and request, and are one family: p is corrected over all of
    them.

    Args:
        runs: label → its records, as `seqedit.study.run_study.load_study` returns them.
        labels: the base and the others.
        margin: of equivalence, in points.

    Returns:
        One row for each label and title: `value`, an `Estimate`, and for all but the base
        `difference`, another one, and `verdict`.

    Raises:
        ValueError: a label's runs have no requests in common with those of the base.
    """
    base, *others = labels
    values = {label: end_values(runs[label]) for label in labels}
    pools = probe_groups(runs[base][0].outcomes)
    groups = {title: None if title == KEPT else pools for title in values[base]}
    differences: dict[Hashable, Estimate] = {
        (label, title): paired_estimate(own, values[base][title], groups[title])
        for label in others
        for title, own in values[label].items()
    }
    judged = judge(differences, margin)
    rows = [
        {
            "label": label,
            "what": title,
            "value": mean_estimate(own, groups[title]),
            "difference": differences.get((label, title)),
            "verdict": None if label == base else judged.loc[(label, title), "verdict"],
        }
        for label in labels
        for title, own in values[label].items()
    ]
    return pd.DataFrame(rows).set_index(["label", "what"])


def as_text(found: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The result of `beside_base` as a table: the base's values, the others' differences.

    Args:
        found: as `beside_base` returns it.
        names: label → what is shown.
    """
    table = []
    for label, name in names.items():
        entry = {"": name}
        for title, row in found.loc[label].iterrows():
            difference = row["difference"]
            entry[str(title)] = (
                f"{row['value'].mean:.1f} ± {row['value'].half:.1f}"
                if difference is None
                else f"{difference.mean:+.1f} ± {difference.half:.1f}{MARKS[row['verdict']]}"
            )
        table.append(entry)
    return pd.DataFrame(table)
