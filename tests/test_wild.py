"""Evaluation in the wild: prompts, the judge by hand, and the commands that ask for it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from runs import method_and_plan
from workspace import RECORDS

from seqedit.editing.sequential import run_sequential
from seqedit.evaluation import wild
from seqedit.evaluation.generation import Answer, greedy_answers
from seqedit.evaluation.report import evaluate, report_text
from seqedit.evaluation.wild import (
    long_wild_prompts,
    normalised,
    score_wild,
    summarise_wild,
    wild_prompts,
)
from seqedit.lm.tokens import tokenise

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


@pytest.fixture
def asked(requests):
    """Two requests: one with a question and paraphrases, one with neither."""
    first = replace(
        requests[0],
        questions=("What does Danielle Darrieux speak?", "never"),
        paraphrase_prompts=("Danielle Darrieux speaks", "never"),
    )
    return [first, requests[1]]


def test_prompts(tiny_lm, asked):
    """The bare prompt, the released frame, the tokenizer's chat, and the first paraphrase."""
    lm = tiny_lm("gpt2", bos=True)
    assert "chat" not in wild_prompts(lm, asked)
    lm.tokenizer.chat_template = CHAT
    texts = {
        "bare": ["The mother tongue of Danielle Darrieux is", "Zoë O'Brien plays"],
        "question": [
            "Please answer the question:\n\nQ: What does Danielle Darrieux speak?\nA:",
            "Please answer the question:\n\nQ: Zoë O'Brien plays\nA:",
        ],
        "chat": [
            "<user>What does Danielle Darrieux speak?<answer>",
            "<user>Zoë O'Brien plays<answer>",
        ],
        "paraphrase": ["Danielle Darrieux speaks"],
    }
    expected = {kind: dict(enumerate(tokenise(lm, own).ids)) for kind, own in texts.items()}
    assert wild_prompts(lm, asked) == expected  # with one BOS each, in the chat too


def test_prompt_without_room_for_an_answer(tiny_lm, asked):
    """Left out and named; the other prompts of its request are measured. The frame is too long."""
    lm = tiny_lm("gpt2")
    fits = replace(asked[0], paraphrase_prompts=("I heard a song. " * 5,))
    assert long_wild_prompts(lm, [fits]) == []
    long = replace(asked[1], questions=fits.paraphrase_prompts)
    (message,) = long_wild_prompts(lm, [fits, long])
    assert message.startswith("case_id 1: question prompt in the wild: left out, because its ")
    assert message.endswith("64 positions")
    scores = score_wild(lm, [fits, long], new_tokens=2, texts=True)
    assert scores["wild_question_left_out"].tolist() == [0, 1]
    assert scores["wild_bare_left_out"].tolist() == [0, 0]
    np.testing.assert_equal(scores["wild_paraphrase_left_out"].tolist(), [0, math.nan])
    others = [f"wild_question_{what}" for what in ("exact", "contains", "ended", "text")]
    assert scores.loc[1, others].isna().all() and scores.loc[0, others].notna().all()
    assert scores.loc[1, "wild_bare_ended"] in (0, 1)
    alone = score_wild(lm, [fits], new_tokens=2)
    summary = summarise_wild(scores)
    assert summary["wild_question_left_out"] == 0.5
    assert summary["wild_question_ended"] == alone.loc[0, "wild_question_ended"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The U.S. of A ", "us of"),
        ("An apple,\ta day!", "apple day"),
        ("O'Brien-Smith", "obriensmith"),  # deleted, not replaced by a space
        ("theory and another", "theory and another"),
        ("Łódź", "łódź"),
        ("The", ""),
    ],
)
def test_normalised(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("answer", "target", "exact", "contains"),
    [
        ("the Dutch", "Dutch", 1, 1),
        ("Dutch and Dutch", "Dutch", 0, 1),
        ("dutchman", "Dutch", 0, 0),  # whole words only
        ("a language of New York", "new york.", 0, 1),
        ("York New", "New York", 0, 0),
        ("", "Dutch", 0, 0),
        ("", ".", math.nan, math.nan),
        ("the", "A", math.nan, math.nan),
    ],
)
def test_judge(tiny_lm, requests, monkeypatch, answer, target, exact, contains):
    """Equality and whole words after normalisation; no verdict where the target normalises away."""
    monkeypatch.setattr(wild, "greedy_answers", lambda *_, **__: [Answer(answer, True)])
    request = replace(requests[0], target_new=target, paraphrase_prompts=("Yes",))
    (row,) = score_wild(tiny_lm("gpt2"), [request]).to_dict("records")
    for kind in ("bare", "question", "paraphrase"):
        found = row[f"wild_{kind}_exact"], row[f"wild_{kind}_contains"]
        np.testing.assert_equal(found, (exact, contains))
        assert row[f"wild_{kind}_ended"] == 1


def test_scores(tiny_lm, asked):
    """One row per request, NaN without a prompt of a kind; the model's own answer is right."""
    lm = tiny_lm("gpt2")
    ids = wild_prompts(lm, asked)
    said = greedy_answers(lm, [ids["bare"][1], ids["question"][1]], new_tokens=5)
    own = [asked[0], replace(asked[1], target_new=said[0].text)]
    assert normalised(said[0].text)
    scores = score_wild(lm, own, new_tokens=5, texts=True)
    assert list(scores.columns) == ["case_id"] + [
        f"wild_{kind}_{what}"
        for kind in ("bare", "question", "paraphrase")
        for what in ("exact", "contains", "ended", "text", "left_out")
    ]
    assert scores["case_id"].tolist() == [0, 1]
    second = scores.iloc[1]
    assert (second["wild_bare_exact"], second["wild_bare_contains"]) == (1, 1)
    assert (second["wild_bare_text"], second["wild_question_text"]) == (said[0].text, said[1].text)
    assert second["wild_question_ended"] == said[1].ended
    assert second.filter(like="paraphrase").isna().all()
    summary = summarise_wild(scores)
    assert summary["wild_bare_exact"] == scores["wild_bare_exact"].mean()
    assert summary["wild_paraphrase_ended"] == scores["wild_paraphrase_ended"][0]
    assert not any("text" in name for name in summary)


