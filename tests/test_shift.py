"""Measures of how far a model's inside moved."""

import torch
from conftest import CONTEXTS, build_plan

from seqedit.editing.sequential import run_sequential
from seqedit.evaluation.shift import hidden_shift, key_drift, plane
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
