"""The same edits by several methods, on one page."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner
from workspace import few_texts

from seqedit.cli.main import app
from seqedit.lm.default_layers import SPAN
from seqedit.lm.load import load_model
from seqedit.runs.config import RunConfig
from seqedit.runs.records import load_run
from seqedit.study.dtypes import MEASURES, Dtypes, compare_dtypes, edit_in_both
from seqedit.study.edited_depth import Depths, _ends, edit_at_depths
from seqedit.study.side_by_side import COLUMNS, write_page


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        few_texts(patch)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The command on the embedded model, and once more."""
    out = tmp_path_factory.mktemp("side-by-side") / "runs"
    words = ["side-by-side", "memit", "alphaedit", "--model", "embedded", "--requests", "world"]
    words += ["--n-edits", "4", "--batch-size", "2", "--shown", "3", "--out", str(out)]
    first = CliRunner().invoke(app, words)
    times = {p: p.stat().st_mtime_ns for p in out.glob("*/run.json")}
    again = CliRunner().invoke(app, words)
    return out, first, again, times


def test_table_and_page(made):
    """Each method's figures are those of its record, and those before are the unedited model's."""
    out, first, _, _ = made
    assert first.exit_code == 0, first.output
    lines = first.stdout.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines[1:4]}
    assert lines[0].split() == [*COLUMNS.values()]
    for method in ("memit", "alphaedit"):
        record = load_run(out / method)
        scores = record.scores.iloc[-1]
        assert float(table[method][0]) == round(100 * scores["edits.efficacy"], 1)
        assert float(table[method][4]) == round(100 * scores["wild.wild_bare_contains"], 1)
        before = record.run["unedited"]["efficacy"]
        assert float(table["before"][0]) == round(100 * before, 1)
    tables = json.loads((out / "index.json").read_text(encoding="utf-8"))
    assert tables["scores"]["memit"]["success"] == float(table["memit"][0])
    assert tables["scores"]["before"]["wild"] is None and len(tables["said"]) == 3
    assert tables["about"]["parameters"]["n_edits"] == 4 and set(tables["about"]["seconds"]) == {
        "memit",
        "alphaedit",
    }
    facts = pd.DataFrame(tables["facts"])
    assert list(facts.columns)[2:] == ["method", "before", "after 2", "after 4"]
    assert list(facts["method"]) == ["memit"] * 4 + ["alphaedit"] * 4
    for method in ("memit", "alphaedit"):  # the last answers are those of the finished run
        own = facts[facts["method"] == method]
        assert list(own["after 4"])[:3] == [row[method] for row in tables["said"]]
        assert list(own["before"])[:3] == [row["before"] for row in tables["said"]]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "4 edits of" in page and page.count("<table") == 2 and "<script" not in page
    said = page[page.index("What the model says") :]
    assert said.count("<tr") == 1 + 3  # the header and three prompts


def test_it_resumes(made):
    """Runs that are there are kept."""
    out, first, again, times = made
    assert again.exit_code == 0 and again.stdout == first.stdout
    assert times == {p: p.stat().st_mtime_ns for p in out.glob("*/run.json")}


def test_text_in_the_page_is_escaped(made, tmp_path):
    out = made[0]
    config = RunConfig(model="embedded", requests="world", method="memit", batch_size=2)
    said = pd.DataFrame({"prompt": ["<b>1 & 2</b>"], "before": ["<script>"]})
    write_page(tmp_path / "page.html", config, {"memit": load_run(out / "memit")}, said)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;1 &amp; 2" in page and "<script>" not in page


def test_a_wrong_method_is_refused_before_any_is_run(tmp_path):
    words = ["side-by-side", "memit", "alphedit", "--model", "embedded", "--requests", "world"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "runs")])
    assert done.exit_code == 1 and "alphedit" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_what_was_not_measured_and_what_is_not_in_the_weights(tmp_path):
    """Plain requests have no paraphrases; a codebook's edits are nothing that can be put back."""
    plain = [{"case_id": 1, "prompt": "{} plays", "subject": "Fafa Zornel", "target_new": "chess"}]
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    words = ["side-by-side", "grace", "--model", "embedded", "--n-edits", "1"]
    words += ["--requests", str(tmp_path / "plain.json"), "--out", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("grace"))
    assert row[2] == row[3] == "–"  # paraphrase and neighbourhood
    assert done.stdout.splitlines()[5].split()[-1] == "–"


def test_depths(tmp_path, tiny_folder, monkeypatch):
    """Groups of layers from the first possible to the last but one; each row is its run's."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    plain = [{"case_id": 1, "prompt": "{} plays", "subject": "Fafa Zornel", "target_new": "chess"}]
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    asked = Depths(
        model=str(tiny_folder), requests=str(tmp_path / "plain.json"), n_edits=1, windows=3
    )
    table = edit_at_depths(asked, tmp_path / "work")
    n_layers = load_model(tiny_folder).n_layers
    assert table["last"].tolist() == [*range(min(SPAN, n_layers - 1) - 1, n_layers - 1)]
    assert (table["depth"] == table["last"] / n_layers).all()
    for _, row in table.iterrows():
        record = load_run(tmp_path / "work" / f"layer-{row['last']}")
        assert record.run["parameters"]["layers"] == [*range(row["first"], row["last"] + 1)]
        assert row["exact"] == record.scores.iloc[-1]["edits.efficacy_accuracy"]


@pytest.mark.parametrize(
    ("n_layers", "windows", "ends"), [(30, 4, [4, 12, 20, 28]), (18, 1, [4]), (3, 5, [1])]
)
def test_ends_of_groups(n_layers, windows, ends):
    assert _ends(n_layers, windows) == ends


def test_both_types(tmp_path):
    """Each method with both types of weights, over the same orders; the table holds their means."""
    asked = Dtypes(model="embedded", requests="world", methods=("memit",), orders=2, n_edits=3)
    table = edit_in_both(asked, tmp_path).set_index("measure")
    runs = {out: load_run(out) for out in asked.runs(tmp_path)}
    assert len(runs) == 4 and list(table.index) == list(MEASURES)
    types = [record.run["parameters"].get("dtype", "float32") for record in runs.values()]
    assert types == ["float32", "bfloat16"] * 2
    for dtype in ("float32", "bfloat16"):
        ends = [r.scores.iloc[-1] for out, r in runs.items() if f"-{dtype}-" in out.name]
        for measure, column in (("efficacy", "efficacy"), ("exact", "efficacy_accuracy")):
            mean = 100 * sum(end[f"edits.{column}"] for end in ends) / 2
            assert table.loc[measure, dtype] == pytest.approx(mean)
    assert (table["low"] <= table["difference"]).all() and (
        table["difference"] <= table["high"]
    ).all()
    assert table["difference"].tolist() == pytest.approx(
        (table["bfloat16"] - table["float32"]).tolist()
    )


def test_types_that_agree_differ_by_nothing(tmp_path):
    """A run beside itself: the difference is 0, and its interval holds 0."""
    asked = Dtypes(model="embedded", requests="world", methods=("memit",), n_edits=3)
    edit_in_both(asked, tmp_path)
    own = load_run(tmp_path / "memit-float32-s1")
    table = compare_dtypes({("memit", dtype, 1): own for dtype in ("float32", "bfloat16")})
    assert (table["difference"] == 0).all()
    assert (table["low"] <= 0).all() and (table["high"] >= 0).all()
