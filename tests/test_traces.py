"""Traces of edits in the weights alone, on planted cases."""

import numpy as np
import pytest
import torch
from conftest import build_plan, relative

from seqedit.editing.sequential import run_sequential
from seqedit.evaluation.traces import Traces, bottom_rank, objects_read, read_traces
from seqedit.lm.weights import read_weight
from seqedit.methods.rome import r_rome

TOKENS = (5, 17, 40)


def planted(lm, size, count=3):
    """A matrix with `count` rank-one edits of norm `size`, each towards one of `TOKENS`."""
    generator = torch.Generator().manual_seed(3)
    W = read_weight(lm, 1)
    W = W / W.norm()
    head = lm.model.get_submodule(lm.architecture.head).weight
    for i, token in enumerate(TOKENS[:count]):
        u = head[token].float() - head.float().mean(dim=0)
        k = torch.randn(W.shape[1], generator=generator)
        W = W + size * (1 + 0.3 * i) * torch.outer(u / u.norm(), k / k.norm())
    return W


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_planted_objects_are_read(tiny_lm, name):
    """A large edit leads, and its token is the first that it speaks for. Of three at once most are
    read, and few other tokens; small ones leave no trace.
    """
    lm = tiny_lm(name)
    vocabulary = lm.logits(torch.zeros(1, 16)).shape[1]
    one = read_traces(lm, planted(lm, 20.0, count=1), 1)
    assert one.ranks(TOKENS[:1]).tolist() == [0] and one.tokens(1).tolist() == [[TOKENS[0]]]
    opposite = read_traces(lm, -planted(lm, 20.0, count=1), 1)  # the sign of a vector is arbitrary
    assert torch.allclose(opposite.logits, one.logits, atol=1e-4)
    loud, quiet = (read_traces(lm, planted(lm, size), 3) for size in (20.0, 1e-3))
    assert loud.share.sum() > 0.99 > 0.5 > quiet.share.sum() and (np.diff(loud.share) <= 0).all()
    assert objects_read(loud, TOKENS, top=10) > 0.6
    assert objects_read(loud, range(vocabulary), top=10) < 0.1
    assert loud.ranks(TOKENS).mean() < quiet.ranks(TOKENS).mean() / 1.5


def test_ranks_by_hand():
    """The best rank over directions; ties do not count against a token."""
    logits = torch.tensor([[3.0, 2.0, 1.0, 1.0], [0.0, 0.0, 5.0, 4.0]])
    traces = Traces(np.array([0.5, 0.5]), logits)
    assert traces.ranks([0, 1, 2, 3]).tolist() == [0, 1, 0, 1]
    assert traces.tokens(2).tolist() == [[0, 1], [2, 3]]
    assert objects_read(traces, [0, 1, 2, 3], top=1) == 0.5


def test_reversal_of_planted_edits():
    """Edits larger than what they were added to are the leading triplets: without these the
    original is back but for what it had along them. Small edits stay, and the original is damaged.
    """
    generator = torch.Generator().manual_seed(0)
    W0 = torch.randn(16, 64, generator=generator, dtype=torch.float64)
    edits = torch.zeros_like(W0)
    for _ in range(2):
        edits += torch.outer(
            torch.randn(16, generator=generator, dtype=torch.float64),
            torch.randn(64, generator=generator, dtype=torch.float64),
        )
    edits /= edits.norm()
    errors = {}
    for size in (1e-2, 1e4):
        W = W0 + size * edits
        errors[size] = relative(bottom_rank(W, 2), W0)
        left = bottom_rank(W, 2)
        assert torch.linalg.matrix_rank(left) == 14 and torch.allclose(bottom_rank(W, 0), W)
    assert relative(W, W0) > 100 and errors[1e4] < 0.5  # two of sixteen directions are lost
    small = relative(W0 + 1e-2 * edits, W0)
    assert errors[1e-2] > 10 * small
    with pytest.raises(ValueError, match="removed is 16; it must lie between 0 and 15"):
        bottom_rank(W0, 16)


def test_an_edit_is_taken_back(tiny_lm, requests):
    """An update of ROME's, enlarged: without the leading triplet the matrix hardly answers at its
    key, where it answered a hundred times as loudly as before.
    """
    lm = tiny_lm("gpt2")
    W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
    list(run_sequential(lm, [requests[:1]], r_rome(), plan))
    update = read_weight(lm, 1) - W0
    update *= 100 * W0.norm() / update.norm()
    k = torch.linalg.svd(update).Vh[0]
    assert (bottom_rank(W0 + update, 1) @ k).norm() < 0.05 * (update @ k).norm()
    small = 1e-3 * update  # the converse: a tenth of the matrix, hidden among its own directions
    assert (bottom_rank(W0 + small, 1) @ k).norm() > 0.3 * (small @ k).norm()
