"""Settings are searched alike for every method, on calibration facts only, and resumably."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workspace import RECORDS

from seqedit.base.paths import FACTS, WORLD
from seqedit.evaluation.edits import score_edits
from seqedit.lm.load import load_model
from seqedit.methods.catalogue import CATALOGUE
from seqedit.methods.ranges import EDGE, TARGET, Choice, Range
from seqedit.requests.published import load_requests
from seqedit.runs.presets import find_preset
from seqedit.runs.resolve import HYPER, TARGET_FILE
from seqedit.study import calibration
from seqedit.study import tune as module
from seqedit.study.calibration import KINDS, SUCCESS, Calibration, check_disjoint, shortest_target
from seqedit.study.real_models import LONG, SMOLLM2
from seqedit.study.search_space import search_space
from seqedit.study.tune import TRIALS, tune

FEW = Calibration(edits=4, batch_size=2)


@given(st.floats(0, 1), st.booleans(), st.sampled_from([0.0, 1.0]))
def test_places_in_a_range(place, log, above):
    """A value's place is that of the scale; its outer parts are the edges."""
    low, high = 0.01, 10.0
    value = low * (high / low) ** place if log else low + place * (high - low)
    one = Range(low + above, high + above, log=log, above=above, high_may_stay="it is the end")
    assert one.place(value + above) == pytest.approx(place, abs=1e-9)
    found = one.edge(value + above)
    if place < EDGE - 1e-9:
        assert found is not None and "lower end" in found
    elif place > 1 - EDGE + 1e-9:
        assert found is not None and found.endswith("it is the end")
    elif EDGE + 1e-9 < place < 1 - EDGE - 1e-9:
        assert found is None


@given(st.floats(0.001, 0.999), st.sampled_from([{}, {"above": 1.0}, {"below": 20.0}]))
def test_what_is_searched_gives_its_value_back(place, scale):
    """Also where a scale ends at a value: there its upper end is the finer one."""
    one = Range(1.5, 19.9, **scale)
    low, high = (one.searched(value) for value in (one.low, one.high))
    searched = low * (high / low) ** place
    assert one.searched(one.value(searched)) == pytest.approx(searched, rel=1e-12)
    assert one.low < one.value(searched) < one.high
    assert one.place(one.value(searched)) == pytest.approx(place, abs=1e-9)


def fake_quality(monkeypatch, best: float):
    """`judge` without a model: the best λ is known."""
    asked = []

    def judge(method, settings, calibration):
        asked.append(settings)
        quality = 1 / (1 + abs(math.log10(settings["lam"]) - best))
        return {"settings": dict(settings), "quality": quality}

    monkeypatch.setattr(module, "judge", judge)
    return asked


def shared_target(folder):
    values = {name: 1.0 for name in TARGET} | {"steps": 25, "weight_decay": 0.05}
    (folder / TARGET_FILE).write_text(json.dumps(values))
    return values


def search(tmp_path, trials, method="memit", calibration=FEW, **options):
    return tune(
        method,
        trials=trials,
        calibration=calibration,
        out=tmp_path,
        work=tmp_path / "work",
        say=lambda line: None,
        **options,
    )


