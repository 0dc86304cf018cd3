"""Metrics against a slow second implementation, one sequence at a time through the whole model, and
by hand.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SENTENCES
from torch.nn.functional import cross_entropy

from seqedit.evaluation import abilities
from seqedit.evaluation.abilities import answer_facts, perplexity, score_abilities
from seqedit.evaluation.continuations import exact_match, rate
from seqedit.evaluation.edits import retention, score_edits, summarise
from seqedit.evaluation.generation import generate
from seqedit.evaluation.report import evaluate, report_text
from seqedit.lm.weights import apply_update

LONG = "Autonomous University of Madrid, which is located in Spain, teaches"


def naive(lm, prompt: str, continuation: str) -> tuple[float, bool, int]:
    """Mean −log p of the continuation, whether each of its tokens is the best one, and the best
    first token.
    """
    start = lm.tokenizer(prompt)["input_ids"]
    end = lm.tokenizer(" " + continuation, add_special_tokens=False)["input_ids"]
    logits = lm.model(input_ids=torch.tensor([start + end]), use_cache=False).logits[
        0, len(start) - 1 : -1
    ]
    best = logits.argmax(-1).tolist()
    return cross_entropy(logits, torch.tensor(end)).item(), best == end, best[0]


def greedy(lm, prompt: str, tokens: int) -> str:
    """What the model itself says after `prompt`."""
    ids = lm.tokenizer(prompt)["input_ids"]
    for _ in range(tokens):
        ids = [
            *ids,
            lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item(),
        ]
    return lm.tokenizer.decode(ids)[len(prompt) :]


@pytest.fixture
def asked(requests):
    """Requests with prompts of all kinds and lengths.

    None, one, several; one without a true target.
    """
    hood = ("The mother tongue of André is", LONG, "I heard")
    return [
        replace(
            r,
            target_true=None if i == 2 else ("French", "the cello", "x", "Elvinn", "is", "polo")[i],
            paraphrase_prompts=(f"{LONG} {r.subject} is", f"{r.subject} likes")[: i % 3],
            neighborhood_prompts=() if i == 4 else hood[: 1 + i % 3],
            generation_prompts=("The old town",),
        )
        for i, r in enumerate(requests)
    ]


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_edit_metrics_equal_the_naive_ones(tiny_lm, asked, model_type):
    """Success compares mean −log p of new and true target, accuracy wants every token.

    Reversed for neighbours.
    """
    lm = tiny_lm(model_type)
    scores = score_edits(lm, asked)
    assert scores["case_id"].tolist() == [r.case_id for r in asked]
    for request, row in zip(asked, scores.to_dict("records"), strict=True):
        kinds = {
            "efficacy": [request.text],
            "paraphrase": request.paraphrase_prompts,
            "neighborhood": request.neighborhood_prompts,
        }
        for kind, prompts in kinds.items():
            success, accuracy = [], []
            for prompt in prompts:
                new = naive(lm, prompt, request.target_new)
                true = (
                    naive(lm, prompt, request.target_true)
                    if request.target_true
                    else (math.nan, math.nan, 0)
                )
                right = true if kind == "neighborhood" else new
                success.append(
                    math.nan
                    if request.target_true is None
                    else float((true[0] < new[0]) == (kind == "neighborhood"))
                )
                accuracy.append(float(right[1]))
            for name, values in ((kind, success), (kind + "_accuracy", accuracy)):
                expected = np.mean(values) if values else math.nan
                assert row[name] == pytest.approx(expected, abs=1e-12, nan_ok=True), (
                    request.case_id,
                    name,
                )
        assert row["probability"] == pytest.approx(
            math.exp(-naive(lm, request.text, request.target_new)[0]), rel=1e-4
        )


def test_nan_where_there_is_nothing_to_measure(tiny_lm, asked):
    """No true target: no success, accuracy of what is known; a mean leaves the record out."""
    scores = score_edits(tiny_lm("gpt2"), asked).set_index("case_id")
    assert scores.loc[2, ["efficacy", "neighborhood", "neighborhood_accuracy"]].isna().all()
    assert not math.isnan(scores.loc[2, "efficacy_accuracy"])
    assert math.isnan(scores.loc[0, "paraphrase"]) and math.isnan(scores.loc[4, "neighborhood"])
    summary = summarise(scores.reset_index())
    assert summary["efficacy"] == pytest.approx(
        np.mean([scores.loc[c, "efficacy"] for c in (0, 1, "3b", 4, 5)])
    )


def test_no_true_target_at_all(tiny_lm, requests):
    """Plain requests: everything but efficacy's accuracy is None in the report, which is valid
    JSON.
    """
    report = evaluate(tiny_lm("gpt2"), [replace(request, target_true=None) for request in requests])
    assert report["edits"]["n"] == 6 and 0 <= report["edits"]["efficacy_accuracy"] <= 1
    assert all(
        report["edits"][name] is None
        for name in ("efficacy", "paraphrase", "neighborhood", "score")
    )
    json.dumps(report, allow_nan=False)
    assert "–" in report_text(report)


def test_what_the_model_says_is_right(tiny_lm, requests):
    """Accuracy can be 1: the targets are the model's own greedy continuations."""
    lm = tiny_lm("gpt2")
    prompts = [r.text for r in requests]
    said = [greedy(lm, prompt, 3) for prompt in prompts]
    pairs = [
        (p, s[1:])
        for p, s in zip(prompts, said, strict=True)
        if s.startswith(" ") and s.strip() == s[1:]
    ]
    pairs += [(p, "chemist") for p in prompts]
    found = exact_match(lm, *zip(*pairs, strict=True))
    assert found.tolist() == [naive(lm, *pair)[1] for pair in pairs]


