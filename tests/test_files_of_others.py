"""Covariances and settings of released repositories, and files that are never opened."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from seqedit.cli.main import app
from seqedit.moments.files import load_moments
from seqedit.runs.hyper_files import read_hyper
from seqedit.runs.settings import build_settings

NAME = "transformer.h.{}.mlp.c_proj_float32_mom2_100.npz"
YAML = """
alg_name: "MEMIT"
model_name: "./hugging_cache/gpt2"
stats_dir: "./data/stats"
device: 0
layers: [0, 1]
layer_selection: "all"
fact_token: "subject_last"
v_num_grad_steps: 4
v_lr: 5e-1
v_loss_layer: 2
v_weight_decay: 1e-3
clamp_norm_factor: 4
kl_factor: 0.0625
mom2_adjustment: true
mom2_update_weight: 15000
rewrite_module_tmp: "transformer.h.{}.mlp.c_proj"
layer_module_tmp: "transformer.h.{}"
mlp_module_tmp: "transformer.h.{}.mlp"
attn_module_tmp: "transformer.h.{}.attn"
ln_f_module: "transformer.ln_f"
lm_head_module: "lm_head"
mom2_dataset: "wikipedia"
mom2_n_samples: 100
mom2_dtype: "float32"
model_parallel: false
"""


def released(path, layer=1, d=64, n=200, **changes):
    """A released file of n random keys, some of its arrays changed; returns their mean k kᵀ."""
    keys = np.random.default_rng(layer).normal(size=(n, d)).astype(np.float32)
    arrays = {
        "mom2.constructor": np.array("util.runningstats.SecondMoment()"),
        "mom2.count": np.array(n),
        "mom2.mom2": keys.T @ keys,
        "sample_size": np.array(100),
    }
    with open(path / NAME.format(layer), "wb") as file:
        np.savez(file, **{k: v for k, v in (arrays | changes).items() if v is not ...})
    return torch.from_numpy(keys.T @ keys / n)


def test_released_sums_are_divided_by_their_count(tmp_path):
    C = released(tmp_path)
    loaded = load_moments(tmp_path / NAME.format(1))
    assert loaded.counts == {1: 200}
    torch.testing.assert_close(loaded.C[1], C)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mom2.count": ...}, "it has no mom2.count, but mom2.constructor, mom2.mom2"),
        ({"mom2.count": np.array(0)}, "mom2.count is 0"),
        ({"mom2.count": np.array([1, 2])}, "mom2.count is"),
        ({"mom2.mom2": -np.eye(4)}, "mom2.mom2 is no sum of k kᵀ: its diagonal has negative"),
        ({"mom2.mom2": np.array(["a"])}, "mom2.mom2 is of type"),
        ({"mom2.mom2": np.array([None])}, "cannot be read as released moments"),
    ],
)
def test_other_arrays_are_refused(tmp_path, changes, message):
    """A pickled array among them, which is not opened."""
    released(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        load_moments(tmp_path / NAME.format(1))
    assert NAME.format(1) in str(raised.value)


def test_names_and_damaged_files(tmp_path):
    released(tmp_path)
    path = tmp_path / NAME.format(1)
    other = path.rename(tmp_path / "moments.npz")
    with pytest.raises(ValueError, match="moments.npz: the name does not say the layer"):
        load_moments(other)
    path.write_bytes(other.read_bytes()[:-30])
    with pytest.raises(ValueError, match="cannot be read as released moments"):
        load_moments(path)


def test_several_layers_are_imported(space):
    """And used by a run, which one layer alone cannot make."""
    found = {layer: released(space.folder, layer) for layer in (0, 1)}
    files = [str(space.folder / NAME.format(layer)) for layer in found]
    out = space.folder / "moments.safetensors"
    call = CliRunner().invoke(app, ["moments", "import", *files, "--out", str(out)])
    assert call.exit_code == 0 and "200 tokens, layers 0, 1" in call.output
    loaded = load_moments(out)
    for layer, C in found.items():
        torch.testing.assert_close(loaded.C[layer], C)
    result = space.call(moments=out, corpus=None, n_edits=2)
    assert result.exit_code == 0, result.output
    twice = CliRunner().invoke(app, ["moments", "import", files[0], files[0], "--out", str(out)])
    assert twice.exit_code == 1 and "second file of layer 0" in twice.output


def test_one_released_file_is_used_as_it_is(space):
    released(space.folder)
    result = space.call(
        moments=space.folder / NAME.format(1), corpus=None, n_edits=2, layers="1", set=["steps=2"]
    )
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("ending", [".pt", ".pth", ".pkl", ".PT"])
def test_pickles_are_never_opened(tmp_path, tiny_lm, ending):
    """The message says why, and what to take instead."""
    path = tmp_path / f"null_space_project{ending}"
    torch.save(torch.eye(3), path)
    with pytest.raises(ValueError, match="can run code .* take the released covariances"):
        load_moments(path)
    with pytest.raises(ValueError, match="can run code .* write the settings as JSON or YAML"):
        read_hyper(path, "memit", tiny_lm("gpt2"), True)


def test_easyedits_yaml(space, tiny_lm):
    """Its names are ours or said to have no effect; 5e-1 is a number."""
    path = space.write("memit.yaml", YAML)
    values, remarks = read_hyper(path, "memit", tiny_lm("gpt2"), True)
    settings = build_settings("memit", values)
    assert (settings.layers, settings.target.lr, settings.target.weight_decay) == (
        (0, 1),
        0.5,
        1e-3,
    )
    assert settings.parameters["lam"] == 15000 and settings.target.clamp == 4
    ignored = {"model_name", "stats_dir", "device", "attn_module_tmp", "mlp_module_tmp"}
    assert ignored <= {remark.split()[0] for remark in remarks}
    result = space.call(hyper=path, method="memit", n_edits=2)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.yaml", "v_lrr: 0.1\n", "unknown field 'v_lrr'; memit takes 'v_lr', which is most"),
        ("h.json", '{"stepz": 3}', "unknown field 'stepz'; memit takes 'steps', which"),
        ("h.yaml", "lr: 1\nlr: 2\n", "the field 'lr' occurs 2 times"),
        ("h.json", '{"lr": 1, "lr": 2}', "the field 'lr' occurs 2 times"),
        ("h.yaml", "lr: [1\n", "h.yaml cannot be read: while parsing"),
        ("h.yaml", "!!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("h.yaml", "- 1\n", "must hold an object of settings"),
        (
            "h.yaml",
            "fact_token: last\n",
            "cannot be honoured; here it is .* if the field is left out",
        ),
    ],
)
def test_faulty_settings_are_named(tmp_path, tiny_lm, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_hyper(tmp_path / name, "memit", tiny_lm("gpt2"), True)
    assert name in str(raised.value) and "\n" not in str(raised.value)


def test_a_setting_with_an_unknown_name():
    with pytest.raises(
        ValueError, match="memit has no setting 'lamm'; it takes 'lam', which is most like"
    ):
        build_settings("memit", {"layers": [1], "lamm": 3})
    with pytest.raises(ValueError, match="memit has no setting 'xyz'; it takes lam"):
        build_settings("memit", {"layers": [1], "xyz": 3})
