"""Studies: which runs there are, that they are made once, collected into tables, and how they are
read.
"""

import json
import shutil
from dataclasses import fields, replace

import pytest
from workspace import few_texts

from seqedit.base.files import sha256, write_text
from seqedit.base.jsonl import read_jsonl
from seqedit.base.paths import DATA, FACTS, RESULTS
from seqedit.lm.registry import models_folder
from seqedit.methods.catalogue import CATALOGUE, make_method
from seqedit.runs.identity import run_id
from seqedit.runs.records import load_run, read_rows
from seqedit.runs.resolve import HYPER, TARGET_FILE
from seqedit.runs.settings import build_settings
from seqedit.study import run_study as plans
from seqedit.study.collection import Collection, find_collection
from seqedit.study.export import export_csv, list_runs
from seqedit.study.reproduce import compare_sides, remake
from seqedit.study.run_study import (
    collect,
    is_collected,
    load_study,
    missing_runs,
    run_study,
    study_status,
)
from seqedit.study.selection import identify, is_here, select_runs, study_runs
from seqedit.study.small_world import NOT_RUN
from seqedit.study.studies import STUDIES
from seqedit.study.study_run import EMBEDDED, StudyRun

FIRST_EDITION = {
    *("methods", "choices", "growth", "lifelong", "projection"),
    *("prune", "nse", "matters", "horizon"),
}
"""Studies whose tables were made with the requests, probes and settings of the first edition; the
same study is another run today. A study leaves this list when it is made again."""


def tuned() -> set[str]:
    """The methods whose settings are searched: those of the common table."""
    return {name for name, entry in CATALOGUE.items() if entry.search}


def test_every_run_of_a_study_can_be_made():
    """Methods compose, settings are known to them, and tuned settings are there."""
    for study in STUDIES:
        runs = study_runs(study)
        names = [(one.label, one.seed) for one in runs]
        assert len({*names}) == len(names)  # no label twice
        for one in (*runs, *study_runs(f"{study}-quick")):  # as a run refuses a sample of nothing
            assert one.evaluate_every or one.evaluate_sample is None
        for one in runs:
            make_method(one.method)
            build_settings(one.method, {"layers": [1]} | one.settings)
            if one.model == EMBEDDED:
                base = one.method.partition("+")[0]
                assert (HYPER / one.table / f"{base}.json").exists(), one.method
            else:  # prices by rule or given, see `seqedit.runs.resolve`
                assert (HYPER / one.model / TARGET_FILE).exists(), one.method
    left_out = {"memit_seq+prune_rounds+compensated"} | NOT_RUN
    searched = {name for name in tuned() if (HYPER / "shared" / f"{name}.search.json").exists()}
    assert {one.method for one in study_runs("methods")} == searched - left_out


def test_committed_tables_hold_the_runs_of_the_studies():
    """Their ids are those of today's studies, and each record's id is that of its own
    parameters.
    """
    for study in STUDIES:
        runs, rows = study_runs(study), Collection(RESULTS / study).runs
        here = all(map(is_here, runs))
        if here:
            assert is_collected(study) == (study not in FIRST_EDITION), study
        else:  # their ids cannot be known
            told = [(one.label, one.seed) for one in runs]
            assert [(row["label"], row["seed"]) for row in rows] == told
        for row in rows:
            assert row["run"] == run_id(json.loads(row["parameters"]))
        if here and study not in FIRST_EDITION:
            assert missing_runs([study]) == {}
    assert sum(path.stat().st_size for path in RESULTS.rglob("*")) < 8e6


def test_every_method_has_an_error_on_record():
    """`make errors` writes them; the book's table shows them."""
    found = json.loads((DATA / "errors.json").read_text())
    assert set(found) == tuned() and all(0 <= own["oracle"] < 1e-4 for own in found.values())


