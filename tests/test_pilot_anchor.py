"""NAS with the anchor of pilot edits: the norm, what is skipped, and that it is remembered."""

import json
from dataclasses import replace

import oracles
import pytest
import torch
from conftest import CONTEXTS, SIX_REQUESTS, build_plan, relative
from runs import same, weights

from seqedit.editing.sequential import run_sequential
from seqedit.lm.keys import read_keys, read_values
from seqedit.lm.targets import optimise_targets
from seqedit.lm.weights import apply_update, read_weight
from seqedit.methods.alphaedit import alphaedit, nas_pilot
from seqedit.methods.kinds.pilot_anchor import anchor_norm, to_anchor
from seqedit.requests.request import load_rounds


@pytest.fixture
def pilot(tmp_path):
    """A file of four other edits."""
    words = ("prompt", "subject", "target_new", "target_true")
    records = [
        {"case_id": i, **dict(zip(words, texts, strict=True))}
        for i, texts in enumerate(SIX_REQUESTS[:3] + SIX_REQUESTS[4:5])
    ]
    path = tmp_path / "pilot.json"
    path.write_text(json.dumps([r | {"prompt": f"Today, {r['prompt']}"} for r in records]))
    return path


def test_anchor_by_hand():
    """Twenty norms: the largest is dropped. 3 is scaled to 2, 5 is beyond 4 and stays out."""
    norms = [2.0] * 19 + [100.0]
    assert anchor_norm(torch.tensor(norms)[:, None]).item() == 2.0
    assert anchor_norm(torch.tensor([[7.0]])).item() == 7.0
    h, v = torch.tensor([[10.0, 0.0], [20.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    z, skipped = to_anchor(h, v, torch.tensor([[3.0, 0.0], [0.0, 5.0]]), 2.0)
    assert z.tolist() == [[11.0, 0.0], [20.0, 0.0]] and skipped.tolist() == [False, True]


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_values_have_the_norm_of_the_anchor(tiny_lm, requests, pilot, errors, monkeypatch, scale):
    """Two rounds against the paper's rule, the anchor from pilots on the unedited model.

    With an anchor a fifth of it, all values are beyond its double: nothing is written.
    """
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm, layers=(1,))
    if scale != 1.0:
        monkeypatch.setattr(
            "seqedit.methods.kinds.pilot_anchor.anchor_norm", lambda v: scale * anchor_norm(v)
        )
    (pilots,) = load_rounds(pilot)
    found = optimise_targets(other, pilots, CONTEXTS, 1, plan.target)
    values = list(read_values(other, pilots, 1, "mlp").T + found.z - found.h)
    W0, solver = read_weight(lm, 1), alphaedit(0.5, 0.1).solver(plan.moments[1])
    past, state, method = torch.zeros(64, 0), None, nas_pilot(0.5, 0.1, str(pilot))
    for batch in (requests[:3], requests[3:]):
        found = optimise_targets(other, batch, CONTEXTS, 1, plan.target)
        h, v = read_values(other, batch, 1), read_values(other, batch, 1, "mlp")
        pilots_seen = [scale * value for value in values]
        z, anchor = oracles.pilot_anchor(pilots_seen, list(found.z), list(h.T), list(v.T))
        K = read_keys(other, batch, CONTEXTS, 1)
        apply_update(other, 1, solver.update(K, torch.stack(z, dim=1) - h, past))
        past = torch.cat([past, K], dim=1)
        (done,) = run_sequential(lm, [batch], method, plan, state)
        state = done.state
        if scale == 1.0:  # a round in which nothing is written leaves the state as it was
            assert state.memory["value_norm"].item() == pytest.approx(anchor, rel=1e-5)
            assert {o.status for o in done.outcomes} == {"edited"}
        else:
            assert {o.status for o in done.outcomes} == {"refused"}
            assert all("twice the anchor" in o.reason for o in done.outcomes)
    if scale == 1.0:
        error = relative(read_weight(lm, 1) - W0, read_weight(other, 1) - W0)
        assert errors("nas_pilot", "oracle", error) < 1e-4  # float32 weights and targets
    else:
        assert (read_weight(lm, 1) - W0).norm() < 1e-5 * W0.norm()


def test_without_pilots_the_first_round_gives_the_anchor(tiny_lm, requests, pilot):
    """The anchor does not change afterwards, and other pilots give another one."""
    plan, anchors = build_plan(tiny_lm("gpt2")), {}
    for file in ("", str(pilot)):
        lm = tiny_lm("gpt2")
        method = nas_pilot(0.9, 0.5, file)
        first, last = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
        anchors[file] = first.state.memory["value_norm"]
        assert torch.equal(anchors[file], last.state.memory["value_norm"])
    assert not torch.allclose(*anchors.values(), rtol=1e-4)


def test_pilots_are_found_on_the_unedited_model(tiny_lm, requests, pilot):
    """A run that is continued in a model edited meanwhile has the same anchor and the same bits."""
    lm, second = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, method = build_plan(lm), nas_pilot(0.9, 0.5, str(pilot))
    *_, whole = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
    (first,) = run_sequential(second, [requests[:3]], method, plan)
    forgotten = {k: v for k, v in first.state.memory.items() if k != "value_norm"}
    state = replace(first.state, memory=forgotten)
    (last,) = run_sequential(second, [requests[3:]], method, plan, state)
    assert same(weights(lm), weights(second))
    assert torch.equal(whole.state.memory["value_norm"], last.state.memory["value_norm"])
    with pytest.raises(ValueError, match=r"none\.json"):
        next(run_sequential(second, [requests], nas_pilot(0.9, pilot="none.json"), plan))
