"""Every declared architecture: what is read, what an edit changes, and loading.

A key is read from shorter, padded batches than a plain forward pass: 1e-5 allows for float32 round-off in between.
"""

import json

import pytest
import torch
from conftest import CONTEXTS, MODEL_TYPES, relative
from transformers import AutoConfig

from seqedit.lm.architecture import ARCHITECTURES, apply_update, architecture_of, read_weight, restored, write_weight
from seqedit.lm.contexts import STARTS, load_contexts, sample_contexts
from seqedit.lm.keys import BARE, KeyReader, context_weights, read_keys, read_values
from seqedit.lm.load import load_model
from seqedit.lm.targets import TargetConfig, optimise_targets

# Written out again rather than taken from the package: a wrong path must not agree with itself.
DOWN = {"gpt2": "transformer.h.{}.mlp.c_proj", "gptj": "transformer.h.{}.mlp.fc_out",
        "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h"}
DOWN |= dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "gemma", "gemma2", "gemma3_text"),
                      "model.layers.{}.mlp.down_proj") | {"phi": "model.layers.{}.mlp.fc2"}

every_model = pytest.mark.parametrize("model_type", MODEL_TYPES)


def bits(lm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def changed(lm, before) -> set[str]:
    return {name for name, tensor in lm.model.state_dict().items() if not torch.equal(tensor, before[name])}


def plain_forward(lm, text, modules):
    """Inputs and outputs of named modules, and the logits, in one unmodified forward pass over one text."""
    seen = {}
    handles = [lm.model.get_submodule(name).register_forward_hook(
        lambda _, args, output, name=name: seen.update({name: (args[0], output)})) for name in modules]
    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    for handle in handles:
        handle.remove()
    return seen, logits[0]


def test_all_are_tested():
    assert set(ARCHITECTURES) == set(MODEL_TYPES) == set(DOWN)


@every_model
def test_keys_are_the_true_inputs(tiny_lm, requests, model_type):
    """The key of a bare prompt is the input of the down projection at the subject's last token, nothing else."""
    lm = tiny_lm(model_type, bos=model_type in ("llama", "mistral"))
    for layer in (0, 2):
        K = read_keys(lm, requests, BARE, layer)
        assert K.shape == (read_weight(lm, layer).shape[1], len(requests))
        for i, request in enumerate(requests):
            seen, _ = plain_forward(lm, request.text, [DOWN[model_type].format(layer)])
            until = request.text[:request.prompt.index("{}") + len(request.subject)]
            position = len(lm.tokenizer(until)["input_ids"]) - 1          # no subject here merges with what follows
            assert relative(K[:, i], seen[DOWN[model_type].format(layer)][0][0, position]) < 1e-5


@every_model
def test_values_and_logits(tiny_lm, requests, model_type):
    """h is the block's output (or the MLP's); `logits` of the last block's output are the model's own."""
    lm = tiny_lm(model_type)
    request, path, last = requests[0], lm.architecture.block.format(1), lm.architecture.block.format(2)
    seen, logits = plain_forward(lm, request.text, [path, last, lm.architecture.mlp.format(1)])
    hidden = {name: out[0] if isinstance(out, tuple) else out for name, (_, out) in seen.items()}
    until = request.text[:request.prompt.index("{}") + len(request.subject)]
    position = len(lm.tokenizer(until)["input_ids"]) - 1
    for site, name in (("block", path), ("mlp", lm.architecture.mlp.format(1))):
        assert relative(read_values(lm, [request], 1, site)[:, 0], hidden[name][0, position]) < 1e-5
    assert relative(lm.logits(hidden[last])[0], logits) < 1e-6
    assert lm.n_layers == 3 and lm.max_positions == 64


@every_model
def test_an_edit_changes_one_matrix(tiny_lm, model_type):
    """`apply_update` adds Δ, out × in, to the declared matrix and to nothing else: the module then adds Δx."""
    lm = tiny_lm(model_type)
    before, module = bits(lm), lm.model.get_submodule(DOWN[model_type].format(1))
    W = read_weight(lm, 1)
    update = torch.randn(W.shape, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, W.shape[1], generator=torch.Generator().manual_seed(1))
    y = module(x)
    apply_update(lm, 1, update)
    assert changed(lm, before) == {DOWN[model_type].format(1) + ".weight"}
    assert torch.equal(read_weight(lm, 1), W + update)
    assert torch.allclose(module(x) - y, x @ update.T, atol=1e-4)         # float32 sums of 40 to 64 products
    with pytest.raises(ValueError, match=r"layer 1: the update is \(.*\) but the matrix is"):
        apply_update(lm, 1, update.T)


@every_model
def test_restored(tiny_lm, model_type):
    """Afterwards every bit is as before, also after an error; only the named layers are put back."""
    lm = tiny_lm(model_type)
    before = bits(lm)
    with restored(lm, [0, 1]):
        for layer in (0, 1):
            apply_update(lm, layer, 0.1 * torch.ones_like(read_weight(lm, layer)))
        assert len(changed(lm, before)) == 2
    assert not changed(lm, before)
    with pytest.raises(KeyboardInterrupt), restored(lm, [1]):
        apply_update(lm, 1, torch.ones_like(read_weight(lm, 1)))
        raise KeyboardInterrupt
    assert not changed(lm, before)
    with restored(lm, [1]):
        apply_update(lm, 2, torch.ones_like(read_weight(lm, 2)))
    assert changed(lm, before) == {DOWN[model_type].format(2) + ".weight"}


def test_weights_are_put_back_bit_for_bit(tiny_lm):
    lm = tiny_lm("gpt2")
    before, W = bits(lm), read_weight(lm, 1)
    apply_update(lm, 1, torch.rand_like(W))
    write_weight(lm, 1, W)
    assert not changed(lm, before)
    W.zero_()                                                             # a copy: the model does not follow
    assert not changed(lm, before)


@every_model
def test_targets_lower_the_loss(tiny_lm, requests, model_type):
    """On every architecture the optimisation runs and brings every request's loss down."""
    lm = tiny_lm(model_type)
    free = {"stop_loss": 0.0, "weight_decay": 0.0, "clamp": 3.0}
    first = optimise_targets(lm, requests, CONTEXTS, 0, TargetConfig(steps=1, **free))
    best = optimise_targets(lm, requests, CONTEXTS, 0, TargetConfig(steps=20, lr=0.1, **free))
    assert (best.loss < first.loss).all()
    assert best.loss[4] < first.loss[4] - 0.5                             # the subject ends the prompt: δ acts directly


def test_context_weights():
    """MEMIT: ½ bare, ½ the others' mean; ROME: all alike."""
    assert torch.allclose(context_weights(CONTEXTS, "groups"), torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]))
    assert torch.allclose(context_weights(CONTEXTS, "uniform"), torch.full((4,), 1 / 4))


