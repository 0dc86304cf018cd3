"""Facts that are never edited: how many of those that the unedited model says are kept."""

import json

import pytest
from conftest import SENTENCES

from seqedit.evaluation.abilities import answer_facts
from seqedit.evaluation.continuations import exact_match
from seqedit.lm.load import load_model
from seqedit.runs.checkpoint import put_weights
from seqedit.runs.engine import run
from seqedit.runs.records import load_run

PROMPTS = [text[:length] for text in SENTENCES for length in (5, 9, 14)]


@pytest.fixture
def facts(space):
    """Facts that the model says, and one that it does not."""
    lm = load_model(space.model, device="cpu")
    words = [word[1:] for word in lm.tokenizer.get_vocab() if word[0] == "Ġ" and word[1:].isalpha()]
    pairs = [(prompt.rstrip(), word) for prompt in dict.fromkeys(PROMPTS) for word in words]
    said = exact_match(lm, *zip(*pairs, strict=True))
    known = [pair for pair, right in zip(pairs, said, strict=True) if right]
    assert len(known) >= 2
    unknown = next(pair for pair, right in zip(pairs, said, strict=True) if not right)
    rows = [{"prompt": prompt, "target": word} for prompt, word in [*known, unknown]]
    return space.write("kept.jsonl", "\n".join(json.dumps(row) for row in rows))


def test_known_facts_are_followed(space, facts):
    """The record has, after each evaluation, what the edited model still says of what it knew."""
    strong = {"layers": [0, 1], "lam": 1e-3, "steps": 4, "lr": 3.0, "clamp": 30.0}
    config = space.config(kept=facts, settings=strong, evaluate_every=1)
    run(config, space.out)
    record = load_run(space.out)
    assert record.scores["known_facts"].tolist() == [len(facts.read_text().splitlines()) - 1] * 3
    lm = load_model(space.model, device="cpu")
    put_weights(lm, space.out)
    said = answer_facts(lm, facts)
    last = record.scores.iloc[-1]
    assert last["kept_facts"] == said[:-1].mean() < 1
    assert last["answers.kept_facts"] == "".join("01"[int(one)] for one in said)
    assert "kept" in record.run["parameters"]["files"]


def test_facts_about_an_edited_subject(space, facts):
    """Whatever the relation and the wording: they are left out and counted."""
    subject = json.loads((space.folder / "requests.json").read_text())[0]["subject"]
    known = len(facts.read_text().splitlines()) - 1
    first, *rest = facts.read_text().splitlines()
    about = json.loads(first) | {"prompt": f"Of {subject}, one"}
    near = json.loads(first) | {"prompt": f"Of {subject}ese"}  # another word
    facts = space.write("kept.jsonl", "\n".join([json.dumps(about), *rest, json.dumps(near)]))
    run(space.config(kept=facts), space.out)
    record = load_run(space.out)
    assert record.run["unedited"]["kept_left_out"] == 1
    lm = load_model(space.model, device="cpu")
    told = answer_facts(lm, facts)
    assert record.scores["known_facts"].iloc[-1] == told[1:].sum() >= known - 1


def test_without_a_file_nothing_is_measured(space):
    run(space.config(), space.out)
    record = load_run(space.out)
    assert "known_facts" not in record.scores and "kept" not in record.run["parameters"]["files"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no facts"),
        ('{"prompt": "I heard", "target": "it"}\n{"prompt": "Then"}', "fact 2: target has to be"),
        ('{"prompt": 3, "target": "it"}', "fact 1: prompt has to be a text, found 3"),
        ("no JSON", "line 1: not valid JSON"),
    ],
)
def test_a_wrong_file_is_refused_before_the_first_edit(space, content, words):
    path = space.write("kept.jsonl", content)
    with pytest.raises(ValueError, match=words):
        run(space.config(kept=path), space.out)
    assert not space.out.exists()
