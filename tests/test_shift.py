"""Measures of how far a model's inside moved."""

import math

import pytest
import torch
from conftest import CONTEXTS, build_plan

from seqedit.editing.sequential import run_sequential
from seqedit.evaluation.shift import (
    hidden_shift,
    key_drift,
    plane,
    shift_summary,
    whitened_shift,
)
from seqedit.lm.keys import read_keys
from seqedit.lm.weights import apply_update
from seqedit.methods.memit import memit_seq


def test_hidden_shift():
    """Zero for the same states, 1 for a move as large as the spread, whatever the unit."""
    before = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    spread = (before - before.mean(dim=0)).norm() / 30**0.5
    step = spread * torch.nn.functional.normalize(torch.ones(5), dim=0)
    assert hidden_shift(before, before) == 0.0
    for unit in (1.0, 7.0):
        assert abs(hidden_shift(unit * before, unit * (before + step)) - 1) < 1e-5  # float32


@pytest.fixture
def cloud():
    """States whose spread falls from direction to direction, and the same states moved."""
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64)).Q
    scale = torch.tensor([30, 10, 3, 1, 0.3, 0.1], dtype=torch.float64)
    before = torch.randn(80, 6, generator=g, dtype=torch.float64) * scale @ axes.T + 5
    after = before + 0.2 * torch.randn(80, 6, generator=g, dtype=torch.float64)
    return before, after


def test_whitened_shift_is_the_formula(cloud):
    """By eigenvectors of the covariance, one direction and one text at a time."""
    before, after = cloud
    variances, U = torch.linalg.eigh(torch.cov(before.T, correction=0))
    expected = []
    for k in reversed(range(6)):
        c = [float(U[:, k] @ (after[i] - before[i])) for i in range(80)]
        sigma = math.sqrt(80 * variances[k])
        expected.append(math.sqrt(80) * sum(map(abs, c)) / 80 / sigma)
    found = whitened_shift(before, after)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_whitened_shift_knows_no_axes_and_no_unit(cloud):
    """A rotation, a unit, another origin change nothing; twice the movement is twice the shift."""
    before, after = cloud
    expected = whitened_shift(before, after)
    Q = torch.linalg.qr(
        torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ).Q
    torch.testing.assert_close(whitened_shift(7 * before @ Q + 3, 7 * after @ Q + 3), expected)
    torch.testing.assert_close(whitened_shift(before, 2 * after - before), 2 * expected)


def test_whitened_shift_weighs_directions_by_their_spread(cloud):
    """The same step weighs more along a direction of low variance; `hidden_shift` cannot tell."""
    before, _ = cloud
    axes = torch.linalg.svd(before - before.mean(dim=0), full_matrices=False).Vh
    high, low = before + axes[0], before + axes[-1]
    assert whitened_shift(before, low).max() > 100 * whitened_shift(before, high).max()
    assert hidden_shift(before, low) == pytest.approx(hidden_shift(before, high))
    assert shift_summary(before, low)["low"] > 1 > shift_summary(before, high)["high"]
    assert shift_summary(before, low)["above_one"] == pytest.approx(1 / 6)


def test_whitened_shift_where_states_do_not_differ(cloud):
    """Directions without spread are left out; what cannot be measured is None, not a number."""
    before, after = cloud
    flat = torch.cat([before, torch.ones(80, 2)], dim=1)
    moved = torch.cat([after, torch.zeros(80, 2)], dim=1)
    torch.testing.assert_close(whitened_shift(flat, moved), whitened_shift(before, after))
    assert len(whitened_shift(before[:4], after[:4])) == 3  # four states span three directions
    assert set(shift_summary(before[:1], after[:1]).values()) == {None}
    assert set(shift_summary(before, after / 0).values()) == {None}
    assert shift_summary(before, before) == dict.fromkeys(("median", "high", "low", "above_one"), 0)


def test_plane_is_spanned_by_principal_axes():
    """The two coordinates carry most of a flat cloud, and a move along its long axis is seen as
    such.
    """
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    cloud = torch.randn(50, 6, generator=generator, dtype=torch.float64) * torch.tensor(
        [5, 2, 0.01, 0.01, 0.01, 0.01]
    )
    before = cloud @ axes.T
    found, moved = (
        torch.tensor(plane(before, before)),
        torch.tensor(plane(before, before + 3 * axes[:, 0])),
    )
    assert found.shape == (50, 2) and found.std(dim=0)[0] > found.std(dim=0)[1] > 1
    shift = (moved - found).mean(dim=0)
    assert abs(shift[0].abs() - 3) < 0.1 and shift[1].abs() < 0.3  # sample axes differ a little


def test_key_drift(tiny_lm, requests):
    """Keys of the first edited layer stay, as nothing before it changes.

    Later ones move by what is read again.
    """
    lm = tiny_lm("gpt2")
    plan = build_plan(lm)
    *_, done = run_sequential(lm, [requests[:3], requests[3:]], memit_seq(0.5), plan)
    found = key_drift(lm, requests, CONTEXTS, "groups", done.state.keys)
    first, *later = plan.layers
    assert found[str(first)] < 1e-6  # float32, other batches
    apply_update(lm, first, 0.5 * torch.randn(16, 64, generator=torch.Generator().manual_seed(0)))
    again = key_drift(lm, requests, CONTEXTS, "groups", done.state.keys)
    for layer in later:
        now = read_keys(lm, requests, CONTEXTS, layer)
        expected = ((now - done.state.keys[layer]).norm() / done.state.keys[layer].norm()).item()
        assert (
            abs(again[str(layer)] - expected) < 1e-5
            and again[str(layer)] > found[str(layer)] > 1e-4
        )