def test_attribute_prompts_are_measured_on_request(tiny_lm, asked):
    """The new object is right for other subjects that have it; other columns and the score stay."""
    lm = tiny_lm("gpt2")
    prompts = ("The mother tongue of André is", LONG)
    asked = [replace(r, attribute_prompts=prompts[: i % 3]) for i, r in enumerate(asked)]
    plain, scores = score_edits(lm, asked), score_edits(lm, asked, extra_kinds=["attribute"])
    added = [name for name in scores if name.startswith("attribute")]
    assert {"attribute", "attribute_accuracy", "attribute_outcomes"} <= set(added)
    pd.testing.assert_frame_equal(scores.drop(columns=added), plain)
    for request, row in zip(asked, scores.to_dict("records"), strict=True):
        new = [naive(lm, prompt, request.target_new) for prompt in request.attribute_prompts]
        expected = np.mean([right for _, right, _ in new]) if new else math.nan
        assert row["attribute_accuracy"] == pytest.approx(expected, nan_ok=True)
        if request.target_true is not None and new:
            true = [naive(lm, prompt, request.target_true) for prompt in request.attribute_prompts]
            success = [n[0] < t[0] for n, t in zip(new, true, strict=True)]
            assert row["attribute"] == pytest.approx(np.mean(success))
    assert summarise(scores)["score"] == summarise(plain)["score"]


def test_score_is_the_harmonic_mean():
    """3 / (1/1 + 1/0.5 + 1/0.25) = 3/7; 0 when one of them is 0."""
    scores = pd.DataFrame(
        {
            "case_id": [1, 2],
            "efficacy": [1.0, 1.0],
            "paraphrase": [0.0, 1.0],
            "neighborhood": [0.2, 0.3],
            "neighborhood_top": [[1], [2]],
        }
    )
    assert summarise(scores)["score"] == pytest.approx(3 / 7)
    assert summarise(scores.assign(paraphrase=0.0))["score"] == 0.0
    assert summarise(scores)["n"] == 2 and "neighborhood_top" not in summarise(scores)


