"""Ratings of continuations: packed rows against every text by itself, on every architecture."""

import numpy as np
import pytest
import torch
from conftest import MODEL_TYPES, SENTENCES, hook_count
from hypothesis import given
from hypothesis import strategies as st

from seqedit.bench.plain_rating import rate_plainly
from seqedit.evaluation import tree_attention
from seqedit.evaluation.continuations import rate
from seqedit.evaluation.packing import apart, pack, visible
from seqedit.evaluation.tree_attention import own_masks, packed_hidden, runs_packed

PROMPTS = [
    "The mother tongue of Danielle Darrieux is",
    "The mother tongue of Danielle Darrieux, today, is",
    "The mother tongue of Zoë O'Brien is",
    "I heard a song. The mother tongue of Danielle Darrieux is",
    "The",
    SENTENCES[0][:60],
    SENTENCES[2][:50],
]
WORDS = ["Dutch", "French", "the café of the old town", "the cello", "polo"]
PAIRS = [(prompt, word) for prompt in PROMPTS for word in WORDS]


def assert_same(found, expected, rtol: float = 1e-5) -> None:
    """The same ratings; `rtol` allows for float32 round-off in nll."""
    np.testing.assert_allclose(found.nll, expected.nll, rtol=rtol)
    np.testing.assert_array_equal(found.correct, expected.correct)
    np.testing.assert_array_equal(found.top, expected.top)
    np.testing.assert_allclose(found.share, expected.share, rtol=1e-12)
    assert found.best == expected.best


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_packed_equals_plain(tiny_lm, model_type, bos):
    """On every declared architecture, windows and norms after the MLP included, it runs packed."""
    lm = tiny_lm(model_type, bos=bos)
    before = hook_count(lm)
    pairs = [*PAIRS, *PAIRS[::-3]]
    found = rate(lm, *zip(*pairs, strict=True))
    assert runs_packed(lm)
    assert_same(found, rate_plainly(lm, *zip(*pairs, strict=True)))
    assert hook_count(lm) == before


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "mistral"])
def test_packed_equals_plain_with_eager_attention(tiny_lm, model_type):
    """Its masks are numbers that are added."""
    lm = tiny_lm(model_type)
    lm.model.set_attn_implementation("eager")
    found = rate(lm, *zip(*PAIRS, strict=True))
    assert runs_packed(lm)
    assert_same(found, rate_plainly(lm, *zip(*PAIRS, strict=True)))


@pytest.mark.parametrize("batch_tokens", [1, 20, 70, 100_000])
def test_batches_change_nothing(tiny_lm, batch_tokens):
    lm = tiny_lm("llama")
    found = rate(lm, *zip(*PAIRS, strict=True), batch_tokens=batch_tokens)
    assert_same(found, rate_plainly(lm, *zip(*PAIRS, strict=True), batch_tokens=1))


def test_windows_are_those_of_a_sequence(exact_lm):
    """A window of 8 counts tokens of the sequence, not of the row; in float64 to the last digits.

    Without the model's own mask the same rows give something else.
    """
    lm = exact_lm("gemma3_text")
    sequences = [lm.tokenizer(f"{prompt} {word}")["input_ids"] for prompt, word in PAIRS]
    masks = own_masks(lm, max(sequences, key=len))
    assert any(mask is not None for mask in masks)
    (row,) = pack(sequences, 10_000)
    wide = packed_hidden(lm, [row], [None] * lm.n_layers)[0]
    packed = packed_hidden(lm, [row], masks)[0]
    for i, sequence in enumerate(sequences):
        plain = tree_attention.plain_hidden(lm, apart([sequence]))[0]
        torch.testing.assert_close(packed[row.paths[i]], plain, rtol=1e-10, atol=1e-12)
    assert (wide - packed).norm() > 1e-3 * packed.norm()


def test_a_model_without_masks_reads_every_text_by_itself(tiny_lm, monkeypatch):
    """Blocks that ignore their mask, as those of a state-space model, are found by trying."""
    lm = tiny_lm("llama")
    block = lm.block(1)
    forward = block.forward

    def deaf(hidden_states, attention_mask=None, **kwargs):
        return forward(hidden_states, attention_mask=None, **kwargs)

    monkeypatch.setattr(block, "forward", deaf)
    found = rate(lm, *zip(*PAIRS, strict=True))
    assert not runs_packed(lm)
    assert_same(found, rate_plainly(lm, *zip(*PAIRS, strict=True)))


def test_another_kind_of_attention_is_not_tried(tiny_lm, monkeypatch):
    lm = tiny_lm("llama")
    monkeypatch.setattr(lm.config, "_attn_implementation", "flash_attention_2")
    assert not runs_packed(lm)


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=20), st.integers(1, 30)
)
def test_rows_hold_all_sequences(sequences, room):
    """Each path spells its sequence; a token sees exactly the beginning of its sequences; a common
    beginning is in a row once; a row of several sequences has room for them.
    """
    rows = pack(sequences, room)
    found = {i: (row, path) for row in rows for i, path in row.paths.items()}
    assert sorted(found) == list(range(len(sequences)))
    for i, (row, path) in found.items():
        assert [row.ids[token] for token in path] == sequences[i]
        assert [row.positions[token] for token in path] == list(range(len(path)))
    for row in rows:
        assert len(row) <= room or len(row) == max(len(sequences[i]) for i in row.paths)
        beginnings = {
            tuple(sequences[i][: n + 1]) for i in row.paths for n in range(len(sequences[i]))
        }
        assert len(row) == len(beginnings)
        (seen,) = visible([row])
        for path in row.paths.values():
            for n, token in enumerate(path):
                assert seen[token].nonzero()[:, 0].tolist() == sorted(path[: n + 1])
