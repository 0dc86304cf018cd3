"""Tables of records: JSON rows come back as they were, and other tools read the files as they
lie.
"""

import json
import math

import datasets
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from seqedit.base.paths import RESULTS
from seqedit.cli.main import app
from seqedit.study.collection import Collection, LabelledRun, write_collection
from seqedit.study.tables import join_layers, split_layers, to_rows, to_table, write_table

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
KINDS = {
    "whole": st.integers(-(2**63), 2**63 - 1),
    "part": NUMBERS | st.none(),
    "yes": st.booleans(),
    "text": st.text(st.characters(exclude_categories=["Cs"])),
    "each": st.lists(st.booleans()),
    "points": st.lists(st.lists(NUMBERS, min_size=2, max_size=2)),
    "ages": st.lists(st.fixed_dictionaries({"age": st.integers(0, 9), "share": NUMBERS})),
}
ROWS = st.lists(
    st.fixed_dictionaries(
        {"round": st.integers(0, 9)},
        optional=KINDS | {"inner": st.fixed_dictionaries({"a": NUMBERS}, optional={"b": NUMBERS})},
    ),
    min_size=1,
)


def text(rows) -> str:
    """Rows as JSON: unlike ==, it tells 1 from 1.0 and 0.0 from -0.0."""
    return json.dumps(rows, sort_keys=True)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_rows_come_back(rows):
    """Every bit of every number; null, and fields that a row lacks; lists and objects inside."""
    assert text(to_rows(to_table(rows))) == text(rows)


def test_order_of_fields():
    """A field that only some rows have keeps its place among the others."""
    rows = [{"a": 1, "c": 3}, {"a": 1, "b": {"x": 2}, "c": 3}, {"a": 1, "b": {"x": 2, "y": 3}}]
    assert json.dumps(to_rows(to_table(rows))) == json.dumps(rows)
    assert to_table(rows).column_names == ["a", "b.x", "b.y", "c"]


def test_null_and_nan():
    """What was not finite is NaN in the table; what was not measured is null."""
    column = to_table([{"x": None, "r": 0}, {"r": 1}, {"x": 0.5, "r": 2}])["x"]
    assert column.null_count == 1 and math.isnan(column[0].as_py())
    assert not column[1].is_valid and column[2].as_py() == 0.5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": 1}, {"x": 0.5}], "x: a column holds values of one kind, not float, int"),
        ([{"x": 1}, {"x": None}], "x: only a number with a fraction may be null, not int"),
        ([{"x.y": 1}], "'x.y': the name of a field must not hold a dot"),
        ([{"x": {}}], "x: an empty object has no place in a table"),
    ],
)
def test_what_a_table_cannot_hold(rows, message):
    with pytest.raises(ValueError, match=message):
        to_table(rows)


def test_rounds_and_layers():
    """A row for each layer, or one for a round without any."""
    rounds = [
        {"round": 0, "seconds": {"total": 0.5}, "layers": []},
        {
            "round": 1,
            "seconds": {"total": 0.25, "solve": 0.125},
            "layers": [{"layer": 3, "x": 1.0}],
        },
        {"round": 2, "seconds": {"total": 1.0}, "layers": [{"layer": 3}, {"layer": 4, "x": None}]},
    ]
    rows = to_rows(to_table(split_layers(rounds)))
    assert len(rows) == 4 and join_layers(rows) == rounds


@pytest.mark.parametrize("study", ["methods", "nse"])
def test_other_tools_read_the_tables(study, tmp_path):
    """pandas and datasets, offline; rows, columns and values agree with what `Collection` reads."""
    collection = Collection(RESULTS / study)
    name = collection.runs[-1]["run"]
    record = collection.rows(name)
    for table, rows in (
        ("rounds", split_layers(record.rounds)),
        ("scores", record.scores),
        ("outcomes", record.outcomes),
        ("runs", None),
    ):
        path = RESULTS / study / f"{table}.parquet"
        frame = pd.read_parquet(path)
        loaded = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path)
        )
        assert loaded.column_names == list(frame) and len(loaded) == len(frame)
        if rows is not None:
            own = loaded.filter(lambda row: row["run"] == name)
            assert len(own) == len(rows) == (frame["run"] == name).sum()
            for field, value in rows[-1].items():
                if isinstance(value, int | float | str):
                    assert own[-1][field] == value, field
    scores = pd.read_parquet(RESULTS / study / "scores.parquet")
    shares = scores.loc[scores["run"] == name, "edits.efficacy"]
    assert shares.tolist() == [row["edits"]["efficacy"] for row in record.scores]


def test_optional_columns(tmp_path):
    """A record may say more than another, for example of every prompt; the others then say nothing
    of it.
    """
    rows = Collection(RESULTS / "methods").rows("c585a53ecb87")
    more = json.loads(json.dumps(vars(rows)))
    more["run"]["parameters"]["seed"] = 9
    for i, outcome in enumerate(more["outcomes"]):
        outcome["paraphrase_correct"] = [i % 2 == 0, True]
    longer = type(rows)(**more)
    write_collection(tmp_path, [LabelledRun("a", rows), LabelledRun("b", longer)])
    found = Collection(tmp_path)
    assert [found.rows(row["run"]) for row in found.runs] == [rows, longer]
    frame = pd.read_parquet(tmp_path / "outcomes.parquet")
    assert frame["paraphrase_correct"].notna().sum() == len(rows.outcomes)


@pytest.mark.parametrize("place", ["rounds", "outcomes", "scores", "runs"])
def test_an_interrupted_collection_loses_nothing(place, tmp_path, monkeypatch):
    """runs.parquet comes last: killed at any file, the runs that it names have their rows."""
    methods = Collection(RESULTS / "methods")
    a, b = (LabelledRun(row["label"], methods.rows(row["run"])) for row in methods.runs[:2])
    write_collection(tmp_path, [a])

    def crashing(path, table):
        if path.stem == place:
            raise KeyboardInterrupt
        write_table(path, table)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("seqedit.study.collection.write_table", crashing)
        write_collection(tmp_path, [a, b])
    found = Collection(tmp_path)
    assert found.ids == {a.id} and found.rows(a.id) == a.rows
    write_collection(tmp_path, [a, b])
    assert Collection(tmp_path).rows(b.id) == b.rows


def test_commands(tmp_path):
    """List, export, compare: the exit code says whether anything differs; an error is one line."""

    def call(*words: str):
        return CliRunner().invoke(app, ["records", *words])

    listed = call("list", "methods").stdout
    assert "c585a53ecb87" in listed and "memit+null_space" not in listed and "(other)" in listed
    done = call("export", "methods", "--out", str(tmp_path / "csv"))
    assert (
        done.exit_code == 0 and len(done.stdout.splitlines()) == len([*tmp_path.glob("csv/*")]) == 4
    )
    same = call("compare", "methods", str(RESULTS / "methods"))
    assert same.exit_code == 0 and {line.split(": ")[1] for line in same.stdout.splitlines()} == {
        "identical"
    }
    other = call("compare", "methods", "horizon")
    assert other.exit_code == 1 and "only in horizon" in other.stdout
    runs = call("compare", "c585a53ecb87", "0c87f77cadb6")
    assert runs.exit_code == 1 and "fields differ" in runs.stdout
    wrong = call("list", "nosuch")
    assert wrong.exit_code == 1 and wrong.stderr.startswith("error: nosuch: there are no tables")
