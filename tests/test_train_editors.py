"""Networks of MEND and RLEdit are trained until they stop learning, on calibration facts only."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from seqedit.base.paths import EDITORS, MODEL, ROOT
from seqedit.lm.load import load_model
from seqedit.methods.kinds.hypernetwork import Hypernetwork, load_hypernetwork
from seqedit.study.editor_losses import LAYERS
from seqedit.study.train_editors import CONFIGS, Stopping, split_facts, train_editor
from seqedit.world.facts import build_world


def test_stopping_keeps_the_best_network():
    """It ends after so many measurements without a lower loss; patience 0 never ends."""
    network = Hypernetwork((0,), (4, 3), rank=2)
    stopping = Stopping(network, patience=2)
    ended = []
    for i, loss in enumerate([3.0, 1.0, 2.0, 1.5]):
        with torch.no_grad():
            network.bias.fill_(float(i))
        ended.append(stopping.note(10 * i, loss))
    assert ended == [False, False, False, True]
    assert stopping.losses == [(0, 3.0), (10, 1.0), (20, 2.0), (30, 1.5)]
    stopping.restore_best()
    assert (network.bias == 1.0).all()
    endless = Stopping(network, patience=0)
    assert not any(endless.note(i, float(i)) for i in range(50))


def test_held_out_facts_are_apart():
    """Training and held-out facts share no subject, and both are calibration facts."""
    world = build_world()
    trained, held_out = split_facts(world)
    assert {f.split for f in trained + held_out} == {"calibration"}
    assert not {f.subject for f in trained} & {f.subject for f in held_out}
    assert len(held_out) > 50 and len(trained) > 3 * len(held_out)


def test_what_is_said_of_the_shipped_network_of_mend():
    """It is that of the first edition, without a record of its training; pages must say so."""
    assert not (EDITORS / "mend.json").exists()
    for page in ("data/README.md", "chapters/measuring.md"):
        assert "MEND's is that of the first edition" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["rledit"])
def test_shipped_networks_were_trained_until_they_stopped_learning(name):
    """Their record says so: the loss fell, and the last measurements brought nothing lower."""
    about = json.loads((EDITORS / f"{name}.json").read_text(encoding="utf-8"))
    losses = [loss for _, loss in about["held_out_loss"]]
    best = losses.index(min(losses))
    assert best > 0 and losses[best] < losses[0]
    assert len(losses) - 1 - best >= about["config"]["patience"] >= 5
    assert about["config"]["steps"] > about["held_out_loss"][-1][0]
    assert about["config"] == asdict(CONFIGS[name])


def test_an_editor_is_trained_and_written(tmp_path, monkeypatch):
    """A few steps on the embedded model: the network loads, and its record lies beside it."""
    for name in CONFIGS:
        few = replace(CONFIGS[name], steps=4, check=2, length=2, batch=4)
        monkeypatch.setitem(CONFIGS, name, few)
        losses = train_editor(name, tmp_path / f"{name}.safetensors")
        assert losses[0][0] == 0 and losses[-1][0] == 4
        lm = load_model(MODEL, device="cpu")
        load_hypernetwork(str(tmp_path / f"{name}.safetensors"), lm, LAYERS)
        about = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert [tuple(one) for one in about["held_out_loss"]] == losses
