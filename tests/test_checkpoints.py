"""Checkpoints that would be read wrongly are refused in one line, and code in them is never run."""

import ast
import json
import sys
from pathlib import Path

import pytest
from conftest import build_lm
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from seqedit.cli.main import app
from seqedit.lm.keys import BARE
from seqedit.lm.load import load_model
from seqedit.lm.second_moments import collect_second_moments
from seqedit.lm.validation import validate_requests
from seqedit.requests.request import parse_requests

PACKAGE = Path(__file__).resolve().parents[1] / "seqedit"


@pytest.fixture
def folder(tmp_path):
    """A saved tiny Llama, of which tests change files."""
    out = tmp_path / "model"
    lm = build_lm("llama")
    lm.model.save_pretrained(out)
    lm.tokenizer.save_pretrained(out)
    return out


def change(path: Path, **entries) -> None:
    """Set entries of a JSON file, which need not exist."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | entries))


def refusal(folder: Path) -> str:
    """The line in which loading ends."""
    with pytest.raises(ValueError) as raised:
        load_model(folder, device="cpu")
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)
    return str(raised.value)


@pytest.fixture
def no_weights(monkeypatch):
    """A test that uses this fails if weights are loaded."""

    def fail(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("alone", [True, False])
def test_adapters(folder, alone):
    """Beside a model, where `transformers` would load it silently, and alone."""
    change(folder / "adapter_config.json", base_model_name_or_path="org/base", peft_type="LORA")
    if alone:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").unlink()
    line = refusal(folder)
    assert "adapter_config.json: this is an adapter of org/base" in line
    assert "merge_and_unload" in line


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "fp8"])
def test_quantised(folder, method):
    change(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    line = refusal(folder)
    assert f"the weights are quantised ({method})" in line and "take the checkpoint in" in line


@pytest.mark.usefixtures("no_weights")
def test_quantised_inside(folder):
    """The language model of one that also sees images has its own part of the configuration."""
    change(folder / "config.json", text_config={"quantization_config": {"quant_method": "awq"}})
    assert "quantised (awq)" in refusal(folder)


def with_code(folder: Path, name: str) -> Path:
    """Put a module into a folder that leaves a file there when it is run."""
    mark = folder / "code_was_run"
    (folder / name).write_text(
        f"open({str(mark)!r}, 'w')\n"
        "from transformers import LlamaConfig as X, PreTrainedTokenizerFast as T\n"
    )
    return mark


@pytest.fixture
def nobody_answers(monkeypatch):
    """A question on the terminal fails the test."""

    def ask(*_):
        raise AssertionError("asked on the terminal")

    monkeypatch.setattr("builtins.input", ask)


@pytest.mark.usefixtures("no_weights", "nobody_answers")
@pytest.mark.parametrize(
    "entries",
    [
        {"model_type": "chatglm", "architectures": ["ChatGLMModel"]},
        {"model_type": "llama", "architectures": ["OwnLlama"]},
        {"model_type": "llama", "architectures": ["OwnLlama"], "auto_map": "modeling_own.X"},
    ],
)
def test_code_of_the_model(folder, entries):
    """A type that `transformers` does not know, or a class of its own for a type that it does."""
    mark = with_code(folder, "modeling_own.py")
    auto_map = {"AutoConfig": "modeling_own.X", "AutoModelForCausalLM": "modeling_own.X"}
    change(folder / "config.json", **({"auto_map": auto_map} | entries))
    words = ["plan", "--model", str(folder), "--edits", "1", "--layers", "1"]
    for line in (refusal(folder), CliRunner().invoke(app, words).stderr):
        assert "needs code of its own (modeling_own.py)" in line and "never run" in line
    assert not mark.exists()


@pytest.mark.usefixtures("nobody_answers")
def test_code_that_is_not_needed(folder):
    """Many folders name code although `transformers` has the class (Phi-3): that class is used."""
    mark = with_code(folder, "modeling_own.py")
    auto_map = {"AutoConfig": "modeling_own.X", "AutoModelForCausalLM": "modeling_own.X"}
    change(folder / "config.json", auto_map=auto_map)
    lm = load_model(folder, device="cpu")
    assert type(lm.model).__module__.startswith("transformers.") and not mark.exists()


@pytest.mark.usefixtures("no_weights", "nobody_answers")
def test_code_of_the_tokenizer(folder):
    mark = with_code(folder, "tokenization_own.py")
    (folder / "tokenizer.json").unlink()
    auto_map = {"AutoTokenizer": ["tokenization_own.T", None]}
    change(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="OwnTokenizer")
    line = refusal(folder)
    assert "the tokenizer needs code of its own (tokenization_own.py)" in line
    assert not mark.exists() and not any("tokenization_own" in name for name in sys.modules)


@pytest.mark.usefixtures("no_weights")
def test_broken_json(folder):
    (folder / "config.json").write_text("[1]")
    assert "config.json: expected a JSON object, found list" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json: not valid JSON" in refusal(folder)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("special", [True, False])
def test_tokenizer_larger_than_the_embedding(folder, special):
    """An added word, or a new token for padding, without a row of the embedding."""
    tokenizer = build_lm("llama").tokenizer
    size = len(tokenizer)
    if special:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    else:
        tokenizer.add_tokens(["Darrieux"])
    tokenizer.save_pretrained(folder)
    token = "[PAD]" if special else "Darrieux"
    line = refusal(folder)
    assert f"1 tokens, the first being {token!r} (id {size}), have no row among {size}" in line


def test_special_token_that_nothing_uses(folder):
    """Gemma 3's text models have one for images beyond their embedding; they load."""
    tokenizer = build_lm("llama").tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert len(load_model(folder, device="cpu").tokenizer) == len(tokenizer)


