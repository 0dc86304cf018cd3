"""StableEdit: its closed form, its ablations, and a warm-up on other edits."""

import json

import oracles
import pytest
import torch
from conftest import SIX_REQUESTS, build_plan, relative
from runs import same, weights

from seqedit.editing.sequential import run_sequential
from seqedit.lm.likelihood import read_features
from seqedit.lm.target_loss import learned_rows
from seqedit.lm.weights import read_weight, write_weight
from seqedit.methods.from_gradients import ultraedit
from seqedit.methods.kinds.stable import add_scatter, whitened
from seqedit.methods.stableedit import stableedit

SETTINGS = {"eta": 0.01, "ridge": 2.0}


@pytest.fixture
def file(tmp_path):
    """A file of three other edits."""
    words = ("prompt", "subject", "target_new", "target_true")
    records = [
        {"case_id": i, **dict(zip(words, texts, strict=True))}
        for i, texts in enumerate(SIX_REQUESTS[::2])
    ]
    path = tmp_path / "others.json"
    path.write_text(json.dumps([r | {"prompt": f"Today, {r['prompt']}"} for r in records]))
    return str(path)


def moments(rounds):
    """Gradients' covariance of all rows of rounds, with the divisor n − d − 1."""
    scatter = count = mean = None
    for rows in rounds:
        running = None if count is None else torch.stack([torch.full_like(mean, count), mean, mean])
        scatter = add_scatter(running, scatter, rows)
        before = rows[:0] if count is None else torch.cat(seen)
        seen = [before, rows]
        count, mean = len(before) + len(rows), torch.cat(seen).mean(0)
    return scatter


def test_whitening():
    """Joined round by round the scatter is that of all; whitened gradients have covariance I.

    A direction that never varied is divided by the floor's root, not by zero.
    """
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    rounds = [torch.randn(n, 4, generator=generator, dtype=torch.float64) @ mix for n in (1, 9, 30)]
    everything = torch.cat(rounds)
    centred = everything - everything.mean(0)
    scatter = moments(rounds)
    assert torch.allclose(scatter, centred.T @ centred)
    found = whitened(centred, scatter, 40)
    assert torch.allclose(found.T @ found / 35, torch.eye(4, dtype=torch.float64))
    standard = centred / everything.std(0)
    assert not torch.allclose(standard.T @ standard / 39, torch.eye(4, dtype=torch.float64))
    flat = torch.zeros(4, 4, dtype=torch.float64)
    assert torch.allclose(whitened(centred, flat, 40), 1e3 * centred)


@pytest.mark.parametrize("whiten", [True, False])
def test_stableedit_is_its_closed_form(tiny_lm, requests, errors, whiten):
    """Two rounds, the second with statistics of both; d_model is 16 and tokens are more."""
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm)
    name = "whitened" if whiten else "standardised"
    method, state, seen = stableedit(**SETTINGS, normalisation=name), None, {0: [], 1: []}
    for batch in (requests[:2], requests[2:]):
        features, _, _ = read_features(other, learned_rows(other, batch, plan.target), (0, 1))
        (done,) = run_sequential(lm, [batch], method, plan, state)
        state = done.state
        for layer in (0, 1):
            seen[layer].append((features[layer].x, features[layer].g))
            expected = oracles.stableedit(seen[layer], **SETTINGS, whiten=whiten)[-1]
            error = relative(read_weight(lm, layer) - read_weight(other, layer), expected)
            assert errors("stableedit", "oracle", error) < 1e-4  # float32 weights
            write_weight(other, layer, read_weight(lm, layer))
    count = state.memory["features.0"][0, 0]
    assert count > 17 > len(seen[0][0][0])  # whitening began with the second round
    other_way = oracles.stableedit(seen[1], **SETTINGS, whiten=not whiten)[-1]
    assert relative(other_way, expected) > 1e-2


def test_standardised_is_ultraedit(tiny_lm, requests):
    """Bit for bit; and whitened it is not."""
    ends = {}
    for method in (ultraedit(**SETTINGS), stableedit(**SETTINGS, normalisation="standardised")):
        lm = tiny_lm("gpt2")
        list(run_sequential(lm, [requests[:3], requests[3:]], method, build_plan(lm)))
        ends[method.name] = weights(lm)
    assert same(ends["UltraEdit"], ends["StableEdit"])


def test_without_normalisation_and_frozen(tiny_lm, requests):
    """Keys and gradients as they are; statistics of the first round in the second."""
    lm = tiny_lm("gpt2")
    plan, W0 = build_plan(lm), read_weight(lm, 1)
    rows = learned_rows(lm, requests, plan.target)
    H, G = read_features(lm, rows, (0, 1))[0][1][:2]
    list(run_sequential(lm, [requests], stableedit(**SETTINGS, normalisation="none"), plan))
    V = torch.stack([-0.01 * (a @ a) * b for a, b in zip(H.double(), G.double(), strict=True)])
    eye = torch.eye(64, dtype=torch.float64)
    expected = (torch.linalg.inv(H.T.double() @ H.double() + 2 * eye) @ H.T.double() @ V).T
    assert relative(read_weight(lm, 1) - W0, expected) < 1e-4

    kept = {}
    for statistics in ("running", "frozen"):
        lm = tiny_lm("gpt2")
        method = stableedit(**SETTINGS, statistics=statistics)
        one, two = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
        kept[statistics] = one.state.memory, two.state.memory, read_weight(lm, 1)
    assert same(*kept["frozen"][:2]) and not same(*kept["running"][:2])
    assert same(kept["frozen"][0], kept["running"][0])
    assert relative(kept["frozen"][2], kept["running"][2]) > 1e-4


@pytest.mark.parametrize("effect", ["statistics", "edits"])
def test_warm_up(tiny_lm, requests, file, effect):
    """Its statistics stay either way, its edits only where asked for; it passes once, before the
    first round, and a continued run does not repeat it.
    """
    lm, second = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm)
    method = stableedit(**SETTINGS, warm_up=file, warm_up_effect=effect)
    first, last = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
    (begun,) = run_sequential(second, [requests[:3]], method, plan)
    (ended,) = run_sequential(second, [requests[3:]], method, plan, begun.state)
    assert same(weights(lm), weights(second)) and same(ended.state.memory, last.state.memory)
    others = method.writer(lm, plan).others
    tokens = [len(row.continuation) for row in learned_rows(lm, others + requests[:3], plan.target)]
    assert first.state.memory["features.1"][0, 0] == sum(tokens) and len(first.outcomes) == 3

    alone = tiny_lm("gpt2")  # the converse: the warm-up as a round of its own
    plain = stableedit(**SETTINGS)
    list(run_sequential(alone, [others, requests[:3], requests[3:]], plain, plan))
    assert same(weights(alone), weights(lm)) == (effect == "edits")


def test_refused(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    with pytest.raises(ValueError, match="normalisation = 'some': must be one of whitened, standa"):
        stableedit(normalisation="some")
    with pytest.raises(ValueError, match=r"none\.json"):
        next(run_sequential(lm, [requests], stableedit(warm_up="none.json"), build_plan(lm)))
