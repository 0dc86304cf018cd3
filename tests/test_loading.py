"""Loading a model: what comes back, what is refused and what the message says to do."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers.utils.hub
from conftest import OWN_SIZES, bits, build_lm, build_plan, build_tokenizer, changed
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from tokenizers import processors
from transformers import AutoConfig, AutoModelForCausalLM

from seqedit.editing.sequential import run_sequential
from seqedit.lm import architecture
from seqedit.lm.architecture import (
    ARCHITECTURES,
    Architecture,
    architecture_of,
    declare,
)
from seqedit.lm.check import check_architecture
from seqedit.lm.load import load_model
from seqedit.lm.tokenizer import add_bos
from seqedit.lm.weights import read_weight
from seqedit.methods.memit import memit

STARCODER = Architecture(
    block="model.layers.{}",
    mlp="model.layers.{}.mlp",
    down_proj="model.layers.{}.mlp.c_proj",
    final_norm="model.norm",
    head="lm_head",
)
OPT = {
    "block": "model.decoder.layers.{}",
    "mlp": "model.decoder.layers.{}.fc2",
    "down_proj": "model.decoder.layers.{}.fc2",
    "final_norm": "model.decoder.final_layer_norm",
    "head": "lm_head",
}


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
    with pytest.raises(
        ValueError, match="'bert' is not declared; known are gpt2, gptj, gpt_neox, llama"
    ):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="'mamba' is not declared"):
        architecture_of("mamba")


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen2", "gemma2"])
def test_no_tokenizer(tmp_path, model_type):
    """`transformers` makes one up for some model types and fails in several ways for others; it is
    one error here.
    """
    build_lm(model_type).model.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"{tmp_path.name}: there is no tokenizer.*save .*beside the model"
    ):
        load_model(tmp_path)


def test_other_weights_than_safetensors(tmp_path):
    lm = build_lm("gpt2")
    lm.model.config.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    torch.save(lm.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError,
        match="no file named model.safetensors.*convert other weights with save_pretrained",
    ):
        load_model(tmp_path)


def test_unknown_to_transformers(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "of-tomorrow"}')
    with pytest.raises(
        ValueError, match="of-tomorrow.*A newer transformers may know it; code from a .* never run"
    ):
        load_model(tmp_path)


def response(status: int) -> dict:
    return {"response": SimpleNamespace(status_code=status, headers={}, request=None)}


@pytest.mark.parametrize(
    ("error", "offline", "words"),
    [
        (
            GatedRepoError("403 Client Error", **response(403)),
            False,
            "it is gated; ask for access at https://huggingface.co/some/model, then log in with "
            "`hf auth login`",
        ),
        (
            RepositoryNotFoundError("404 Client Error", **response(404)),
            False,
            "no such model on the hub that you may see; check the spelling, and for a private one "
            "log in",
        ),
        (
            HfHubHTTPError("401 Client Error", **response(401)),
            False,
            r"the hub refused it \(HTTP 401\); log in with",
        ),
        (
            HfHubHTTPError("403 Client Error", **response(403)),
            False,
            r"the hub refused it \(HTTP 403\); log in with",
        ),
        (
            LocalEntryNotFoundError("not there"),
            True,
            "HF_HUB_OFFLINE forbids .* run `hf download some/model` beforehand",
        ),
        (
            LocalEntryNotFoundError("not there"),
            False,
            "could not be reached: check the network, or name a local folder",
        ),
    ],
)
def test_the_hub(monkeypatch, error, offline, words):
    """What the hub answers, passed on by `transformers`, becomes one line that says what to do."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(
        ValueError, match=f"no model could be loaded from 'some/model': .*{words}"
    ) as raised:
        load_model("some/model")
    assert "\n" not in str(raised.value)


def test_bos_is_added_once(tmp_path):
    """By the tokenizer itself, so that it stays when saved; offsets are those of the text; twice
    changes nothing.
    """
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    plain = tokenizer("The café", return_offsets_mapping=True)
    for _ in range(2):
        add_bos(tokenizer)
        found = tokenizer(["The café"], return_offsets_mapping=True)
        assert found["input_ids"][0] == [tokenizer.bos_token_id, *plain["input_ids"]]
        assert found["offset_mapping"][0] == [(0, 0), *plain["offset_mapping"]]
    tokenizer.bos_token = None
    with pytest.raises(
        ValueError, match='needs a BOS token .* put "bos_token" into its tokenizer_config.json'
    ):
        add_bos(tokenizer)


@pytest.fixture
def undeclared(monkeypatch):
    """Declarations that a test makes are gone after it."""
    monkeypatch.setattr(architecture, "ARCHITECTURES", dict(ARCHITECTURES))
    return monkeypatch