@pytest.mark.parametrize("average", ["groups", "uniform"])
def test_keys_are_averaged_over_contexts(tiny_lm, requests, average):
    """The average of the keys of each context on its own, however the batches fall."""
    lm = tiny_lm("llama", bos=True)
    alone = [read_keys(lm, requests, ((template,),), 1) for group in CONTEXTS for template in group]
    weights = [1 / 2, 1 / 6, 1 / 6, 1 / 6] if average == "groups" else [1 / 4] * 4
    expected = sum(w * K for w, K in zip(weights, alone, strict=True))
    for budget in (1, 60, 10_000):
        assert relative(KeyReader(lm, requests, CONTEXTS, average, batch_tokens=budget).keys(1), expected) < 1e-5


def test_loading(tiny_folder, tiny_lm):
    """A saved folder comes back with its weights, in evaluation mode, without gradients."""
    lm, original = load_model(tiny_folder, device="cpu"), tiny_lm("gpt2")
    assert not lm.model.training and not any(p.requires_grad for p in lm.model.parameters())
    assert not changed(lm, bits(original))
    assert lm.architecture == ARCHITECTURES["gpt2"]


def test_loading_errors(tmp_path):
    """A missing folder is named; an undeclared architecture is told which are declared."""
    with pytest.raises(ValueError, match="no model could be loaded from .*nowhere"):
        load_model(tmp_path / "nowhere")
    AutoConfig.for_model("bert").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'bert' is not declared; known are gpt2, gpt_neox, gptj, llama"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="'mamba' is not declared"):
        architecture_of("mamba")


def test_sampled_contexts(tiny_lm):
    """The bare prompt first, then groups of the asked sizes, each with one place; the seed decides them."""
    lm = tiny_lm("gpt2", bos=True)

    def sample(seed):
        return sample_contexts(lm, torch.Generator().manual_seed(seed), ((10, 5), (6, 2)))
    found = sample(0)
    assert found[0] == ("{}",) and [len(group) for group in found] == [1, 5, 2]
    templates = [t for group in found[1:] for t in group]
    assert all(t.count("{}") == 1 and t.endswith(". {}") and "<|" not in t for t in templates)
    assert all(t.startswith(word) for t, word in zip(found[1], STARTS, strict=True))
    assert found == sample(0) != sample(1)


@pytest.mark.parametrize(("content", "problem"), [
    ("[", "cannot be read"), ("{}", "list of non-empty lists"), ("[[]]", "list of non-empty lists"),
    ('[["{}"], ["no place"]]', "'no place' must be a string with exactly one"),
    ('[["{}"], [3]]', "3 must be a string"), ('[["Hello. {}"]]', "the first group must be"),
])
def test_context_files(tmp_path, content, problem):
    path = tmp_path / "contexts.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="contexts: .*contexts.json") as raised:
        load_contexts(path)
    assert problem in str(raised.value)
    path.write_text(json.dumps(CONTEXTS))
    assert load_contexts(path) == CONTEXTS
