"""Hooks: what they see and change during a `with` block, and that none stays behind."""

import pytest
import torch
from conftest import hook_count

from seqedit.lm.hooks import embed, forward_hooks, observe, recording
from seqedit.lm.partial_forward import partial_blocks


def double_input(module, args, kwargs):
    return (2 * args[0], *args[1:]), kwargs


def negate_output(module, args, kwargs, output):
    return -output


def test_inputs_and_outputs_can_be_changed():
    """A hook before the module changes what it reads, one after it what it returns; then all is as
    before.
    """
    linear, x = torch.nn.Linear(3, 3, bias=False), torch.ones(1, 3)
    plain = linear(x)
    with forward_hooks(before=[(linear, double_input)], after=[(linear, negate_output)]):
        assert torch.equal(linear(x), -2 * plain)
    assert torch.equal(linear(x), plain)


def test_no_hook_stays_after_an_error(tiny_lm, monkeypatch):
    lm = tiny_lm("gpt2")
    with pytest.raises(KeyboardInterrupt):
        with forward_hooks(before=[(lm.mlp(0), double_input)], after=[(lm.mlp(1), negate_output)]):
            assert hook_count(lm) == 2
            raise KeyboardInterrupt
    assert hook_count(lm) == 0
    monkeypatch.delattr(torch.nn.Module, "register_forward_hook")
    with pytest.raises(AttributeError, match="register_forward_hook"):  # between two hooks
        with forward_hooks(before=[(lm.mlp(0), double_input)], after=[(lm.mlp(1), negate_output)]):
            pass
    assert hook_count(lm) == 0


def test_recording_ends_after_the_last_module(tiny_lm):
    """One module may have two names; what comes after the last one does not run."""
    lm, ids = tiny_lm("gpt2"), torch.tensor([[5, 6, 7]])
    modules = {"mlp": lm.mlp(1), "the same": lm.mlp(1), "later": lm.mlp(2)}
    calls = observe(lm, ids, modules, last="the same")
    assert calls.keys() == {"mlp", "the same"} and calls["mlp"].hidden.shape == (1, 3, 16)
    with recording({"mlp": lm.mlp(1)}) as calls:
        lm.model(input_ids=ids)
    assert torch.equal(calls["mlp"].hidden, observe(lm, ids, modules, "mlp")["mlp"].hidden)
    assert hook_count(lm) == 0


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "llama", "gemma2"])
def test_embedding(tiny_lm, model_type):
    """What enters the first block, whether it is passed by position or by name."""
    lm, ids = tiny_lm(model_type), torch.tensor([[5, 6, 7], [8, 8, 8]])
    found = embed(lm, ids)
    assert hook_count(lm) == 0
    states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.equal(found, states[0])


@pytest.mark.parametrize("layer", [1, 2])
def test_a_layer_without_attention(tiny_lm, monkeypatch, layer):
    """Blocks that keep no keys and values cannot be run on some tokens: the layer is named."""
    lm = tiny_lm("gpt2")
    monkeypatch.setattr(lm.block(layer), "forward", lambda hidden, *_, **__: hidden)
    with pytest.raises(ValueError, match=f"layer {layer} has no attention keys and values"):
        partial_blocks(lm, [5, 6, 7])