def starcoder_folder(folder):
    """A saved model of a real family that the package does not declare."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "starcoder2",
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=40,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_declaring_another(tmp_path, undeclared, requests):
    """The error says how; after it, the model loads, is checked against its declaration, and can be
    edited.
    """
    folder = starcoder_folder(tmp_path)
    with pytest.raises(
        ValueError, match="'starcoder2' is not declared.*SEQEDIT_ARCHITECTURES; or call .*declare"
    ):
        load_model(folder)
    declare("starcoder2", STARCODER)
    lm = load_model(folder, device="cpu")
    assert lm.architecture == STARCODER and read_weight(lm, 1).shape == (16, 40)
    before = bits(lm)
    list(run_sequential(lm, [requests], memit(0.5), build_plan(lm)))
    assert changed(lm, before) == {f"model.layers.{layer}.mlp.c_proj.weight" for layer in (0, 1)}


def test_declaring_in_a_file(tmp_path, undeclared):
    """The same without Python, for the command line and the chapters."""
    folder, path = starcoder_folder(tmp_path), tmp_path / "architectures.json"
    path.write_text(
        json.dumps(
            {"starcoder2": {name: value for name, value in vars(STARCODER).items() if value}}
        )
    )
    undeclared.setenv("SEQEDIT_ARCHITECTURES", str(path))
    assert load_model(folder, device="cpu").architecture == STARCODER


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold {model_type"),
        ('{"opt": 1}', "must hold {model_type"),
        ('{"opt": {"blok": "x.{}"}}', "opt: blok is unknown; fields are block, bos,"),
        ('{"opt": {"block": "x.{}"}}', "opt: down_proj is missing; fields are"),
    ],
)
def test_declaration_files_with_errors(tmp_path, undeclared, content, words):
    path = tmp_path / "architectures.json"
    path.write_text(content)
    undeclared.setenv("SEQEDIT_ARCHITECTURES", str(path))
    with pytest.raises(ValueError, match=f"SEQEDIT_ARCHITECTURES: .*architectures.json.*{words}"):
        architecture_of("opt")


def test_declarations_that_cannot_be_meant(undeclared):
    with pytest.raises(ValueError, match="'gpt2' is declared by the package"):
        declare("gpt2", STARCODER)
    with pytest.raises(
        ValueError, match="opt: mlp: 'model.decoder.fc2' must hold one .*, the layer"
    ):
        declare("opt", Architecture(**OPT | {"mlp": "model.decoder.fc2"}))


LLAMA = vars(ARCHITECTURES["llama"])


@pytest.mark.parametrize(
    ("model_type", "sizes", "declared", "words"),
    [
        (
            "olmo3",
            {},
            LLAMA | {"block": "model.blocks.{}"},
            "block: there is no 'model.blocks.0' in Olmo3ForCausalLM",
        ),
        (
            "olmo3",
            {},
            LLAMA,
            "block, mlp or post_norm: what is added to the MLP's output does not reach",
        ),
        (
            "olmo3",
            {},
            LLAMA | {"mlp": "model.layers.{}.self_attn"},
            "mlp: its output is not that of down_proj",
        ),
        (
            "olmo3",
            {},
            LLAMA | {"down_proj": "model.layers.{}.mlp.act_fn"},
            "down_proj: cannot edit a SiLU",
        ),
        (
            "opt",
            {"ffn_dim": 40, "word_embed_proj_dim": 16},
            OPT,
            r"down_proj: its input .* are \(12,\) for \(1, 12\)",
        ),
        ("granite", {"residual_multiplier": 0.5}, LLAMA, "block, mlp or post_norm"),
        (
            "granite",
            {"logits_scaling": 3.0},
            LLAMA,
            "final_norm, head or soft_cap: they do not give the model's logits",
        ),
    ],
)
def test_wrong_declarations_are_found(undeclared, model_type, sizes, declared, words):
    """A norm that is not declared, a scaled residual or head: refused before anything is edited."""
    undeclared.setitem(OWN_SIZES, model_type, sizes)
    declare(model_type, Architecture(**declared))
    with pytest.raises(ValueError, match=words):
        check_architecture(build_lm(model_type))


def test_blocks_that_cannot_run_on_some_tokens(tiny_lm):
    """A block whose result depends on more than its arguments tell of is found by the check."""
    lm = tiny_lm("llama")
    lm.block(2).register_forward_hook(
        lambda module, args, output: output + output.mean(dim=1, keepdim=True)
    )
    with pytest.raises(ValueError, match="block: run on some tokens, .* cannot be edited"):
        check_architecture(lm)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_offloaded_layers(tiny_lm, requests, model_type):
    """A matrix without storage is refused by the plan, before targets are sought."""
    lm = tiny_lm(model_type)
    plan = build_plan(lm)
    lm.down_proj(1).to("meta")
    with pytest.raises(
        ValueError, match="the matrix of an edited layer is offloaded .* offloads other layers only"
    ):
        next(run_sequential(lm, [requests], memit(0.5), plan))
    assert read_weight(lm, 0) is not None
    other = replace(lm, architecture=replace(lm.architecture, down_proj=lm.architecture.final_norm))
    with pytest.raises(TypeError, match="cannot edit a (LayerNorm|LlamaRMSNorm)"):
        read_weight(other, 0)