TWO = [StudyRun("a", "ultraedit", corpus_lines=20), StudyRun("b", "ft_m", {"steps": 3})]


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A study of two runs; results and working folders; runs are made in this process."""
    monkeypatch.setitem(STUDIES, "two", lambda: TWO)
    monkeypatch.setattr(plans, "worker_pool", Here)
    few_texts(monkeypatch)
    return {"results": tmp_path / "results", "work": tmp_path / "work"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of the two runs cut short, made once."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "two", lambda: TWO)
        few_texts(patch)
        for name, one in select_runs("two-quick").items():
            plans.make_run(one, folder / name)
    return folder


@pytest.fixture
def finished(two, made):
    """The study with both runs finished in its working folder."""
    shutil.copytree(made, two["work"])
    return two


def test_a_study(two):
    """Made once, collected, read back by label, its status told; a run that is missing is named."""
    results, work = two["results"], two["work"]
    with pytest.raises(
        ValueError,
        match="two-quick: a, seed 1, is not in the tables; "
        "make it with `seqedit study two --quick`",
    ):
        load_study("two-quick", results)
    with pytest.raises(ValueError, match="there is no finished run with this id"):
        collect("two-quick", **two)
    assert not (results / "two-quick").exists()
    assert run_study("two-quick", **two) == 2 and run_study("two-quick", **two) == 0
    (id_a, a), (id_b, _) = select_runs("two-quick").items()
    plans.make_run(a, work / id_a)  # another process that came too late
    found = load_study("two-quick", results)
    assert list(found) == ["a", "b"] and found["b"][0].run["method"] == "ft_m"
    assert {*found["a"][0].run["parameters"]["files"]} == {"requests", "corpus"}
    assert len(found["a"][0].outcomes) == 4 and not list(work.rglob("weights.safetensors"))
    assert study_status("two-quick", **two).startswith("2 of 2 runs, 0 by other code, ")
    assert study_status("two", **two) == "0 of 2 runs, 0 by other code, 0 minutes of one core"
    for run, label in ((id_a, "a"), (id_b, "b")):  # the tables say what the folders say
        assert Collection(results / "two-quick").rows(run) == read_rows(work / run)
        one, other = found[label][0], load_run(work / run)
        for name in ("rounds", "outcomes", "scores"):
            assert getattr(one, name).equals(getattr(other, name))
    with pytest.raises(ValueError, match="weights: the tables of a study hold no matrices"):
        found["a"][0].weights()


def test_a_study_again(finished):
    """Made once more, nothing differs; a changed record is found out, with and without making
    it.
    """
    results, work = finished["results"], finished["work"]
    run_study("two-quick", **finished)
    id_a, id_b = select_runs("two-quick")
    assert {str(one) for one in remake(["two-quick"], **finished).values()} == {"identical"}
    _tamper(work / id_b)
    collect("two-quick", results / "new", work)
    changed = "2 fields differ, the last shares at most 4.0 points (edits.efficacy_tokens)"
    other = {"results": results / "new", "work": work}
    assert {run: str(one) for run, one in remake([id_b], **other).items()} == {id_b: changed}
    sides = ("two-quick", str(results / "new" / "two-quick"))
    assert {run: str(one) for run, one in compare_sides(*sides, **finished).items()} == {
        id_a: "identical",
        id_b: changed,
    }
    assert [str(one) for one in compare_sides(str(work / id_b), id_b, **finished).values()] == [
        changed
    ]
    with pytest.raises(ValueError, match="compare two runs or two studies"):
        compare_sides(id_a, "two-quick", **finished)
    with pytest.raises(ValueError, match="nosuch: there is no"):
        compare_sides(id_a, "nosuch", **finished)
    with pytest.raises(
        ValueError,
        match=r"\(a, seed 1\) is not there to be compared with; make it with `seqedit study ",
    ):
        remake(["two"], **finished)


def test_a_study_that_changes(finished, monkeypatch):
    """Other parameters are another run: made anew, and never taken for the old one."""
    run_study("two-quick", **finished)
    before = {*select_runs("two-quick")}
    monkeypatch.setitem(STUDIES, "two", lambda: [StudyRun("a", "rome", corpus_lines=20)])
    with pytest.raises(
        ValueError,
        match="two-quick: a, seed 1, is there with method = ultraedit, now the study has rome",
    ):
        load_study("two-quick", finished["results"])
    assert not before & {*missing_runs(["two-quick"], **finished)} and not is_collected(
        "two-quick", finished["results"]
    )
    assert "0 of 1 runs, 0 by other code" in study_status("two-quick", **finished)
    assert "2 in the tables that the study no longer asks for" in study_status(
        "two-quick", **finished
    )
    with pytest.raises(ValueError, match="study: 'nosuch'; there are methods, .*, two"):
        select_runs("nosuch")
    with pytest.raises(ValueError, match="study: 'nosuch-quick'; there are methods, .*, two"):
        study_runs("nosuch-quick")


def test_adding_a_run_makes_one_run(finished, monkeypatch):
    """The records of the others are taken over as they are, also where their folders are gone."""
    results, work = finished["results"], finished["work"]
    run_study("two-quick", **finished)
    before = Collection(results / "two-quick")
    rows = {run: before.rows(run) for run in before.ids}
    for path in [path for path in work.rglob("*") if path.is_file()]:
        path.unlink()
    old = STUDIES["two"]()
    monkeypatch.setitem(STUDIES, "two", lambda: [StudyRun("new", "ft"), *old])
    assert run_study("two-quick", **finished) == 1
    after = Collection(results / "two-quick")
    assert [row["label"] for row in after.runs] == ["new", "a", "b"]
    assert all(after.rows(run) == kept for run, kept in rows.items())


def test_tables_for_people(finished, tmp_path):
    """The list names every run; the CSV files hold what the tables hold, lists as JSON."""
    run_study("two-quick", **finished)
    listed = list_runs("two-quick", finished["results"])
    assert list(listed["label"]) == ["a", "b"] and "other" not in " ".join(listed["code"])
    files = export_csv("two-quick", tmp_path / "csv", finished["results"])
    assert [path.name for path in files] == [
        "runs.csv",
        "rounds.csv",
        "scores.csv",
        "outcomes.csv",
        "probes.csv",
    ]
    import pandas as pd

    scores = pd.read_csv(files[2])
    record = Collection(finished["results"] / "two-quick").rows(scores["run"][0])
    assert json.loads(scores["retention"][0]) == record.scores[0]["retention"]
    assert scores["edits.efficacy"][0] == record.scores[0]["edits"]["efficacy"]
    with pytest.raises(ValueError, match="nosuch: there are no tables of such a study"):
        list_runs("nosuch", finished["results"])


def _tamper(folder):
    """A share of the last evaluation 4 points higher, a field of a round more, and other times."""
    rounds, scores = (read_jsonl(folder / name) for name in ("rounds.jsonl", "scores.jsonl"))
    rounds[-1]["new"], rounds[0]["seconds"] = None, {"total": 0.5}
    scores[-1]["edits"]["efficacy_tokens"] += 0.04
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name, rows in (("rounds", rounds), ("scores", scores)):
        path = folder / f"{name}.jsonl"
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        run["tables_sha256"][name] = sha256(path)  # as if the run had written them
    write_text(folder / "run.json", json.dumps(run))


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


def test_what_two_studies_share_is_one_run(two, tmp_path, monkeypatch):
    """It is made once and lies in the tables of both, under each study's own label."""
    shared = StudyRun("a", "ft", n_edits=3)
    monkeypatch.setitem(STUDIES, "first", lambda: [shared])
    monkeypatch.setitem(
        STUDIES, "second", lambda: [replace(shared, label="b"), replace(shared, seed=2)]
    )
    assert {*select_runs("first")} < {*select_runs("second")}
    assert {*select_runs("first-quick")} == {*select_runs("second-quick")}
    assert not {*select_runs("first")} & {*select_runs("first-quick")}
    assert run_study("first-quick", **two) == 1 and run_study("second-quick", **two) == 0
    left, right = (
        find_collection(two["results"] / name) for name in ("first-quick", "second-quick")
    )
    assert left.ids == right.ids and (left.runs[0]["label"], right.runs[0]["label"]) == ("a", "b")


