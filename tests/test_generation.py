"""Free text: what decides it, how long it gets, where it ends, and how repetitive it is by hand."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import MODEL_TYPES
from test_evaluation import LONG, greedy
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import GenerationConfig, PreTrainedTokenizerFast

from seqedit.evaluation import generation
from seqedit.evaluation.generation import generate, greedy_answers, ngram_entropy
from seqedit.lm.tokens import tokenise


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


OWN_SETTINGS = {  # what a model's folder may ask for
    "a penalty": {"repetition_penalty": 1.1},
    "suppressed tokens": {"suppress_tokens": [*range(20, 300)], "begin_suppress_tokens": [301]},
    "forced tokens": {"forced_bos_token_id": 5, "forced_eos_token_id": 7},
    "several end tokens": {"eos_token_id": [*range(0, 357, 3)], "pad_token_id": 3},
    "a length": {"max_length": 12, "min_length": 11, "max_new_tokens": 2},
    "other decoding": {"num_beams": 3, "do_sample": False, "no_repeat_ngram_size": 2},
    "other filters": {"min_p": 0.3, "typical_p": 0.5, "bad_words_ids": [[300], [301]]},
    "other output": {"do_sample": True, "num_return_sequences": 2, "return_dict_in_generate": True},
    "stop strings": {"stop_strings": ["e"], "max_time": 1e-6},
}


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_settings_of_the_model_have_no_effect(tiny_lm, name):
    """Neither on sampled text nor on answers; and they are in the model afterwards as before."""
    lm, prompts = tiny_lm("gpt2"), ["The old town", LONG]
    ids = tokenise(lm, prompts).ids

    def written():
        return generate(lm, prompts, torch.Generator().manual_seed(1), length=30), greedy_answers(
            lm, ids
        )

    plain = written()
    own = lm.model.generation_config = GenerationConfig(**OWN_SETTINGS[name])
    before = own.to_dict()
    assert written() == plain
    assert lm.model.generation_config is own and own.to_dict() == before


def test_transformers_merges_settings_of_the_model(tiny_lm, monkeypatch):
    """A configuration of one's own is not enough: without the guard, a penalty changes the text."""
    lm, prompts = tiny_lm("gpt2"), ["The old town"]
    plain = generate(lm, prompts, torch.Generator().manual_seed(1), length=30)
    lm.model.generation_config = GenerationConfig(repetition_penalty=1.5)
    monkeypatch.setattr(generation, "_without_defaults", lambda model: nullcontext())
    assert generate(lm, prompts, torch.Generator().manual_seed(1), length=30) != plain


PROMPTS = (
    "The",
    LONG,
    "I heard a song",
    "Zoë",
    "Because it rained, we left the old town",
    "The mother tongue of André is",
    "You are a teacher and the",
)


@torch.no_grad()
def alone(lm, prompt: list[int], new_tokens: int, is_end) -> tuple[list[int], float]:
    """The most probable tokens after one prompt, without cache or padding.

    Also the smallest distance between the two largest logits of a step.
    """
    said, margin = [], math.inf
    while len(said) < new_tokens and len(prompt) + len(said) < lm.max_positions:
        logits = lm.model(torch.tensor([prompt + said]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        said.append(best.indices[0].item())
        if is_end(said[-1]):
            break
    return said, margin


@pytest.mark.parametrize("batch_tokens", [60, 4096])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_answers_in_a_batch_are_those_alone(tiny_lm, monkeypatch, model_type, batch_tokens):
    """Rows of a batch that end at different steps say what each says alone, BOS or not.

    The logits of all steps are far from ties: the two largest differ by more than round-off.
    """
    lm = tiny_lm(model_type, bos="a" in model_type)
    ids = tokenise(lm, PROMPTS).ids

    def is_end(token: int) -> bool:
        return token % 4 == 1

    monkeypatch.setattr(generation, "_end_of_answer", lambda tokenizer: is_end)
    found = [alone(lm, prompt, 12, is_end) for prompt in ids]
    assert len({len(said) for said, _ in found}) > 2 and min(gap for _, gap in found) > 2e-5
    answers = greedy_answers(lm, ids, new_tokens=12, batch_tokens=batch_tokens)
    for (said, _), answer in zip(found, answers, strict=True):
        assert answer.ended == is_end(said[-1])
        text = lm.tokenizer.decode(said, skip_special_tokens=True)
        assert answer.text == text.split("\n")[0].rstrip(".").strip()


def test_answers_stop_at_the_last_position(tiny_lm):
    """A row whose positions are used up stops there, also where others of its batch go on."""
    lm = tiny_lm("gpt2")
    long = (tokenise(lm, [LONG]).ids[0] * 9)[: lm.max_positions - 3]
    counts = [len(said) for said in generation._greedy_tokens(lm, [[5], long], 9, lambda _: False)]
    assert counts == [9, 3]
    assert greedy_answers(lm, []) == []


@pytest.mark.parametrize(
    ("pieces", "text", "ended"),
    [
        (["Paris", ".", "never"], "Paris", True),
        (["Paris", ".\n\n", "never"], "Paris", True),
        (["Paris", '."', "never"], "Paris", True),
        (["Paris", "\nQ", "never"], "Paris", True),
        (["\n\n", "never"], "", True),
        (["Paris", "<end>", "never"], "Paris", True),
        (["Paris", "<turn>", "never"], "Paris", True),
        (["U.S", "ally", "..", "never"], "U.Sally", True),
        (["3", ".5", "times", ".", "never"], "3.5times", True),
        (["3", ".", "5"], "3", True),  # as the tokens say, not the words
        (["Paris", "and", "Paris", "and"], "ParisandParisand", False),
    ],
)
def test_where_an_answer_ends(tiny_lm, monkeypatch, pieces, text, ended):
    """A special token, a newline, or a full stop that ends its token; cut off with what follows."""
    words = ["Paris", "never", "and", "U.S", "ally", "3", "5", ".5", "times", "<end>", "<turn>"]
    words += [".", "..", ".\n\n", '."', "\nQ", "\n\n"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.add_tokens([AddedToken("<turn>", special=True)])

    def scripted(lm, prompts, new_tokens, is_end):
        said = []
        while len(said) < len(pieces) and not (said and is_end(said[-1])):
            said.append(words.index(pieces[len(said)]))
        return [said]

    monkeypatch.setattr(generation, "_greedy_tokens", scripted)
    lm = replace(tiny_lm("gpt2"), tokenizer=tokenizer)
    assert greedy_answers(lm, [[0]]) == [(text, ended)]
