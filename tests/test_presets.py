"""Presets: valid settings of every method and model they name, found by declared ids, sources told."""

import json

import pytest

from seqedit.lm.targets import TargetConfig
from seqedit.methods import METHODS, method_parameters
from seqedit.study.hyper import build_settings
from seqedit.study.presets import HUB_IDS, PRESETS, find_preset, model_of, preset_rows

# blocks, edited width and hidden width are those of the models' published configurations
N_LAYERS = {"gpt2-xl": 48, "gpt-j-6b": 28, "llama-2-7b": 32, "llama-3-8b": 32, "qwen2.5-7b": 28}
EVERY = [(method, model) for method, models in PRESETS.items() for model in models]


@pytest.mark.parametrize(("method", "model"), EVERY)
def test_every_preset_is_valid(method, model):
    """The same settings code takes it as any file of settings; layers exist; nothing of it is lost."""
    preset = find_preset(method, model)
    settings = build_settings(method, preset.settings)
    assert settings.make().name and settings.layers[-1] < N_LAYERS[model] and preset.source
    assert len(settings.layers) == 1 or not settings.make().one_at_a_time
    told = vars(settings.target) | vars(settings) | settings.parameters
    for name, value in preset.settings.items():
        assert json.loads(json.dumps(told[name])) == value, name


def test_sources():
    """A value read in a file, one fixed in code, one of a paper, one of ours: each says so."""
    rows = {name: (value, source) for name, value, source in preset_rows("alphaedit", "llama-3-8b")}
    assert set(rows) >= {"threshold", "l2", "layers", "lr", "clamp", "stop_loss", "batch_size", "max_update_ratio"}
    assert rows["l2"] == (10.0, "github.com/jianghoucheng/AlphaEdit hparams/AlphaEdit/Llama3-8B.json")
    assert rows["lr"][0] == 0.1 and rows["layers"][0] == (4, 5, 6, 7, 8)
    assert "released code" in rows["stop_loss"][1] and "2410.02355" in rows["batch_size"][1]
    assert rows["max_update_ratio"][1].startswith("our default")


def test_fine_tuning_has_no_targets():
    assert {name for name, _, _ in preset_rows("ft", "llama-3-8b")} == {
        "lr", "steps", "stop_loss", "layers", "context_lengths", "max_update_ratio", "batch_size"}


def test_models_are_found_by_declared_ids_only():
    assert model_of("meta-llama/Meta-Llama-3-8B-Instruct") == "llama-3-8b"
    for other in ("meta-llama/Llama-3.2-3B", "somebody/Meta-Llama-3-8B", "llama-3-8b", "/models/gpt2-xl", "gpt2"):
        assert model_of(other) is None, other
    ids = [i for ids in HUB_IDS.values() for i in ids]
    assert len(set(ids)) == len(ids) and {model for models in PRESETS.values() for model in models} == set(HUB_IDS)


def test_what_is_not_published():
    """ROME on Qwen is published without C only; a model or method nobody published is named with what there is."""
    with pytest.raises(ValueError, match="no published settings of rome on qwen2.5-7b .*memit.*alphaedit"):
        find_preset("rome", "qwen2.5-7b")
    with pytest.raises(ValueError, match="no model named 'llama'; there are gpt2-xl"):
        find_preset("memit", "llama")
    assert find_preset("prune", "gpt2-xl") == find_preset("memit_prune", "gpt2-xl")
    assert find_preset("alphaedit+prune", "gpt2-xl") == find_preset("alphaedit", "gpt2-xl")


def test_methods_and_defaults():
    """Every method of a preset exists; targets' defaults are GPT-J's, as their docstring says."""
    assert set(PRESETS) <= set(METHODS)
    settings = build_settings("memit", find_preset("memit", "gpt-j-6b").settings)
    assert settings.target == TargetConfig() and settings.parameters == method_parameters("memit")