def test_neighborhood_kept(tiny_lm, asked):
    """1 on the unchanged model; after an update, the share of prompts whose best next token is
    still the same.
    """
    lm = tiny_lm("gpt2")
    before = score_edits(lm, asked)
    kept = score_edits(lm, asked[::-1], unedited=before).set_index("case_id")["neighborhood_kept"]
    assert math.isnan(kept.pop(4)) and (kept == 1.0).all()
    prompts = [p for r in asked for p in r.neighborhood_prompts]
    old = {p: naive(lm, p, "x")[2] for p in prompts}
    W = lm.down_proj(1).weight.T
    apply_update(lm, 1, torch.randn(W.shape, generator=torch.Generator().manual_seed(0)))
    new = {p: naive(lm, p, "x")[2] for p in prompts}
    after = score_edits(lm, asked, unedited=before).set_index("case_id")["neighborhood_kept"]
    assert set(old.items()) != set(new.items())
    for request in asked:
        share = [old[p] == new[p] for p in request.neighborhood_prompts]
        assert after[request.case_id] == pytest.approx(
            np.mean(share) if share else math.nan, nan_ok=True
        )


def test_neighborhood_kept_needs_every_case(tiny_lm, asked):
    lm = tiny_lm("gpt2")
    with pytest.raises(ValueError, match="unedited: case_id '3b' was not measured"):
        score_edits(lm, asked, unedited=score_edits(lm, asked[:3]))


def test_retention_by_round_and_age():
    """Rounds 0, 0, 2, 2, 3 measured after round 3."""
    scores = pd.DataFrame(
        {"round": [0, 0, 2, 2, 3], "efficacy_accuracy": [1.0, 0.0, 1.0, 1.0, 0.0]}
    )
    assert retention(scores, 3).to_dict("records") == [
        {"round": 0, "age": 3, "accuracy": 0.5, "n": 2},
        {"round": 2, "age": 1, "accuracy": 1.0, "n": 2},
        {"round": 3, "age": 0, "accuracy": 0.0, "n": 1},
    ]


def test_perplexity_equals_the_naive_one(tiny_lm):
    """Every token but the first of each text, tokens weighing alike; batches do not matter."""
    lm = tiny_lm("gpt2")
    texts = [text[:60] for text in SENTENCES]
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor(lm.tokenizer(text)["input_ids"])
        logits = lm.model(input_ids=ids[None], use_cache=False).logits[0]
        total += cross_entropy(logits[:-1], ids[1:], reduction="sum").item()
        count += len(ids) - 1
    for budget in (1, 100, 10_000):
        assert perplexity(lm, texts, batch_tokens=budget) == pytest.approx(
            math.exp(total / count), rel=1e-5
        )


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neox"])
def test_padding_changes_nothing(tiny_lm, asked, model_type):
    """Each alone, two together, all together."""
    lm = tiny_lm(model_type)
    prompts = [p for r in asked for p in (r.text, *r.paraphrase_prompts, *r.neighborhood_prompts)]
    words = (["polo", "the café of the old town", "."] * len(prompts))[: len(prompts)]
    alone = rate(lm, prompts, words, batch_tokens=1)
    assert len({len(lm.tokenizer(p)["input_ids"]) for p in prompts}) > 5
    for budget in (60, 100_000):
        together = rate(lm, prompts, words, batch_tokens=budget)
        np.testing.assert_allclose(together.nll, alone.nll, rtol=1e-5)
        assert (together.top == alone.top).all() and (together.correct == alone.correct).all()


def test_bos_counts_once(tiny_lm):
    """A tokenizer that opens every text with BOS.

    It is read once, and its own probability is no part of anything.
    """
    bos, plain = tiny_lm("gpt2", bos=True), tiny_lm("gpt2")
    prompt, word = "The mother tongue of André is", "Dutch"
    ids = [0, *plain.tokenizer(f"{prompt} {word}")["input_ids"]]
    end = len(plain.tokenizer(" " + word)["input_ids"])
    logits = plain.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    told = cross_entropy(logits[-end - 1 : -1], torch.tensor(ids[-end:])).item()
    assert rate(bos, [prompt], [word]).nll[0] == pytest.approx(told, rel=1e-5)
    whole = cross_entropy(logits[:-1], torch.tensor(ids[1:])).exp().item()
    assert perplexity(bos, [f"{prompt} {word}"]) == pytest.approx(whole, rel=1e-5)
    (text,) = generate(bos, [prompt], torch.Generator().manual_seed(0), length=20)
    assert text.startswith(prompt) and "endoftext" not in text


