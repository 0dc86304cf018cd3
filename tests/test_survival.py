"""Edits under fine-tuning: what is tuned, what is measured, and that nothing stays changed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SENTENCES, bits, build_lm, changed
from workspace import RECORDS

from seqedit.evaluation import survival as module
from seqedit.evaluation.abilities import perplexity
from seqedit.evaluation.edits import score_edits
from seqedit.evaluation.survival import chosen_parameters, neutral_texts, survival

MATRICES = {
    "gpt2": ("h.0.mlp.c_proj.weight", "h.1.mlp.c_proj.weight"),
    "llama": ("layers.0.mlp.down_proj.weight", "layers.1.mlp.down_proj.weight"),
}
"""Model type → ends of the names of the matrices of layers 0 and 1."""


def tune(lm, requests, **changes):
    given = {"steps": [2], "parameters": "all", "layers": (0, 1), "lr": 1e-2}
    return survival(lm, requests, SENTENCES, **given | changes)


@pytest.fixture
def seen(monkeypatch):
    """A function that tunes a model, and returns what had changed whenever it was measured."""

    def run(lm, requests, **changes):
        before, found = bits(lm), []

        def score(lm, requests):
            found.append(changed(lm, before))
            return score_edits(lm, requests)

        monkeypatch.setattr(module, "score_edits", score)
        tune(lm, requests, **changes)
        return found

    return run


def test_zero_steps(requests):
    """One row, which is the model's as it is."""
    lm = build_lm()
    before = bits(lm)
    (row,) = tune(lm, requests, steps=[0])
    frame = score_edits(lm, requests)
    assert row["steps"] == 0 and row["loss"] is None and not changed(lm, before)
    assert row["success"] == frame["efficacy"].mean() and row["success_kept"] == 1.0
    assert row["exact"] == frame["efficacy_accuracy"].mean()
    assert row["paraphrase"] is None  # these requests have no paraphrases


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
@pytest.mark.parametrize("parameters", ["all", "edited", "others"])
def test_what_is_tuned(seen, requests, model_type, parameters):
    """All parameters; the edited matrices alone; or all but these, which keep every bit."""
    lm = build_lm(model_type, tied=True)
    first, last = seen(lm, requests, parameters=parameters)
    edited = {name for name in lm.model.state_dict() if name.endswith(MATRICES[model_type])}
    others = set(lm.model.state_dict()) - edited
    assert first == set() and len(edited) == 2
    assert last == {"all": edited | others, "edited": edited, "others": others}[parameters]


@pytest.mark.parametrize("parameters", ["all", "edited", "others"])
def test_the_model_ends_as_it_was(requests, parameters):
    lm = build_lm()
    before = bits(lm)
    rows = tune(lm, requests, parameters=parameters, steps=[1, 3])
    assert [row["steps"] for row in rows] == [0, 1, 3] and not changed(lm, before)
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())


def test_the_model_ends_as_it_was_after_an_error(requests, monkeypatch):
    lm, calls = build_lm(), []
    before = bits(lm)

    def score(lm, requests):
        calls.append(changed(lm, before))
        if calls[-1]:
            raise KeyboardInterrupt
        return score_edits(lm, requests)

    monkeypatch.setattr(module, "score_edits", score)
    with pytest.raises(KeyboardInterrupt):
        tune(lm, requests)
    assert len(calls) == 2 and not changed(lm, before)


def test_lr_zero(seen, requests):
    """No step, no change, weight decay included."""
    assert seen(build_lm(), requests, lr=0.0, steps=[1, 5]) == [set(), set(), set()]


def test_loss_is_that_of_the_text(requests):
    """The first loss is the logarithm of the perplexity of the documents that are read.

    Relative 1e-5 allows for float32 sums in another order.
    """
    lm = build_lm()
    rows = tune(lm, requests, steps=[1], batch_size=len(SENTENCES))
    assert rows[1]["loss"] == pytest.approx(np.log(perplexity(lm, SENTENCES)), rel=1e-5)


def test_it_learns_the_text(requests):
    rows = tune(build_lm(), requests, steps=[5, 30], batch_size=len(SENTENCES))
    assert rows[2]["loss"] < rows[1]["loss"]


