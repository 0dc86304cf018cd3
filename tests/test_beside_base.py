"""Runs beside their base: values are the records', differences are paired, marks say verdicts."""

import numpy as np
import pandas as pd
import pytest

from seqedit.runs.records import Record
from seqedit.study.beside_base import KEPT, PROBED, as_text, beside_base, end_values
from seqedit.study.run_study import load_study

N = 200


def record(right: np.ndarray, seed: int = 1, pool: list[int] | None = None) -> Record:
    """A record of N requests, of which all probes are right where `right` is true."""
    marks = np.where(right, "3", "0")
    probes = pd.DataFrame({"round": 0, "case_id": range(N)} | dict.fromkeys(PROBED, marks))
    scores = pd.DataFrame({"answers.unrelated_facts": ["".join(np.where(right, "1", "0"))]})
    outcomes = pd.DataFrame({"case_id": range(N), "pool": pool or range(N)})
    return Record({"seed": seed}, pd.DataFrame(), outcomes, scores, probes)


def test_differences_and_verdicts():
    """One run is as good as the base, one has 60 of 200 fewer, one 60 more; a fourth trades 15
    requests for 14 others, which shows nothing.
    """
    base, place = np.arange(N) < 100, np.arange(N)
    traded = base ^ ((place >= 86) & (place < 115))
    runs = {
        "base": [record(base)],
        "same": [record(base)],
        "worse": [record(place < 40)],
        "better": [record(place < 160)],
        "traded": [record(traded)],
    }
    found = beside_base(runs, [*runs])
    wanted = {"worse": (-30, "lower"), "better": (30, "higher"), "traded": (0.5, "undecided")}
    for title in (*PROBED.values(), KEPT):
        assert found.loc[("base", title), "value"].mean == 50
        assert found.loc[("base", title), "difference"] is None
        for label, (mean, verdict) in wanted.items():
            row = found.loc[(label, title)]
            assert row["difference"].mean == pytest.approx(mean) and row["verdict"] == verdict
            assert row["value"].mean == pytest.approx(50 + mean)
        assert found.loc[("same", title), "verdict"] == "equivalent"
    text = as_text(found, {label: label.upper() for label in runs}).set_index("")
    assert text.loc["BASE", "edits"].startswith("50.0 ± ")
    marks = {label: text.loc[label.upper(), "edits"][-1] for label in ("same", "worse", "better")}
    assert marks == {"same": "≈", "worse": "▼", "better": "▲"}
    assert text.loc["TRADED", "edits"][-1].isdigit()


def test_requests_that_share_neighbours_are_drawn_together():
    """All requests of a pool fail together: fewer things happened than there are requests."""
    rng, pool = np.random.default_rng(0), [i // 10 for i in range(N)]
    right = np.repeat(rng.random(N // 10) < 0.5, 10)
    base = np.arange(N) < 100
    alone, pooled = (
        beside_base({"a": [record(base, pool=one)], "b": [record(right)]}, ["a", "b"])
        for one in (None, pool)
    )
    alone, pooled = (one.loc[("b", "neighbourhood"), "value"] for one in (alone, pooled))
    assert pooled.mean == alone.mean and pooled.half > 2 * alone.half


def test_committed_records():
    """Means are those of the evaluations in the same records, over one order and over three."""
    for study, label in (("instrument", "memit"), ("pilot", "memit_seq")):
        records = load_study(study)[label]
        values = end_values(records)
        for title, column in (
            *((title, f"edits.{kind}_accuracy") for kind, title in PROBED.items()),
            (KEPT, "unrelated_facts"),
        ):
            told = [record.scores[column].iloc[-1] for record in records]
            assert values[title].shape[0] == len(records)
            # shares of prompts in the records, means over requests here: pools differ in size
            assert values[title].mean(axis=1).to_numpy() == pytest.approx(told, abs=0.01), title