def test_perplexity_of_long_texts(tiny_lm, monkeypatch):
    """A text with more tokens than positions is read in pieces; few logits at a time suffice."""
    lm = tiny_lm("gpt2")
    text = " ".join(SENTENCES * 40)
    ids = lm.tokenizer(text)["input_ids"]
    size = lm.max_positions
    assert len(ids) > 2 * size
    total, count = 0.0, 0
    for i in range(0, len(ids), size):
        piece = torch.tensor(ids[i : i + size])
        logits = lm.model(input_ids=piece[None], use_cache=False).logits[0]
        total += cross_entropy(logits[:-1], piece[1:], reduction="sum").item()
        count += len(piece) - 1
    whole = perplexity(lm, [text, ""])
    assert whole == pytest.approx(math.exp(total / count), rel=1e-5)
    monkeypatch.setattr(abilities, "LOGITS", 7 * lm.config.vocab_size)
    assert perplexity(lm, [text]) == pytest.approx(whole, rel=1e-5)


def test_abilities_are_shares_by_task(tiny_lm, tmp_path):
    """Shares by task over all tokens of the answer, and of unrelated facts."""
    lm = tiny_lm("gpt2")
    items = [("a", "The old town"), ("a", "I heard a"), ("b", LONG), ("b", "You are a")]
    rows = []
    for i, (task, prompt) in enumerate(items):
        word = (
            next(
                (
                    w
                    for w in lm.tokenizer.get_vocab()
                    if w.startswith("Ġ") and w[1:].isalpha() and naive(lm, prompt, w[1:])[1]
                ),
                None,
            )
            if i % 2
            else None
        )
        rows.append(
            {
                "task": task,
                "prompt": prompt,
                "answer": word[1:] if word else "chemist",
                "choices": None,
            }
        )
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "unrelated.jsonl").write_text(
        "".join(
            json.dumps({"prompt": row["prompt"], "target": row["answer"]}) + "\n" for row in rows
        )
    )
    (tmp_path / "heldout.txt").write_text("\n".join(text[:50] for text in SENTENCES) + "\n")
    right = [naive(lm, row["prompt"], row["answer"])[1] for row in rows]
    assert score_abilities(lm, tmp_path) == {"a": np.mean(right[:2]), "b": np.mean(right[2:])}
    assert answer_facts(lm, tmp_path / "unrelated.jsonl").tolist() == right


def test_report_has_a_section_for_each_argument(tiny_lm, asked, tmp_path):
    """Rounds, world and generator each add their section."""
    lm = tiny_lm("gpt2")
    (tmp_path / "tasks.jsonl").write_text(
        '{"task": "a", "prompt": "I heard", "answer": "a song", "choices": null}\n'
    )
    (tmp_path / "unrelated.jsonl").write_text('{"prompt": "I heard", "target": "a song"}\n')
    (tmp_path / "heldout.txt").write_text("I heard a song.\n")
    short = [replace(r, generation_prompts=()) if i else r for i, r in enumerate(asked)]
    report = evaluate(
        lm,
        short,
        rounds={r.case_id: i // 4 for i, r in enumerate(short)},
        world=tmp_path,
        generator=torch.Generator().manual_seed(0),
    )
    assert list(report) == [
        "edits",
        "retention",
        "abilities",
        "unrelated_facts",
        "perplexity",
        "answers",
        "fluency",
        "probes",
    ]
    known = round(report["unrelated_facts"])
    assert report["answers"] == {"unrelated_facts": str(known), "a": str(known)}
    assert [(row["round"], row["age"], row["n"]) for row in report["retention"]] == [
        (0, 1, 4),
        (1, 0, 2),
    ]
    json.dumps(report, allow_nan=False)
    text = report_text(report)
    assert "retention:" in text and "answers" not in text and "probes" not in text
    lm.model.get_submodule("transformer.ln_f").weight.fill_(float("inf"))  # broken beyond measure
    report = evaluate(lm, short, world=tmp_path)
    assert report["perplexity"] is None and report["edits"]["efficacy_accuracy"] == 0.0
    json.dumps(report, allow_nan=False)
    assert "perplexity" in report_text(report)
