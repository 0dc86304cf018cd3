"""Presets are valid settings of every method and model that they name.

They are found by declared ids, and their sources are shown.
"""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner
from workspace import RECORDS

from seqedit.cli.main import app
from seqedit.lm.target_loss import TargetConfig
from seqedit.methods.catalogue import METHODS, method_parameters
from seqedit.runs import resolve as resolve_module
from seqedit.runs.presets import (
    HUB_IDS,
    PRESETS,
    find_preset,
    model_of,
    preset_rows,
)
from seqedit.runs.resolve import find_published, is_chosen, resolve
from seqedit.runs.settings import build_settings

# blocks, edited width and hidden width are those of the models' published configurations
N_LAYERS = {
    **{"gpt2-xl": 48, "gpt-j-6b": 28, "llama-2-7b": 32, "llama-3-8b": 32, "qwen2.5-7b": 28},
    **{"smollm2-135m": 30, "gemma3-270m": 18, "gpt2-medium": 24, "pythia-160m": 12},
    **{"pythia-410m": 24, "tinyllama-1.1b": 22, "llama-3.2-1b": 16},
}
EVERY = [(method, model) for method, models in PRESETS.items() for model in models]


@pytest.mark.parametrize(("method", "model"), EVERY)
def test_every_preset_is_valid(method, model):
    """A preset passes the same code as any file of settings, and nothing of it is lost.

    Its layers exist in the model.
    """
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
    assert set(rows) >= {
        "threshold",
        "l2",
        "layers",
        "lr",
        "clamp",
        "stop_loss",
        "batch_size",
        "max_update_ratio",
    }
    assert rows["l2"] == (
        10.0,
        "github.com/jianghoucheng/AlphaEdit hparams/AlphaEdit/Llama3-8B.json",
    )
    assert rows["lr"][0] == 0.1 and rows["layers"][0] == (4, 5, 6, 7, 8)
    assert "released code" in rows["stop_loss"][1] and "2410.02355" in rows["batch_size"][1]
    assert rows["max_update_ratio"][1].startswith("our default")


def test_fine_tuning_has_no_targets():
    """Of their settings only the end of what is learned is one of fine-tuning; and prompts are
    joined with what continues them for all methods.
    """
    assert {name for name, _, _ in preset_rows("ft", "llama-3-8b")} == {
        "lr",
        "steps",
        "stop_loss",
        "target_end",
        "separator",
        "layers",
        "context_lengths",
        "max_update_ratio",
        "batch_size",
    }


def test_models_are_found_by_declared_ids_only():
    assert model_of("meta-llama/Meta-Llama-3-8B-Instruct") == "llama-3-8b"
    for other in (
        "meta-llama/Llama-3.2-3B",
        "somebody/Meta-Llama-3-8B",
        "llama-3-8b",
        "/models/gpt2-xl",
        "gpt2",
    ):
        assert model_of(other) is None, other
    ids = [i for ids in HUB_IDS.values() for i in ids]
    assert len(set(ids)) == len(ids) and {
        model for models in PRESETS.values() for model in models
    } == set(HUB_IDS)


def test_what_is_not_published():
    """A model or method without published settings is named, with what there is instead.

    ROME on Qwen is published only without C.
    """
    with pytest.raises(
        ValueError, match="no published settings of rome on qwen2.5-7b .*memit.*alphaedit"
    ):
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


def test_who_gets_a_preset(space, tiny_lm, tmp_path, monkeypatch):
    """A model gets the preset of its hub id, unless a file of settings is given or some were
    searched for it.

    Whoever asks for a preset gets it, for any model.
    """
    lm = tiny_lm("gpt2")
    for changes, model in (
        ({"model": "gpt2-xl"}, "gpt2-xl"),
        ({"model": "gpt2"}, None),
        ({}, None),
        ({"preset": "llama-3-8b"}, "llama-3-8b"),
        ({"model": "gpt2-xl", "method": "grace"}, None),
        ({"model": "gpt2-xl", "hyper": space.folder / "hyper.json"}, None),
        ({"model": "gpt2-xl", "method": "prune"}, "gpt2-xl"),
    ):
        assert find_published(space.config(**changes), lm) == model, changes
    monkeypatch.setattr(resolve_module, "HYPER", tmp_path)
    searched = tmp_path / "gpt2-xl" / "shared" / "memit.json"
    searched.parent.mkdir(parents=True)
    searched.write_text('{"clamp": 7.0, "layers": [1]}')
    config = space.config(model="gpt2-xl", method="memit")
    assert find_published(config, lm) is None and is_chosen(config, lm)
    assert resolve(config, lm).target.clamp == 7.0
    assert find_published(replace(config, preset="gpt2-xl"), lm) == "gpt2-xl"
    with pytest.raises(ValueError, match="give --preset or --hyper, not both"):
        space.config(preset="gpt2-xl", hyper=space.folder / "hyper.json")


def test_run_with_a_preset(space):
    """A run takes the values of its preset, but those on the command line win.

    The source is shown, and the name is recorded.
    """
    result = space.call(
        hyper=None, preset="gpt2-xl", layers="0,1", batch_size=None, set=["steps=3", "lam=0.5"]
    )
    assert (
        result.exit_code == 0 and "settings for gpt2-xl: github.com/jianghoucheng" in result.stderr
    )
    run = json.loads((space.out / "run.json").read_text())
    assert run["preset"] == "gpt2-xl" and run["parameters"]["layers"] == [0, 1]
    assert run["parameters"]["batch_size"] == 100 and run["parameters"]["parameters"] == {
        "lam": 0.5
    }
    assert run["parameters"]["target"]["steps"] == 3 and run["parameters"]["target"]["lr"] == 0.5


def test_rounds_of_a_file_stay(space):
    """A preset's batch size is for benchmarks; a file that has rounds keeps them."""
    requests = space.write("rounds.json", {"rounds": [RECORDS[:1], RECORDS[1:]]})
    result = space.call(
        hyper=None,
        preset="gpt2-xl",
        layers="0,1",
        batch_size=None,
        set=["steps=3", "lam=0.5"],
        requests=requests,
    )
    assert result.exit_code == 0
    assert json.loads((space.out / "run.json").read_text())["rounds_done"] == 2


def test_unfitting_preset(space):
    """The message names layers that the model lacks and models without published settings."""
    assert "layers" in space.call(hyper=None, preset="gpt2-xl").stderr
    assert "no model named 'gpt3'" in space.call(hyper=None, preset="gpt3").stderr
    assert not space.out.exists()


def test_command():
    """All, those of a method, and one with its sources."""
    every = CliRunner().invoke(app, ["presets"]).stdout
    assert all(name in every for name in (*PRESETS, *HUB_IDS, "meta-llama/Meta-Llama-3-8B"))
    assert "nse" not in CliRunner().invoke(app, ["presets", "memit"]).stdout
    one = CliRunner().invoke(app, ["presets", "alphaedit", "llama-3-8b"]).stdout
    assert "hparams/AlphaEdit/Llama3-8B.json" in one and "our default; not published there" in one
    wrong = CliRunner().invoke(app, ["presets", "lamda"])
    assert wrong.exit_code == 1 and "no method named 'lamda'" in wrong.stderr
