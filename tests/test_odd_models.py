"""Model folders whose files describe no model, and other odd places: one line, no traceback."""

import json
import shutil

import pytest

from seqedit.lm.load import load_model


@pytest.fixture
def copy(tmp_path, tiny_folder):
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_layer", "3", "n_layer"),
        ("n_head", 0, "ZeroDivisionError"),
        ("n_head", 3, "divisible"),
        ("activation_function", "nope", "KeyError: 'nope'"),
        ("layer_norm_epsilon", "x", "layer_norm_epsilon"),
        ("model_type", [1], "unhashable"),
        ("dtype", "nope", "no attribute 'nope'"),
        ("quantization_config", [1], "an unnamed method"),
    ],
)
def test_configurations_of_no_model(copy, name, value, message):
    """The message names the folder and what transformers found; the folder as it was loads."""
    path = copy / "config.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {name: value}))
    with pytest.raises(ValueError, match=message) as raised:
        load_model(copy, device="cpu")
    assert str(copy) in str(raised.value) and "\n" not in str(raised.value)
    path.write_text(text)
    assert load_model(copy, device="cpu").n_layers == 3


@pytest.mark.parametrize("index", [{"metadata": {}}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_index_without_files(copy, index):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="index.json: has no weight_map of files; get it anew"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize("file", ["../other/model.safetensors", "/model.safetensors", "part/a"])
def test_an_index_of_another_folder(copy, file):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ValueError, match=f"names '{file}', which is not a file of this folder"):
        load_model(copy, device="cpu")


def test_an_empty_word(space, monkeypatch):
    """As a shell makes of a variable that is not set: no run in the current folder."""
    monkeypatch.chdir(space.folder)
    before = sorted(space.folder.iterdir())
    for name in ("out", "requests", "model", "device"):
        done = space.call(**{name: ""})
        assert done.exit_code == 2 and "an empty word is no value" in done.stderr
    assert sorted(space.folder.iterdir()) == before


def test_a_link_to_itself(space):
    loop = space.folder / "loop"
    loop.symlink_to(loop)
    done = space.call(out=loop)
    assert done.exit_code == 1 and "Too many levels of symbolic links" in done.stderr


@pytest.mark.parametrize("name", ["model", "fingerprint", "layers"])
def test_a_record_without_its_parameters(space, name):
    assert space.call(n_edits=1).exit_code == 0
    path = space.out / "run.json"
    run = json.loads(path.read_text())
    del run["parameters"][name]
    path.write_text(json.dumps(run))
    done = space.call("score", edited=space.out, requests=space.folder / "requests.json")
    assert done.exit_code == 1 and f"parameters.{name} is None" in done.stderr


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("{{ messages[0].x.y }}", "has no attribute 'x'"),
        ("{{ messages[1].content }}", "no element 1"),
    ],
)
@pytest.mark.parametrize("given", [{"chat": True}, {"wild": True}])
def test_chat_templates_that_fail(copy, space, template, message, given):
    """Before anything is edited; without a chat the model is edited."""
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    done = space.call(model=copy, **given)
    assert done.exit_code == 1 and "chat template cannot be used" in done.stderr
    assert message in done.stderr and not (space.out / "weights.safetensors").exists()
    assert space.call(model=copy, n_edits=1).exit_code == 0


@pytest.mark.parametrize("content", [b"GGUF\x03\0\0\0" + b"\xff" * 16, b"nope", b""])
def test_files_that_are_no_gguf(tmp_path, content):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.gguf") as raised:
        load_model(path, device="cpu")
    assert "\n" not in str(raised.value)


def test_a_generation_configuration_that_is_a_list(copy):
    (copy / "generation_config.json").write_text("[]")
    with pytest.raises(ValueError, match="its files describe no model"):
        load_model(copy, device="cpu")