def test_an_id_is_that_of_the_run_alone(monkeypatch):
    """Neither a study in front nor another order of studies and runs nor other labels changes an
    id.
    """
    before = {(one.label, one.seed): run for run, one in select_runs("prune").items()}
    studies = {"new": lambda: [StudyRun("x", "memit"), *study_runs("prune")[::-1]]} | dict(
        reversed(STUDIES.items())
    )
    prune = STUDIES["prune"]
    monkeypatch.setattr("seqedit.study.selection.STUDIES", studies)
    monkeypatch.setitem(studies, "prune", lambda: [*prune()][::-1])
    after = {(one.label, one.seed): run for run, one in select_runs("prune").items()}
    assert after == before and len(before) == 63
    one = StudyRun("a", "memit")
    assert identify(one) == identify(replace(one, label="other"))
    changes = {
        "method": "rome",
        "settings": {"clamp": 9},
        "n_edits": 7,
        "batch_size": 7,
    }
    changes |= {"seed": 7, "requests": "reversal.json", "evaluate_every": 7, "corpus_lines": 7}
    changes |= {"dtype": "bfloat16", "stream": "undone", "measures": ("negated",), "wild": True}
    elsewhere = {"label", "table", "model", "evaluate_sample"}
    assert elsewhere | set(changes) == {field.name for field in fields(StudyRun)}
    ids = {identify(replace(one, **{name: value})) for name, value in changes.items()}
    ids |= {identify(replace(one, evaluate_every=7, evaluate_sample=3))}
    assert len(ids) == len(changes) + 1 and identify(one) not in ids


def test_a_run_of_a_pretrained_model():
    """Its id needs the model; without it the message says how to get one."""
    one = StudyRun("a", "memit", model="smollm2-135m", requests="mcf-1000", n_edits=2)
    config = one.config()
    assert config.model == "smollm2-135m" and config.requests == "mcf-1000"
    assert config.kept == FACTS / "kept.jsonl"
    texts = [config.corpus, config.perplexity_text]
    assert [path.name for path in texts] == ["text-smollm2-135m.txt", "measured-smollm2-135m.txt"]
    assert all(len(path.read_text(encoding="utf-8")) > 10_000 for path in texts)
    if not (models_folder() / "smollm2-135m").is_dir():
        with pytest.raises(ValueError, match="`seqedit model get smollm2-135m` fetches it"):
            identify(one)
    assert not is_here(replace(one, model="nosuch")) and is_here(replace(one, model=EMBEDDED))


def test_a_run_has_names():
    """A single run is found by its id, and by study, label and seed."""
    (run,) = select_runs("methods-memit-s1")
    assert [*select_runs(run)] == [run]
    (quick,) = select_runs("methods-quick-memit-s1")
    assert [*select_runs(quick)] == [quick] != [run]
