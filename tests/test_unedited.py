"""What is measured before the first edit is measured once for runs that begin alike, and anew for
all others.
"""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from seqedit.evaluation.edits import score_edits
from seqedit.lm.weights import apply_update, read_weight
from seqedit.requests.record import Probe
from seqedit.runs import baseline, unedited
from seqedit.runs.baseline import measure_baseline
from seqedit.runs.unedited import unedited_scores


@pytest.fixture(autouse=True)
def nothing_measured(tmp_path, monkeypatch):
    """An empty cache on disk, and none in memory."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(baseline, "_MEASURED", {})


def test_runs_that_begin_alike_share_it(tiny_lm, requests):
    """The same object for an equal model, and what is scored without sharing; other requests or
    weights: anew.
    """
    lm = tiny_lm()
    first = measure_baseline(lm, requests, None, None)
    assert measure_baseline(tiny_lm(), requests, None, None) is first and first.states is None
    pd.testing.assert_frame_equal(first.scores, score_edits(tiny_lm(), requests), check_exact=True)
    others = [measure_baseline(lm, requests[::-1], None, None)]
    apply_update(lm, 0, torch.ones_like(read_weight(lm, 0)))
    others.append(measure_baseline(lm, requests, None, None))
    assert all(other is not first for other in others) and others[0] is not others[1]
    assert not others[1].scores["probability"].equals(first.scores["probability"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_number_formats_are_told_apart(tiny_lm, requests, dtype):
    measure_baseline(tiny_lm(), requests, None, None)
    lm = tiny_lm()
    lm.model.to(dtype)
    measure_baseline(lm, requests, None, None)
    assert len(baseline._MEASURED) == (1 if dtype is torch.float32 else 2)


@pytest.fixture
def asked(requests):
    """Requests with neighbours and probes, some without."""
    hood = ("The mother tongue of André is", "I heard")
    probes = (Probe("A teacher in the town likes", "the old café"), Probe("I heard a", "song"))
    return [
        replace(r, neighborhood_prompts=hood[: i % 3], locality=probes[: (i + 1) % 3])
        for i, r in enumerate(requests)
    ]


@pytest.fixture
def calls(monkeypatch):
    """How many requests each call of `score_edits` measures."""
    counts: list[int] = []

    def counted(lm, requests, **options):
        counts.append(len(requests))
        return score_edits(lm, requests, **options)

    monkeypatch.setattr(unedited, "score_edits", counted)
    return counts


def only_file(tmp_path):
    (path,) = (tmp_path / "cache").glob("unedited-*.json")
    return path


def test_scores_are_found_on_disk(tiny_lm, asked, calls, tmp_path):
    """A second process does not run the model, gets every number to the last bit, and what it gets
    serves as `unedited`.
    """
    first = unedited_scores(tiny_lm(), asked)
    lm = tiny_lm()
    lm.model.forward = lm.model.base_model.forward = None  # cannot run
    again = unedited_scores(lm, asked)
    assert calls == [6] and only_file(tmp_path).exists()
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    measured = score_edits(tiny_lm(), asked, unedited=first)
    numbers = first.select_dtypes("number").columns
    pd.testing.assert_frame_equal(again[numbers], measured[numbers], check_exact=True)
    assert measured["neighborhood_kept"].dropna().eq(1).all()
    assert measured["locality_unedited"].dropna().eq(1).all()


def test_what_is_different_is_measured(tiny_lm, asked, calls, monkeypatch):
    """Another model, number format, attention, order, prompt or measuring code."""
    unedited_scores(tiny_lm(), asked)
    unedited_scores(tiny_lm(seed=1), asked)
    half = tiny_lm()
    half.model.to(torch.bfloat16)
    unedited_scores(half, asked)
    eager = tiny_lm()
    eager.model.set_attn_implementation("eager")
    unedited_scores(eager, asked)
    unedited_scores(tiny_lm(), asked[::-1])
    unedited_scores(tiny_lm(), asked[:5])
    unedited_scores(tiny_lm(), [replace(asked[0], paraphrase_prompts=("I",)), *asked[1:]])
    monkeypatch.setattr(unedited, "_code_of_measures", lambda: "other code")
    unedited_scores(tiny_lm(), asked)
    assert calls == [6, 6, 6, 6, 6, 5, 6, 6]
    unedited_scores(tiny_lm(), asked)
    assert len(calls) == 8


def shortened(text: str) -> str:
    return text[: len(text) // 2]


def with_another_number(text: str) -> str:
    content = json.loads(text)
    content["scores"]["probability"][0] += 1e-6
    return json.dumps(content)


@pytest.mark.parametrize("damage", [shortened, with_another_number, lambda text: "[]"])
def test_damaged_file_is_measured_anew(tiny_lm, asked, calls, tmp_path, damage):
    """With a remark that names it; the file is whole again afterwards."""
    said: list[str] = []
    first = unedited_scores(tiny_lm(), asked, say=said.append)
    path = only_file(tmp_path)
    whole = path.read_text()
    path.write_text(damage(whole))
    again = unedited_scores(tiny_lm(), asked, say=said.append)
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    assert said == [f"{path} is damaged; the unedited model is measured anew"]
    assert path.read_text() == whole and calls == [6, 6]
