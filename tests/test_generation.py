"""Free text: what the generator decides, how long it gets, and how repetitive it is by hand."""

import math

import pytest
import torch
from test_evaluation import LONG, greedy

from seqedit.evaluation.generation import generate, ngram_entropy


def test_generation_is_seeded(tiny_lm):
    """The generator decides everything; torch's global one is neither read nor moved."""
    lm = tiny_lm("gpt2")
    prompts = ["The old town", "I heard a song. Because it rained,"]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = generate(lm, prompts, torch.Generator().manual_seed(3), length=25)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert generate(lm, prompts, torch.Generator().manual_seed(3), length=25) == first
    assert generate(lm, prompts, torch.Generator().manual_seed(4), length=25) != first
    moving = torch.Generator().manual_seed(3)
    assert (
        generate(lm, prompts, moving, length=25)
        == first
        != generate(lm, prompts, moving, length=25)
    )


def test_generated_length(tiny_lm, monkeypatch):
    """Every text has `length` tokens, prompt included, whatever else is in its batch.

    A longer prompt gets one more.
    """
    lm = tiny_lm("gpt2")
    decoded = []
    decode = lm.tokenizer.decode
    monkeypatch.setattr(
        lm.tokenizer, "decode", lambda ids, **o: decoded.append(ids.tolist()) or decode(ids, **o)
    )
    prompts = ["The", "I heard a song. Because it rained, we", LONG]
    texts = generate(lm, prompts, torch.Generator().manual_seed(0), length=25, batch=2)
    lengths = [len(lm.tokenizer(p)["input_ids"]) for p in prompts]
    assert lengths[0] < lengths[1] < 25 < lengths[2]
    assert [len(ids) for ids in decoded] == [25, 25, lengths[2] + 1]
    assert all(text.startswith(p) for p, text in zip(prompts, texts, strict=True))
    assert all(0 not in ids for ids in decoded)  # the end token is suppressed


def test_only_probable_tokens_are_drawn(tiny_lm):
    """With top_k = 1 sampling is greedy decoding, in a padded batch as alone."""
    lm = tiny_lm("gpt2")
    prompts = ["The old town", LONG]
    texts = generate(lm, prompts, torch.Generator().manual_seed(0), length=34, top_k=1)
    for prompt, text in zip(prompts, texts, strict=True):
        n = len(lm.tokenizer(prompt)["input_ids"])
        said = greedy(lm, prompt, max(34 - n, 1))
        assert text == prompt + said or "endoftext" in said


def test_ngram_entropy():
    """ "a b a b": bigrams ab ba ab, trigrams aba bab: H₂ = log₂3 − 2/3, H₃ = 1; too short a text
    has none.
    """
    expected = (2 / 3 * (math.log2(3) - 2 / 3) + 4 / 3 * 1) / 2
    assert ngram_entropy(["a b a b"]) == pytest.approx(expected)
    assert ngram_entropy(["no no no no"]) == ngram_entropy(["no"]) == ngram_entropy([""]) == 0.0
    assert ngram_entropy(["a b a b", "no"]) == pytest.approx(expected / 2)
    assert ngram_entropy(["a, b"]) == pytest.approx((2 / 3 * 1 + 0) / 2)  # the comma is a word
