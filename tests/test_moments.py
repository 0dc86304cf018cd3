"""Second moments: streamed, merged, saved and loaded, and read from a model's own keys.

Products run in float32 on a batch and are summed in float64: 1e-6 relative is float32's round-off.
"""

import pytest
import torch
from conftest import SENTENCES, relative
from problems import accumulated
from safetensors.torch import save_file

from seqedit.algebra.second_moment import SecondMoment
from seqedit.lm.fingerprint import fingerprint
from seqedit.lm.second_moments import collect_second_moments
from seqedit.moments.files import load_moments, save_moments


@pytest.fixture
def keys():
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(0))


def test_streaming_equals_the_whole(keys):
    """Batches of any size give the mean of k kᵀ per key."""
    moment = accumulated(keys[:7], keys[7:8], keys[8:])
    expected = sum(torch.outer(k, k) for k in keys.double()) / 50
    assert moment.count == 50 and moment.mean.dtype == torch.float64
    assert relative(moment.mean, expected) < 1e-6


def test_merging_equals_having_seen_both(keys):
    left, right = accumulated(keys[:20]), accumulated(keys[20:30], keys[30:])
    left.merge(right)
    together = accumulated(keys[:20], keys[20:30], keys[30:])
    assert left.count == together.count == 50
    assert relative(left.sum, together.sum) < 1e-15
    assert right.count == 30  # the other is left as it was


def test_many_tokens_lose_no_digits():
    """A float32 running sum would stop counting at 2²⁴; the float64 one does not."""
    moment = SecondMoment(1)
    moment.sum += 2.0**24
    moment.update(torch.ones(1, 1))
    assert moment.sum.item() == 2**24 + 1


def test_mean_of_no_keys_is_an_error():
    with pytest.raises(ValueError, match="no keys were seen"):
        _ = SecondMoment(3).mean


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_moments_are_loaded_equal(tmp_path, keys, dtype):
    """What is saved is loaded: means per layer, counts, fingerprint."""
    moments = {3: accumulated(keys), 10: accumulated(keys[:5])}
    save_moments(tmp_path / "m.safetensors", moments, fingerprint="abc", dtype=dtype)
    loaded = load_moments(tmp_path / "m.safetensors")
    assert (
        loaded.fingerprint == "abc" and loaded.counts == {3: 50, 10: 5} and set(loaded.C) == {3, 10}
    )
    for layer, moment in moments.items():
        assert torch.equal(loaded.C[layer], moment.mean.to(dtype))
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]  # no temporary file is left


def test_bare_files_load(tmp_path):
    """A file of C.<layer> without any metadata is enough; other tensors in it are ignored."""
    save_file({"C.2": torch.eye(3), "other": torch.ones(1)}, tmp_path / "m.safetensors")
    loaded = load_moments(tmp_path / "m.safetensors")
    assert set(loaded.C) == {2} and loaded.fingerprint is None and loaded.counts == {}


def test_wrong_files_of_moments_are_named(tmp_path):
    """Missing, not safetensors, or without C.<layer>: a ValueError that names the file."""
    with pytest.raises(ValueError, match="nowhere.safetensors cannot be read"):
        load_moments(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors at all")
    with pytest.raises(ValueError, match="text.safetensors cannot be read"):
        load_moments(tmp_path / "text.safetensors")
    save_file({"W.2": torch.eye(3)}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match="holds no tensor named C.<layer>"):
        load_moments(tmp_path / "empty.safetensors")


@pytest.mark.parametrize("bos", [False, True])
def test_collected_from_a_model(tiny_lm, bos):
    """The sum over all real tokens of the texts, cut to the model's positions, without padding.

    Expected: each text alone through the whole model, keys by a hook.
    """
    lm = tiny_lm("gpt2", bos=bos)
    texts = [*SENTENCES, "I", "", SENTENCES[0] * 3]
    expected = {layer: SecondMoment(64) for layer in (0, 2)}
    handles = [
        lm.down_proj(layer).register_forward_hook(
            lambda _, args, __, layer=layer: expected[layer].update(args[0][0])
        )
        for layer in expected
    ]
    tokens = 0
    for text in texts:
        if ids := lm.tokenizer(text)["input_ids"][:64]:
            lm.model(torch.tensor([ids]))
            tokens += len(ids)
    for handle in handles:
        handle.remove()
    for budget in (10, 100, 10_000):
        found = collect_second_moments(lm, texts, (0, 2), batch_tokens=budget, progress=False)
        for layer in (0, 2):
            assert found[layer].count == expected[layer].count == tokens
            assert relative(found[layer].mean, expected[layer].mean) < 1e-6
    assert all(not module._forward_hooks for module in lm.model.modules())


def test_fingerprint_tells_models_apart(tiny_lm):
    """The same model gives the same mark; other weights, or one other matrix, another."""
    mark = fingerprint(tiny_lm("gpt2"))
    assert mark == fingerprint(tiny_lm("gpt2"))
    other = tiny_lm("gpt2")
    other.down_proj(1).weight.add_(1e-3)
    assert len({mark, fingerprint(other), fingerprint(tiny_lm("gpt2", seed=1))}) == 3


def _indefinite() -> torch.Tensor:
    """Positive diagonal, small entries, and yet a negative eigenvalue."""
    C = torch.full((6, 6), -0.3)
    return C + 1.3 * torch.eye(6)


@pytest.mark.parametrize(
    ("C", "problem"),
    [
        (-torch.eye(4), "its diagonal has negative entries"),
        (torch.eye(4) + torch.ones(4, 4).triu(1), "it is not symmetric"),
        (torch.eye(4) + 3 * (torch.ones(4, 4) - torch.eye(4)), "an entry is larger than its row"),
        (_indefinite(), "it has negative eigenvalues"),
        (torch.eye(4, dtype=torch.complex64), "of type complex64"),
        (torch.eye(4, dtype=torch.int64), "of type int64"),
        (torch.ones(4), r"its shape is \(4,\)"),
    ],
)
def test_what_is_no_second_moment_is_refused(tmp_path, C, problem):
    save_file({"C.3": C}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=f"m.safetensors: C.3 is no second moment: .*{problem}"):
        load_moments(tmp_path / "m.safetensors")


def test_singular_and_rounded_moments_pass(tmp_path):
    """Fewer keys than entries, in half precision, and a key that never fires."""
    keys = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    keys[:, 2] = 0
    save_file({"C.0": (keys.T @ keys / 3).half()}, tmp_path / "m.safetensors")
    assert load_moments(tmp_path / "m.safetensors").C[0].shape == (8, 8)