def test_a_search_that_was_interrupted_finds_the_same(tmp_path, monkeypatch):
    """The trials of two halves are those of one search, and nothing is tried twice."""
    asked = fake_quality(monkeypatch, best=2.0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shared_target(tmp_path / folder)
    whole = search(tmp_path / "a", 9)
    search(tmp_path / "b", 4)
    halves = search(tmp_path / "b", 9)
    assert whole == halves and len(whole["trials"]) == 9 and len(asked) == 18
    shutil.rmtree(tmp_path / "a" / "work")  # as in a clone, which has the searches alone
    assert search(tmp_path / "a", 9) == whole and len(asked) == 18
    other = replace(FEW, edits=3)
    assert search(tmp_path / "a", 9, calibration=other) != whole and len(asked) == 27
    best = json.loads((tmp_path / "b" / "shared" / "memit.json").read_text())
    assert abs(math.log10(best["lam"]) - 2.0) < 0.5 and whole["edges"] == {}


def test_first_guesses_give_way_to_a_search_and_files_of_others_do_not(tmp_path, monkeypatch):
    """Settings that come along in the folder of the embedded model are replaced; others stay."""
    fake_quality(monkeypatch, best=2.0)
    shared_target(tmp_path)
    guess = tmp_path / "shared" / "memit.json"
    guess.parent.mkdir()
    guess.write_text('{"lam": 7}')
    with pytest.raises(ValueError, match="no search wrote it"):
        search(tmp_path, 1)
    assert guess.read_text() == '{"lam": 7}'
    monkeypatch.setattr(module, "HYPER", tmp_path)
    found = search(tmp_path, 1)
    assert json.loads(guess.read_text()) == found["trials"][0]["settings"]


def test_the_edge_of_a_range_is_reported(tmp_path, monkeypatch):
    """With the reason why it may stay, where there is one."""
    fake_quality(monkeypatch, best=-9.0)
    shared_target(tmp_path)
    found = search(tmp_path, 8)
    assert "lower end" in found["edges"]["lam"]
    assert CATALOGUE["memit"].search["lam"].low_may_stay in found["edges"]["lam"]


def test_the_shortest_target_within_one_standard_error():
    """Shares of 0.8 at 200 edits: the quality's standard error is 0.014."""

    def trial(quality, clamp):
        shares = dict.fromkeys((*KINDS, "kept_facts"), quality)
        return {"quality": quality, "settings": {"clamp": clamp}, **shares}

    trials = [trial(0.80, 2.0), trial(0.79, 1.0), trial(0.787, 0.9), trial(0.78, 0.5)]
    assert shortest_target(trials, 200)["settings"]["clamp"] == 0.9
    assert shortest_target(trials, 20)["settings"]["clamp"] == 0.5
    assert shortest_target(trials, 20_000)["settings"]["clamp"] == 2.0


def test_two_tables(tmp_path):
    """In "shared" the target's settings are the common ones, in "own" they are searched."""
    values = shared_target(tmp_path)
    ranges, fixed = search_space("memit", "shared", {}, tmp_path)
    assert set(ranges) == {"lam"} and values.items() <= fixed.items()
    ranges, fixed = search_space("memit", "own", {}, tmp_path)
    assert set(ranges) == {"lam", "lr", "clamp"} and "lr" not in fixed
    ranges, fixed = search_space("ft_m", "shared", {}, tmp_path)  # it has no targets
    assert "lr" in ranges
    ranges, fixed = search_space("memit", "shared", {"layers": [7], "lam": 3.0}, tmp_path)
    assert not ranges and fixed["layers"] == [7]


def test_layers_of_another_model(tmp_path):
    """The catalogue's are the embedded model's; the target's choice serves all but methods of a
    single layer, which try some depths; given ones stay.
    """
    ranges, fixed = search_space("target", "shared", {}, tmp_path, 30)
    assert ranges["layers"] == Choice(((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)))
    shared_target(tmp_path)
    assert search_space("memit", "shared", {}, tmp_path, 30)[1]["layers"] == (5, 6, 7, 8, 9)
    (tmp_path / TARGET_FILE).write_text(json.dumps(shared_target(tmp_path) | {"layers": [0, 1]}))
    assert search_space("memit", "shared", {}, tmp_path, 30)[1]["layers"] == [0, 1]
    for method in ("rome", "ft_m"):
        ranges, _ = search_space(method, "shared", {}, tmp_path, 30)
        assert ranges["layers"] == Choice(((3,), (6,), (9,), (15,), (21,)))
    assert search_space("in_context", "shared", {}, tmp_path, 30)[1]["layers"] == (0,)
    assert search_space("target", "shared", {"layers": [7]}, tmp_path, 30)[1]["layers"] == [7]
    assert Calibration().n_layers is None and Calibration(model="embedded").n_layers is None


def test_a_range_of_ones_own(tmp_path):
    """`low..high` gives a searched setting other ends; anything else is no range."""
    shared_target(tmp_path)
    ranges, fixed = search_space("memit", "shared", {"lam": "30..3e4"}, tmp_path)
    assert ranges == {"lam": Range(30.0, 3e4)} and "lam" not in fixed
    for name, text, message in (
        ("lam", "30..", "'30..' is no range; write it as 30..3000"),
        ("lam", "300..30", "the ends of 300..30 have to rise and lie in 0 … inf"),
        ("lam", "0..30", "the ends of 0..30 have to rise"),
        ("lam", "nan..30", "the ends of nan..30 have to rise"),
        ("lam", "3..inf", "the ends of 3..inf have to rise"),
        ("layers", "1..3", "layers: has no range that 1..3 could narrow"),
        ("lamm", "1..3", "lamm: has no range that 1..3 could narrow"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            search_space("memit", "shared", {name: text}, tmp_path)
    with pytest.raises(ValueError, match="lie in 1 … inf"):
        search_space("memit_prune", "shared", {"alpha": "0.5..2"}, tmp_path)


def test_a_composed_system_keeps_the_settings_of_its_method(tmp_path):
    shared_target(tmp_path)
    with pytest.raises(ValueError, match="alphaedit.json: not there yet; first `seqedit tune"):
        search_space("alphaedit+sphere", "shared", {}, tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "alphaedit.json").write_text('{"l2": 7.0, "lr": 0.5}')
    ranges, fixed = search_space("alphaedit+sphere", "shared", {}, tmp_path)
    assert set(ranges) == {"share", "strength"} and fixed == {"l2": 7.0, "lr": 0.5}


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="'grac' has no ranges to search; there are ranges for"):
        search(tmp_path, 1, method="grac")
    with pytest.raises(ValueError, match="first `seqedit tune target`"):
        search(tmp_path, 1)
    with pytest.raises(ValueError, match=r"the calibration edits .* and so do the results"):
        check_disjoint(Calibration(requests=WORLD / "records.json"), "world")
    check_disjoint(Calibration(), "world")


def test_a_trial_is_judged_by_calibration_probes(tmp_path):
    """Real trials on the embedded model; the same settings give the same figures."""
    shared_target(tmp_path)
    found = search(tmp_path, 2)
    for trial in found["trials"]:
        again = module.judge("memit", trial["settings"], FEW)
        assert again | {"seconds": 0} == trial | {"seconds": 0}
        shares = [trial[name] for name in (*KINDS, "kept_facts")]
        harmonic = len(shares) / sum(1 / max(share, 1e-3) for share in shares)
        assert trial["quality"] == pytest.approx(harmonic, abs=1e-3)


def test_other_models_are_judged_by_success_and_by_the_facts_they_say(
    tmp_path, tiny_folder, monkeypatch
):
    """Only facts that the unedited model says can be kept; one that says none cannot be judged."""
    requests, kept = tmp_path / "requests.json", tmp_path / "kept.jsonl"
    requests.write_text(json.dumps(RECORDS))
    kept.write_text("")
    facts = Calibration(model=str(tiny_folder), requests=requests, kept=kept, edits=2, batch_size=2)
    settings = {"layers": [1], "steps": 2, "lr": 1e-6, "clamp": 1e-6}  # next to no edit
    answers = iter([[True, True, False], [True, False, True]])
    monkeypatch.setattr(calibration, "answer_facts", lambda lm, path: np.array(next(answers)))
    found = calibration.judge("memit", settings, facts)
    scores = score_edits(load_model(tiny_folder), load_requests(requests)[:2])
    for kind, score in zip(KINDS, SUCCESS, strict=True):
        assert found[kind] == pytest.approx(scores[score].mean(), abs=1e-4, nan_ok=True), kind
    assert found["kept_facts"] == 0.5  # one of the two that were said before
    monkeypatch.setattr(calibration, "answer_facts", lambda lm, path: np.array([False]))
    with pytest.raises(ValueError, match="the model says none of the facts of"):
        calibration.judge("memit", settings, facts)


def test_the_calibration_of_facts_is_on_no_subject_of_theirs():
    """The subjects that trials edit are none of the results'."""
    facts = Calibration.of_facts("smollm2-135m")
    check_disjoint(facts, "facts")
    with pytest.raises(ValueError, match="and so do the results"):
        check_disjoint(replace(facts, requests=FACTS / "records.json"), "facts")


def searches():
    """Those on the embedded model."""
    return sorted(path for t in ("shared", "own") for path in (HYPER / t).glob("*.search.json"))


@pytest.mark.parametrize("path", searches(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_searches(path):
    """Every method had the same number of trials, at a horizon of 200 edits, and no value of the
    settings in use lies on an edge without a reason.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    assert len(found["trials"]) == (TRIALS if found["ranges"] else 1)
    assert found["edits"] >= 200
    best = max(trial["quality"] for trial in found["trials"])
    used = json.loads((path.parent / f"{found['method']}.json").read_text(encoding="utf-8"))
    target = json.loads((HYPER / TARGET_FILE).read_text(encoding="utf-8"))
    base = CATALOGUE[found["method"].partition("+")[0]].search
    shared = target if path.parent.name == "shared" and base.items() >= TARGET.items() else {}
    method, *after = found["method"].split("+")
    if after:  # it keeps the settings of its method, also if these were searched again since
        settings = json.loads((path.parent / f"{method}.json").read_text(encoding="utf-8"))
        shared = {name: settings[name] for name in settings if name not in found["ranges"]}
    assert used in [t["settings"] | shared for t in found["trials"] if t["quality"] == best]
    search = CATALOGUE[found["method"]].search
    for name in found["ranges"]:
        one = search[name]
        if isinstance(one, Choice):
            value = used[name]
            assert (tuple(value) if isinstance(value, list) else value) in one.values
        elif edge := one.edge(used[name]):
            assert ": " in edge, f"{path.stem}: {name} is {edge}, and nothing says that it may stay"
        assert (name in found["edges"]) == bool(isinstance(one, Range) and one.edge(used[name]))


@pytest.mark.parametrize(
    "path", sorted(HYPER.glob("*/target.search.json")), ids=lambda path: path.parent.name
)
def test_committed_searches_on_other_models(path):
    """Eight trials at least of a hundred edits; what they chose is used, lies on no edge, and is
    what the model's presets have.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    used = json.loads((path.parent / TARGET_FILE).read_text(encoding="utf-8"))
    best = shortest_target(found["trials"], found["edits"])["settings"]
    assert len(found["trials"]) >= 8 and found["edits"] >= 100 and not found["edges"]
    assert used == {name: best[name] for name in (*TARGET, "layers")}
    for method in ("memit", "alphaedit"):
        assert used.items() <= find_preset(method, path.parent.name).settings.items()


def test_committed_searches_for_long_runs():
    """Six trials each of two hundred edits in rounds of a hundred, with the targets that all share;
    what was chosen is used and lies on no edge."""
    target = json.loads((LONG.parent / TARGET_FILE).read_text(encoding="utf-8"))
    assert target == json.loads((HYPER / "smollm2-135m" / TARGET_FILE).read_text(encoding="utf-8"))
    for method in SMOLLM2:
        found = json.loads((LONG / f"{method}.search.json").read_text(encoding="utf-8"))
        used = json.loads((LONG / f"{method}.json").read_text(encoding="utf-8"))
        assert (len(found["trials"]), found["edits"], found["batch_size"]) == (6, 200, 100)
        assert used == max(found["trials"], key=lambda one: one["quality"])["settings"]
        assert not found["edges"] and target.items() <= used.items()


NOT_SEARCHED = {
    *("ft_m+averaged", "memit+iterated", "memit+neighbour_assisted+iterated"),
    *("rome+simie", "ft_m+simie", "mend+simie"),
}
"""Methods whose settings are first guesses, as `data/README.md` says; they leave when searched."""


def test_every_method_was_searched():
    """With shared targets, which the main tables use; a target was chosen for all of them."""
    names = {
        path.name.removesuffix(".search.json") for path in (HYPER / "shared").glob("*.search.*")
    }
    assert names == {name for name, entry in CATALOGUE.items() if entry.search} - NOT_SEARCHED
    assert all((HYPER / "shared" / f"{name}.json").exists() for name in NOT_SEARCHED)
    card = (HYPER.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in card for name in NOT_SEARCHED)
    target = json.loads((HYPER / "target.search.json").read_text(encoding="utf-8"))
    best = shortest_target(target["trials"], target["edits"])["settings"]
    chosen = json.loads((HYPER / TARGET_FILE).read_text(encoding="utf-8"))
    assert chosen == {name: best[name] for name in TARGET} and not target["edges"]
    for name in names:
        used = json.loads((HYPER / "shared" / f"{name}.json").read_text(encoding="utf-8"))
        if CATALOGUE[name.partition("+")[0]].search.items() >= TARGET.items():
            assert chosen.items() <= used.items(), name


@pytest.mark.parametrize("way", ["cut", "emptied", "changed", "of others"])
@pytest.mark.parametrize("name", ["memit.json", "trials"])
def test_damaged_files_of_a_search(tmp_path, monkeypatch, way, name):
    """Refused by name, and still there; without them the same settings are found again."""
    fake_quality(monkeypatch, best=2.0)
    shared_target(tmp_path)
    whole = search(tmp_path, 3)
    if name == "trials":
        (path,) = (tmp_path / "work").glob("*.trials.json")
        (tmp_path / "shared" / "memit.json").unlink()
    else:
        path = tmp_path / "shared" / name
    text = path.read_text()
    path.write_text(
        {
            "cut": text[: len(text) // 2],
            "emptied": "",
            "changed": text.replace("25", "26"),
            "of others": '{"a": [1]}',
        }[way]
    )
    damaged = path.read_text()
    with pytest.raises(ValueError, match=path.name):
        search(tmp_path, 3)
    assert path.read_text() == damaged
    path.unlink()
    assert search(tmp_path, 3) == whole and json.loads(path.read_text())
    assert json.loads((tmp_path / "shared" / "memit.json").read_text())


def test_a_damaged_record_of_a_search(tmp_path, monkeypatch):
    """Trials that lack what `judge` says."""
    fake_quality(monkeypatch, best=2.0)
    shared_target(tmp_path)
    search(tmp_path, 2)
    path = tmp_path / "shared" / "memit.search.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"trials": [1, 2]}))
    with pytest.raises(ValueError, match=r"memit.search.json: is damaged; remove it"):
        search(tmp_path, 2)
