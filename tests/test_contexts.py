"""Context templates: how keys are averaged over them, how they are sampled and read from a file."""

import json

import pytest
import torch
from conftest import CONTEXTS, relative

from seqedit.lm.contexts import OPENINGS, load_contexts, sample_contexts
from seqedit.lm.keys import KeyReader, context_weights, read_keys


def test_context_weights():
    """MEMIT: ½ bare, ½ the others' mean; ROME: all alike."""
    assert torch.allclose(
        context_weights(CONTEXTS, "groups"), torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    )
    assert torch.allclose(context_weights(CONTEXTS, "uniform"), torch.full((4,), 1 / 4))


@pytest.mark.parametrize("average", ["groups", "uniform"])
def test_keys_are_averaged_over_contexts(tiny_lm, requests, average):
    """The average of the keys of each context on its own, however the batches fall."""
    lm = tiny_lm("llama", bos=True)
    alone = [read_keys(lm, requests, ((template,),), 1) for group in CONTEXTS for template in group]
    weights = [1 / 2, 1 / 6, 1 / 6, 1 / 6] if average == "groups" else [1 / 4] * 4
    expected = sum(w * K for w, K in zip(weights, alone, strict=True))
    for budget in (1, 60, 10_000):
        assert (
            relative(
                KeyReader(lm, requests, CONTEXTS, average, batch_tokens=budget).keys(1), expected
            )
            < 1e-5
        )


def test_sampled_contexts(tiny_lm):
    """The bare prompt first, then groups of the asked sizes, each with one place; the seed decides
    them.
    """
    lm = tiny_lm("gpt2", bos=True)

    def sample(seed):
        return sample_contexts(lm, torch.Generator().manual_seed(seed), ((10, 5), (6, 2)))

    found = sample(0)
    assert found[0] == ("{}",) and [len(group) for group in found] == [1, 5, 2]
    templates = [t for group in found[1:] for t in group]
    assert all(t.count("{}") == 1 and t.endswith(". {}") and "<|" not in t for t in templates)
    assert all(t.startswith(word) for t, word in zip(found[1], OPENINGS, strict=True))
    assert found == sample(0) != sample(1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "cannot be read"),
        ("{}", "list of non-empty lists"),
        ("[[]]", "list of non-empty lists"),
        ('[["{}"], ["no place"]]', "'no place' must be a string with exactly one"),
        ('[["{}"], [3]]', "3 must be a string"),
        (r'[["{}"], ["\ud800 {}"]]', r"'\ud800 {}' must be a string"),
        ("[" * 10**5, "cannot be read"),
        ('[["Hello. {}"]]', "the first group must be"),
    ],
)
def test_context_files(tmp_path, content, problem):
    path = tmp_path / "contexts.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="contexts: .*contexts.json") as raised:
        load_contexts(path)
    assert problem in str(raised.value)
    path.write_text(json.dumps(CONTEXTS))
    assert load_contexts(path) == CONTEXTS
