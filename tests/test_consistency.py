"""Consistency by hand, with CounterFact's schema of snippets and the embedded world's facts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from workspace import Workspace

from seqedit.base.paths import WORLD
from seqedit.evaluation.consistency import consistency, load_references
from seqedit.evaluation.report import evaluate
from seqedit.requests.published import load_requests
from seqedit.requests.request import parse_requests
from seqedit.world.vocabulary import SENTENCES

SNIPPETS = [
    {
        "relation_id": "P103",
        "target_id": "Q1",
        "samples": [{"text": "alpha beta"}, {"text": "beta", "name": "x"}],
    },
    {"relation_id": "P103", "target_id": "Dutch", "samples": [{"text": "gamma"}]},
    {"relation_id": "P9", "target_id": "Q1", "samples": []},
]


def request(case_id, target, relation="P103"):
    return parse_requests(
        [
            {
                "case_id": case_id,
                "requested_rewrite": {
                    "prompt": "{} speaks",
                    "subject": f"Ada {case_id}",
                    "target_new": target,
                    "relation_id": relation,
                },
            }
        ]
    )[0]


@pytest.fixture
def snippets(tmp_path):
    path = tmp_path / "attribute_snippets.json"
    path.write_text(json.dumps(SNIPPETS))
    return path


def test_references_are_found(snippets):
    """By the object's identifier and relation, else by its words; another relation has none."""
    references = load_references(snippets)
    assert references.for_request(request(0, {"str": "English", "id": "Q1"})) == [
        "alpha beta",
        "beta",
    ]
    assert references.for_request(request(1, "Dutch")) == ["gamma"]
    assert (
        references.for_request(request(2, {"str": "English", "id": "Q1"}, "P9"))
        == ()
        == references.for_request(request(3, "English"))
    )


def test_released_vocabulary(snippets):
    """With weights 1, 2, 3: (alpha 1, beta 2·2) · (alpha 1, beta 2) over their norms; other words
    count nothing.
    """
    folder = snippets.parent
    (folder / "tfidf_vocab.json").write_text(json.dumps({"alpha": 0, "beta": 1, "gamma": 2}))
    np.save(folder / "idf.npy", np.array([1.0, 2.0, 3.0]))
    references = load_references(snippets)
    assert references.vocabulary == "released"
    requests = [
        request(0, {"str": "English", "id": "Q1"}),
        request(1, "Dutch"),
        request(2, "Latin"),
    ]
    found, n = consistency(
        ["alpha", "beta unknown", "alpha", "gamma"], [0, 0, 1, 2], requests, references
    )
    expected = (1 * 1 + 2 * 4) / (np.hypot(1, 2) * np.hypot(1, 4))
    assert n == 2 and found == pytest.approx(expected / 2)  # Dutch: "alpha" against "gamma" is 0
    np.save(folder / "idf.npy", np.ones(7))
    with pytest.raises(ValueError, match="tfidf_vocab.json and idf.npy do not fit together"):
        load_references(snippets)


def test_the_same_text_is_consistent(snippets):
    references = load_references(snippets)
    assert references.vocabulary == "fitted"
    one = [request(0, {"str": "English", "id": "Q1"})]
    assert consistency(["beta beta", "alpha"], [0, 0], one, references) == (pytest.approx(1.0), 1)
    assert consistency(["gamma"], [0], one, references) == (pytest.approx(0.0), 1)
    assert consistency(["gamma"], [0], [request(0, "Latin")], references) == (None, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "cannot be read"),
        ('[{"relation_id": "P1"}]', "expected attribute_snippets.json's list"),
        ("[]", "holds no texts"),
        ("3", "expected attribute_snippets.json's list"),
    ],
)
def test_wrong_references(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"references: .*a.json:? ?{message}"):
        load_references(path)
    with pytest.raises(ValueError, match="nowhere.json cannot be read"):
        load_references(tmp_path / "nowhere.json")


def test_world_facts():
    """The corpus's own sentences about the new object are nearer to it than those about the old
    one.
    """
    references = load_references(WORLD / "facts.jsonl", SENTENCES)
    requests = [r for r in load_requests(WORLD / "records.json")[:40] if references.for_request(r)]
    assert len(requests) > 30
    swapped = [replace(r, target_new=r.target_true) for r in requests]
    texts = [references.for_request(r)[-1] for r in requests]
    owners = list(range(len(requests)))
    own, _ = consistency(texts, owners, requests, references)
    other, _ = consistency(texts, owners, swapped, references)
    assert own > other + 0.1


def test_report_with_and_without_references(tiny_lm, requests, snippets):
    """With references all generation prompts are continued, without them each request's first."""
    asked = [
        replace(r, relation_id="P103", generation_prompts=("The old town", "I heard"))
        for r in requests
    ]
    lm, references = tiny_lm("gpt2"), load_references(snippets)
    report = evaluate(lm, asked, generator=torch.Generator().manual_seed(0), references=references)
    assert 0 <= report["consistency"] <= 1 and report["consistency_n"] == 1  # "Dutch"
    assert "consistency" not in evaluate(lm, asked, generator=torch.Generator().manual_seed(0))


def test_score_command_with_references(tmp_path, tiny_folder, snippets, monkeypatch):
    """A run measures it at the end and keeps the checksum.

    Asked for without generated text it is refused.
    """
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    space = Workspace(tmp_path, tiny_folder)
    assert "ask for it with --fluency" in space.call(references=snippets).stderr
    assert space.call(references=snippets, fluency=True, n_edits=1).exit_code == 0
    record = json.loads((space.out / "run.json").read_text())
    assert len(record["parameters"]["files"]["references"]) == 16
    scores = json.loads((space.out / "scores.jsonl").read_text().splitlines()[-1])
    assert (
        scores["consistency"] is None and scores["consistency_n"] == 0
    )  # no relation in these records