def test_seed(requests):
    """The same seed reads the same documents, another one reads others."""
    losses = [
        tune(build_lm(), requests, steps=[1], batch_size=1, seed=seed)[1]["loss"]
        for seed in (0, 0, 1, 2, 3)
    ]
    assert losses[0] == losses[1] and len(set(losses)) > 1


def test_every_document_is_read_before_one_is_read_again():
    batches = module._batches(SENTENCES, 2, seed=0)
    read = [text for _ in range(len(SENTENCES)) for text in next(batches)]
    half = len(SENTENCES)
    assert sorted(read[:half]) == sorted(read[half:]) == sorted(SENTENCES)


def test_share_that_is_kept(requests):
    """Tuned on the old facts until they are back, the model keeps no edit that was a success."""
    lm = build_lm()
    texts = [f"{r.text} {r.target_true}" for r in requests]
    given = {"parameters": "all", "layers": (0, 1), "lr": 1e-2}
    rows = survival(lm, requests, texts, steps=[60], **given)
    assert rows[0]["success"] > 0 and rows[0]["success_kept"] == 1.0
    assert rows[1]["success"] == rows[1]["success_kept"] == 0.0


def test_share_kept_of_nothing(requests):
    """Without true objects success cannot be measured, and is None."""
    alone = [replace(r, target_true=None) for r in requests]
    for row in tune(build_lm(), alone, steps=[1]):
        assert row["success"] is None and row["success_kept"] is None


def test_choices_share_out_the_parameters():
    """Edited and others are disjoint, and together all; tied embeddings count once."""
    lm = build_lm("llama", tied=True)
    found = {
        choice: {id(p) for p in chosen_parameters(lm, choice, (0, 2))}
        for choice in ("all", "edited", "others")
    }
    assert len(found["edited"]) == 2 and not found["edited"] & found["others"]
    assert found["all"] == found["edited"] | found["others"]
    assert len(chosen_parameters(lm, "all", (0,))) == len(found["all"])


def test_refusals(requests):
    lm = build_lm()
    with pytest.raises(ValueError, match="steps: -1 is negative"):
        tune(lm, requests, steps=[-1])
    with pytest.raises(ValueError, match="text: holds no document"):
        survival(lm, requests, [], steps=[1], parameters="all", layers=(0,))
    lm.model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="dtype: fine-tuning needs float32"):
        tune(lm, requests)


def test_neutral_texts(requests):
    texts = ["Of Gamith one hears", "Nothing of the kind", "", " ", "said André"]
    assert neutral_texts(texts, requests) == ["Nothing of the kind"]


# The command


@pytest.fixture
def space(space):
    space.write("text.txt", "The town is quiet.\nHuciol is a chemist.\nWe left it.\n")
    return space


def survive(space, **changes):
    given = {"edited": space.out, "requests": space.folder / "requests.json"}
    given |= {"text": space.folder / "text.txt", "steps": "0,2", "lr": 0.01}
    return space.call("survive", **given | changes)


def test_command(space):
    """A table, a JSON file with everything that decided it, and no file of the model changed."""
    assert space.call(stream="undone").exit_code == 0
    files = {path: path.read_bytes() for path in (*space.model.iterdir(), *space.out.iterdir())}
    out = space.folder / "new" / "survival.json"
    done = survive(space, out=out, parameters="others", seed=3)
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["steps", "0", "2"]
    assert "2 of 3 lines" in done.stderr
    report = json.loads(out.read_text())
    assert [row["steps"] for row in report["rows"]] == [0, 2]
    asked = {"parameters": "others", "lr": 0.01, "seed": 3, "documents": 2, "facts": len(RECORDS)}
    assert asked.items() <= report.items()
    assert all(path.read_bytes() == was for path, was in files.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": "0,-2"}, "--steps '0,-2': expected numbers"),
        ({"steps": "ten"}, "--steps 'ten'"),
        ({"text": None}, "text: name a text"),
        ({"requests": "world"}, "not what the run was made with"),
    ],
)
def test_wrong_input(space, changes, words):
    assert space.call().exit_code == 0
    out = space.folder / "new" / "survival.json"
    done = survive(space, out=out, **changes)
    assert done.exit_code == 1 and words in done.stderr and not out.parent.exists()
