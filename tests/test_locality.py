"""ZsRE's and KnowEdit's measures.

Token accuracy, exact match, locality by gold and by the unedited model.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_evaluation import LONG

from seqedit.evaluation.edits import score_edits, summarise
from seqedit.evaluation.locality import _rate_answers, score_probes
from seqedit.evaluation.probes import EditedFacts
from seqedit.lm.weights import apply_update, read_weight
from seqedit.requests.record import Probe

LOCALITY = (Probe("I heard a", "song"), Probe(LONG, "architecture and law"))
PORTABILITY = (Probe("The old town is", "quiet"),)


@pytest.fixture
def asked(requests):
    """Two localities, one, none; one portability each."""
    return [
        replace(
            r, locality=LOCALITY[: 2 - i % 3], portability=PORTABILITY, paraphrase_prompts=(LONG,)
        )
        for i, r in enumerate(requests)
    ]


def by_hand(lm, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """The answer's tokens and the most probable ones at their places.

    The whole text read once, from one BOS.
    """
    start = lm.tokenizer(prompt)["input_ids"]
    told = lm.tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
    assert 0 not in told and start.count(0) == (lm.tokenizer("a")["input_ids"][0] == 0)
    logits = lm.model(input_ids=torch.tensor([start + told]), use_cache=False).logits[
        0, len(start) - 1 : -1
    ]
    return told, logits.argmax(-1).tolist()


def shares(lm, pairs) -> tuple[float, float]:
    """Mean token accuracy and exact match."""
    found = [np.equal(*by_hand(lm, *pair[:2])) for pair in pairs]
    return (
        (np.mean([row.mean() for row in found]), np.mean([row.all() for row in found]))
        if found
        else (math.nan,) * 2
    )


def make_it_say(lm, word: str):
    """The model's head, changed so that the word's first token is always the most probable one."""
    token = lm.tokenizer(" " + word, add_special_tokens=False)["input_ids"][0]
    lm.model.transformer.ln_f.weight.zero_()
    lm.model.transformer.ln_f.bias.fill_(1.0)
    lm.model.lm_head.weight[token] = 1.0 + lm.model.lm_head.weight.abs().max()
    return lm


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_against_one_sequence_at_a_time(tiny_lm, asked, model_type, bos):
    lm = tiny_lm(model_type, bos=bos)
    scores = score_edits(lm, asked)
    for request, row in zip(asked, scores.to_dict("records"), strict=True):
        for pairs, tokens, exact in (
            ([(request.text, request.target_new)], "efficacy_tokens", "efficacy_accuracy"),
            ([(LONG, request.target_new)], "paraphrase_tokens", "paraphrase_accuracy"),
            (request.locality, "locality_gold", "locality_gold_accuracy"),
            (request.portability, "portability", "portability_accuracy"),
        ):
            assert (row[tokens], row[exact]) == pytest.approx(shares(lm, pairs), nan_ok=True), (
                request.case_id,
                tokens,
            )


@pytest.mark.parametrize("bos", [False, True])
def test_a_right_answer_scores_one_whatever_the_tokenizer(tiny_lm, requests, bos):
    """The released scoring counts BOS as a token of the answer.

    3 of 4 right for "the the the" if BOS is added.
    """
    lm = make_it_say(tiny_lm("gpt2", bos=bos), "the")
    said = replace(
        requests[0],
        target_new="the the the",
        target_true="the the town",
        locality=(Probe("It was", "the"),),
    )
    row = score_edits(lm, [said]).iloc[0]
    assert row["efficacy_tokens"] == row["efficacy_accuracy"] == row["locality_gold"] == 1.0
    released = lm.tokenizer(" the the the")["input_ids"]  # what D1 of the released code scores
    the = lm.tokenizer(" the", add_special_tokens=False)["input_ids"][0]
    assert np.mean([token == the for token in released]) == (0.75 if bos else 1.0)
    half = score_edits(lm, [replace(said, target_new=said.target_true)]).iloc[0]
    n = len(lm.tokenizer(" the the town", add_special_tokens=False)["input_ids"])
    assert half["efficacy_tokens"] == pytest.approx(2 / n) and half["efficacy_accuracy"] == 0.0


def test_gold_and_unedited_are_two_things(tiny_lm, asked):
    """Unedited agreement is 1 before an edit, whatever gold says, and falls when predictions
    change.
    """
    lm = tiny_lm("gpt2")
    before = score_edits(lm, asked)
    assert "locality_unedited" not in before
    same = score_edits(lm, asked[::-1], unedited=before).set_index("case_id")
    known = before.set_index("case_id").loc[same.index]
    assert (same["locality_unedited"].dropna() == 1.0).all() and same[
        "locality_unedited"
    ].isna().sum() == 2
    assert (
        same["locality_gold"].equals(known["locality_gold"]) and same["locality_gold"].mean() < 0.5
    )
    apply_update(
        lm,
        0,
        3 * torch.randn(lm.down_proj(0).weight.T.shape, generator=torch.Generator().manual_seed(0)),
    )
    after = score_edits(lm, asked, unedited=before)
    for request, row, best in zip(
        asked, after.to_dict("records"), before["locality_best"], strict=True
    ):
        expected = [
            np.mean(np.equal(by_hand(lm, *pair[:2])[1], then))
            for pair, then in zip(request.locality, best, strict=True)
        ]
        assert row["locality_unedited"] == pytest.approx(
            np.mean(expected) if expected else math.nan, nan_ok=True
        )
    assert after["locality_unedited"].mean() < 0.9
    assert {"locality_gold", "locality_unedited", "portability"} <= summarise(after).keys()
    assert "locality_best" not in summarise(after)


def test_nothing_to_measure(tiny_lm, requests):
    """Without such prompts there are no such columns."""
    lm = tiny_lm("gpt2")
    assert score_probes(lm, requests, EditedFacts([])).shape == (6, 0)
    assert not [
        name for name in score_edits(lm, requests) if name.startswith(("locality", "portability"))
    ]


def test_names_of_an_answer_may_change_places(tiny_lm, requests):
    """What the model says at the answer itself is compared, also where another of its names, longer
    or shorter, is the most probable one after the edit.
    """
    names = ("song", "the café of the old town", "polo", "architecture and law")
    probes = tuple(
        Probe(prompt, names[i], aliases=names[:i] + names[i + 1 :])
        for prompt in ("I heard a", "The old town is", LONG)
        for i in range(len(names))
    )
    own = [replace(requests[0], locality=probes)]
    lm = tiny_lm("gpt2")
    before, separators = score_probes(lm, own, EditedFacts([])), [" "]
    chosen = [len(best) for best in _rate_answers(lm, [probes], separators, False)[0][0].best]
    said = [by_hand(lm, probe.prompt, probe.answer)[1] for probe in probes]
    noise = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    apply_update(lm, 1, noise.T if read_weight(lm, 1).shape == (16, 64) else noise)
    after = score_probes(lm, own, EditedFacts([]), before["locality_best"].tolist())
    others = [len(best) for best in _rate_answers(lm, [probes], separators, False)[0][0].best]
    assert chosen != others  # another name is the most probable one
    now = [by_hand(lm, probe.prompt, probe.answer)[1] for probe in probes]
    agree = [np.mean(np.equal(a, b)) for a, b in zip(said, now, strict=True)]
    assert after["locality_unedited"][0] == pytest.approx(np.mean(agree)) and np.mean(agree) < 1
