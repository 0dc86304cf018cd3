"""Studies: which runs there are, that they are made once, and how they are read."""

import json

import pytest

from seqedit.base.jsonl import read_jsonl
from seqedit.base.paths import DATA
from seqedit.methods.catalogue import COMPOSED, METHODS, make_method
from seqedit.runs.settings import build_settings
from seqedit.study import run_study as plans
from seqedit.study.reproduce import repeat
from seqedit.study.run_study import (
    load_study,
    planned,
    run_study,
    standing,
)
from seqedit.study.studies import STUDIES, Planned


def test_every_planned_run_can_be_made():
    """Methods compose, settings are known to them, and tuned settings are there."""
    for study in STUDIES:
        runs = planned(study)
        names = [(one.label, one.seed) for one in STUDIES[study]()]
        assert len({*names}) == len(names)  # no label twice
        for one in runs.values():
            make_method(one.method)
            build_settings(one.method, {"layers": [1]} | one.settings)
            assert (DATA / "hyper" / f"{one.method.partition('+')[0]}.json").exists(), one.method
    assert {one.method for one in planned("methods").values()} == {*METHODS, *COMPOSED}


def test_every_method_has_an_error_on_record():
    """`make errors` writes them; the book's table shows them."""
    found = json.loads((DATA / "errors.json").read_text())
    assert set(found) == {*METHODS, *COMPOSED} and all(
        0 <= own["oracle"] < 1e-4 for own in found.values()
    )


def test_a_study(tmp_path, monkeypatch):
    """Made once, read back by label, its standing told; a run that is missing, or is of other dtype, is named."""
    monkeypatch.setitem(
        STUDIES,
        "two",
        lambda: [
            Planned("a", "ultraedit", corpus_lines=20, dtype="bfloat16"),
            Planned("b", "ft_m", {"steps": 3}),
        ],
    )
    with pytest.raises(
        ValueError, match="two-quick-a-s1 is not there; make it with `seqedit study two --quick`"
    ):
        load_study("two-quick", tmp_path)
    monkeypatch.setattr(plans, "ProcessPoolExecutor", Here)
    assert (
        run_study("two", quick=True, out=tmp_path) == 2
        and run_study("two", quick=True, out=tmp_path) == 0
    )
    plans._make(
        planned("two", True)["two-quick-a-s1"], tmp_path / "two-quick-a-s1"
    )  # a twin that came too late
    found = load_study("two-quick", tmp_path)
    assert list(found) == ["a", "b"] and found["b"][0].run["method"] == "ft_m"
    assert {*found["a"][0].run["parameters"]["files"]} == {"requests", "corpus"}
    assert len(found["a"][0].outcomes) == 4 and not list(tmp_path.rglob("weights.safetensors"))
    assert standing("two", True, tmp_path).startswith("2 of 2 runs, 0 by other code, ")
    assert standing("two", False, tmp_path) == "0 of 2 runs, 0 by other code, 0 minutes of one core"
    assert found["a"][0].run["parameters"]["dtype"] == "bfloat16"
    assert {str(one) for one in repeat(["two"], quick=True, out=tmp_path).values()} == {"identical"}
    _tamper(tmp_path / "two-quick-b-s1")
    told = {name: str(one) for name, one in repeat(["two"], quick=True, out=tmp_path).items()}
    assert told == {
        "two-quick-a-s1": "identical",
        "two-quick-b-s1": "2 fields differ, the last shares at most 4.0 points (edits.efficacy_tokens)",
    }
    with pytest.raises(
        ValueError,
        match="two-a-s1 is not there to be compared with; make it with `seqedit study two-",
    ):
        repeat(["two"], out=tmp_path)
    monkeypatch.setitem(STUDIES, "two", lambda: [Planned("a", "ultraedit", corpus_lines=20)])
    with pytest.raises(
        ValueError,
        match="two-quick-a-s1: is there with dtype = bfloat16, now its study has float32",
    ):
        run_study("two", quick=True, out=tmp_path)
    with pytest.raises(ValueError, match="study: 'nosuch'; there are methods, .*, two"):
        planned("nosuch")


def _tamper(folder):
    """A share of the last evaluation 4 points higher, a field of a round that says nothing, and other times."""
    rounds, scores = (read_jsonl(folder / name) for name in ("rounds.jsonl", "scores.jsonl"))
    rounds[-1]["new"], rounds[0]["seconds"] = None, {}
    scores[-1]["edits"]["efficacy_tokens"] += 0.04
    for name, rows in (("rounds.jsonl", rounds), ("scores.jsonl", scores)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


class Here:
    """An executor in this process."""

    def __init__(self, *arguments, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, call, *arguments):
        from concurrent.futures import Future

        done = Future()
        done.set_result(call(*arguments))
        return done


def test_what_two_studies_share_has_one_name(monkeypatch):
    """The first study's; labels stay each study's own."""
    monkeypatch.setitem(STUDIES, "first", lambda: [Planned("a", "rome", n_edits=3)])
    monkeypatch.setitem(
        STUDIES,
        "second",
        lambda: [Planned("b", "rome", n_edits=3), Planned("c", "rome", n_edits=2)],
    )
    assert {run_id: one.label for run_id, one in planned("second").items()} == {
        "first-a-s1": "b",
        "second-c-s1": "c",
    }
    assert {*planned("second", True)} == {*planned("first", True)}  # of one size, all are the same