def test_texts_with_a_token_that_the_embedding_lacks(folder):
    """Named by case and field, in the request, its probes and the corpus; other texts are fine."""
    tokenizer = build_lm("llama").tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    lm = load_model(folder, device="cpu")
    plain = {"case_id": 4, "prompt": "{} is", "subject": "Ada", "target_new": "Rome"}
    for field, change in (
        ("prompt", {"prompt": "<image> of {} is"}),
        ("prompt", {"target_new": "a <image>"}),
        ("paraphrase_prompts", {"paraphrase_prompts": ["Ada <image> is"]}),
        ("locality", {"locality": [{"prompt": "Bob is", "answer": "<image>"}]}),
    ):
        with pytest.raises(ValueError, match=f"case_id 4: {field}: the token '<image>' .* no row"):
            validate_requests(lm, parse_requests([plain | change]), BARE)
    validate_requests(lm, parse_requests([plain]), BARE)
    with pytest.raises(ValueError, match="corpus, documents from 0 on: the token '<image>'"):
        collect_second_moments(lm, ["A text.", "An <image>."], [0], progress=False)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_damaged_weights(folder, content):
    """Cut off, of others, or a shard that the index names and that is not there."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    assert "model.safetensors: is damaged or missing" in refusal(folder)
    path.unlink()
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert "model-00001-of-00002.safetensors: is damaged or missing" in refusal(folder)


@pytest.mark.usefixtures("no_weights")
def test_no_fast_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    assert "there is no tokenizer" in refusal(folder)
    (folder / "tokenizer.json").unlink()
    assert "there is no tokenizer" in refusal(folder)


def rewrite(folder: Path, change_tensors) -> None:
    """Change the dict of tensors of a folder."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change_tensors(tensors)
    save_file(tensors, path, {"format": "pt"})


def test_missing_tensors(folder, capfd):
    """They would be random numbers: refused by name, and `transformers` adds no report."""
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.weight"))
    line = refusal(folder)
    assert "model.layers.1.mlp.down_proj.weight is missing in the checkpoint" in line
    assert "REPORT" not in capfd.readouterr().err


def test_unexpected_tensors(folder):
    """A LoRA matrix that was saved with the model, or a layer too many."""
    names = [f"model.layers.{i}.extra.weight" for i in range(5)]
    rewrite(
        folder,
        lambda tensors: tensors.update(
            {name: tensors["model.norm.weight"] + i for i, name in enumerate(names)}
        ),
    )
    assert f"{', '.join(names[:3])} and 2 more are in the checkpoint, but not in a model" in (
        refusal(folder)
    )


def test_other_shapes(folder):
    change(folder / "config.json", intermediate_size=48)
    line = refusal(folder)
    assert "and 6 more are of another shape than config.json says" in line
    assert "is (16, 40), expected (16, 48)" in line


def test_buffers_of_old_checkpoints(tmp_path):
    """Masks that GPT-J once stored are computed today; they are no reason to refuse."""
    lm = build_lm("gptj")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    weight = lm.model.lm_head.bias
    names = ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")
    rewrite(tmp_path, lambda tensors: tensors.update({name: weight + 1 for name in names}))
    assert load_model(tmp_path, device="cpu")


def test_tied_head(tmp_path):
    """A tied head is stored once and is not missing."""
    lm = build_lm("llama", tied=True)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert load_model(tmp_path, device="cpu")


def loaders(tree: ast.AST):
    """Calls such as `AutoModel….from_pretrained(…)` and `AutoModel….from_config(…)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("from_pretrained", "from_config"):
                yield node


def test_every_loader_refuses_code():
    """Each call in the package says `trust_remote_code=False` itself."""
    found = 0
    for path in PACKAGE.rglob("*.py"):
        for call in loaders(ast.parse(path.read_text(encoding="utf-8"))):
            said = {word.arg: word.value for word in call.keywords}.get("trust_remote_code")
            assert isinstance(said, ast.Constant) and said.value is False, (
                f"{path.name}:{call.lineno}"
            )
            found += 1
    assert found >= 6