def test_section_of_the_report(tiny_lm, requests):
    """Only where it is asked for; None, not NaN, where no request has a prompt of a kind."""
    lm = tiny_lm("gpt2")
    assert "wild" not in evaluate(lm, requests)
    report = evaluate(lm, requests, wild=True)
    assert report["wild"]["wild_paraphrase_exact"] is None
    assert 0 <= report["wild"]["wild_bare_contains"] <= 1
    json.dumps(report, allow_nan=False)
    assert "wild_bare_contains" in report_text(report)


def test_an_edit_is_seen_in_the_wild(tiny_lm, requests):
    """Fine-tuning until the target is most probable: every answer then begins with it."""
    lm = tiny_lm("gpt2")
    method, plan = method_and_plan(lm, "ft_m")
    method = replace(method, steps=200, lr=1e-2, stop_loss=0.01)
    own = requests[:2]
    assert summarise_wild(score_wild(lm, own))["wild_bare_contains"] == 0
    list(run_sequential(lm, [own], method, plan))
    scores = score_wild(lm, own, texts=True)
    for text, request in zip(scores["wild_bare_text"], own, strict=True):
        assert text.startswith(request.target_new), text


def test_commands(space):
    """`edit --wild` measures at the end only and says so; `score --wild` finds the same."""
    result = space.call(wild=True, evaluate_every=1)
    assert result.exit_code == 0 and "wild_bare_contains 0." in result.stdout, result.output
    rows = [json.loads(line) for line in (space.out / "scores.jsonl").read_text().splitlines()]
    assert ["wild" in row for row in rows] == [False, False, True]
    assert json.loads((space.out / "run.json").read_text())["parameters"]["wild"] is True
    given = {"edited": space.out, "requests": space.folder / "requests.json"}
    result = space.call("score", **given, wild=True)
    assert result.exit_code == 0 and "wild_bare_ended" in result.stderr
    assert json.loads(result.stdout)["wild"] == rows[-1]["wild"]
    assert "wild" not in json.loads(space.call("score", **given).stdout)


def test_run_without_it_is_the_run_of_before(space):
    """Parameters, and with them the run's id, do not mention what was not asked for."""
    assert space.call(n_edits=1).exit_code == 0
    parameters = json.loads((space.out / "run.json").read_text())["parameters"]
    assert "wild" not in parameters and "target_end" not in parameters["target"]


def test_too_long_a_question_costs_itself(space):
    """The frame makes it too long for the model, whose positions the bare question fits."""
    long = {"questions": ["I heard a song. " * 5]}
    space.write("requests.json", [RECORDS[0] | long, *RECORDS[1:]])
    for command in ("edit", "score"):
        given = {"requests": space.folder / "requests.json"}
        if command == "score":
            given["edited"] = space.out
        result = space.call(command, **given, wild=True)
        said = " ".join(result.output.split())
        assert result.exit_code == 0, said
        assert "1 probes are too long for the model. The first: case_id 0: question prompt" in said
    run = json.loads((space.out / "run.json").read_text())
    assert run["long_probes"]["count"] == 1 and run["n_edits"] == len(RECORDS)
    last = json.loads((space.out / "scores.jsonl").read_text().splitlines()[-1])
    assert last["wild"]["wild_question_left_out"] == 1 / len(RECORDS)
    assert space.call("edit", wild=True).exit_code == 0  # the finished run is the same one


def test_too_long_a_prompt_after_the_edit_costs_itself(space):
    """It fits by itself, but not after the edited fact as a sentence."""
    long = {"neighborhood_prompts": ["I heard a song. " * 5 + "The town is", "The town is"]}
    path = space.write("own.json", [RECORDS[0] | long, *RECORDS[1:]])
    result = space.call(requests=path, measures="neighborhood_plus")
    said = " ".join(result.output.split())
    assert result.exit_code == 0, said
    assert "1 probes are too long for the model. The first: case_id 0: neighborhood_plus[0]" in said
    rows = [json.loads(line) for line in (space.out / "probes.jsonl").read_text().splitlines()]
    (own,) = [row for row in rows if row["case_id"] == 0]
    assert "." not in own["neighborhood"] and own["neighborhood_plus"][0] == "."
    assert own["neighborhood_plus"][1] != "."
    again = space.call("score", edited=space.out, requests=path, measures="neighborhood_plus")
    assert again.exit_code == 0 and "1 probes are too long" in again.output
    plain = space.call(requests=path, out=space.folder / "plain")
    assert plain.exit_code == 0 and "too long" not in plain.output


def test_facts_that_are_too_long(space):
    """Facts of which it is measured how many are kept: refused before anything is edited."""
    long = json.dumps({"prompt": "I heard a song. " * 20, "target": "x"})
    result = space.call(kept=space.write("kept.jsonl", long))
    assert result.exit_code == 1 and "positions; shorten it" in result.stderr
    assert not (space.out / "weights.safetensors").exists()
