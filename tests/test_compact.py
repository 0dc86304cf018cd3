"""Compact second moments: exact above their floor, refused below it, smaller.

1e-9 and 1e-5: round-off of a solve in float64, and of eigenvectors that were kept in float32.
"""

import pytest
import torch
from conftest import build_plan, relative

from seqedit.algebra.compact import CompactMoment, compacted, whole
from seqedit.algebra.diagnostics import drift
from seqedit.algebra.second_moment import SecondMoment
from seqedit.algebra.subspace import null_space
from seqedit.editing.sequential import run_sequential
from seqedit.lm.weights import read_weight
from seqedit.methods.catalogue import METHODS, make_method
from seqedit.moments.files import (
    Moments,
    load_moments,
    save_compact,
    save_moments,
)


@pytest.fixture
def C():
    """(60, 60) with a spectrum from 10 down to 1e-4, as steep as those of real layers."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64))[0]
    return (Q * torch.logspace(1, -4, 60, dtype=torch.float64)) @ Q.T


def test_exact_where_it_is_kept(C):
    """CV = Vλ; everything else is the mean of the eigenvalues below the floor, so the trace is that
    of C.
    """
    small = compacted(C, 1e-2)
    assert torch.allclose(C @ small.vectors, small.vectors * small.values, atol=1e-12)
    assert (small.values >= 1e-2).all() and 0 < len(small.values) < 60 and small.shape == (60, 60)
    assert small.values.sum() + small.rest * (60 - len(small.values)) == pytest.approx(
        C.trace().item()
    )


@pytest.mark.parametrize("threshold", [1e-2, 0.05, 1.0, 20.0])
def test_the_null_space_is_that_of_C(C, threshold):
    """For every τ from the floor on, P is the same, held by d·k numbers instead of d²."""
    space, expected = null_space(compacted(C, 1e-2), threshold), null_space(C, threshold)
    eye = torch.eye(60, dtype=torch.float64)
    assert relative(space.project(eye), expected.project(eye)) < 1e-9
    assert space.vectors.shape[1] == int((torch.linalg.eigvalsh(C) >= threshold).sum())


def test_what_the_floor_removed_is_refused(C):
    with pytest.raises(
        ValueError, match="threshold is 0.009, but these compact .* keep nothing below 0.01"
    ):
        null_space(compacted(C, 1e-2), 9e-3)
    with pytest.raises(ValueError, match="no direction of key space"):
        null_space(compacted(C, 1e-5), 2e-5)
    with pytest.raises(ValueError, match="floor is 0; it must be positive"):
        compacted(C, 0.0)
    with pytest.raises(ValueError, match="prices movement in every direction"):
        whole(compacted(C, 1e-2))
    assert whole(C) is C


def test_drift_of_a_compact_moment(C):
    """Exact for what the kept directions see.

    An estimate for the rest, off by no more than the floor.
    """
    small = compacted(C, 1e-2)
    generator = torch.Generator().manual_seed(1)
    seen = (
        torch.randn(4, len(small.values), generator=generator, dtype=torch.float64)
        @ small.vectors.T
    )
    assert drift(seen, small) == pytest.approx(drift(seen, C))
    update = torch.randn(4, 60, generator=generator, dtype=torch.float64)
    assert 0 < abs(drift(update, small) - drift(update, C)) < 1e-2 * update.square().sum()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_alphaedit_writes_the_same(tiny_lm, requests, tmp_path, dtype, tolerance):
    """Saved, loaded, used in two rounds with history: the weights that the whole C gives."""
    found = {}
    for compact in (False, True):
        lm = tiny_lm("gpt2")
        lm.model.double()
        plan = build_plan(lm)
        if compact:
            path = tmp_path / "compact.safetensors"
            small = {layer: compacted(plan.moments[layer], 0.7) for layer in plan.layers}
            save_compact(path, small, Moments({}), dtype)
            plan = build_plan(lm, moments=load_moments(path).C)
            assert all(isinstance(C, CompactMoment) for C in plan.moments.values())
        method = make_method("alphaedit", threshold=0.9, l2=0.5)
        done = list(run_sequential(lm, [requests[:3], requests[3:]], method, plan))
        assert all(outcome.status == "edited" for r in done for outcome in r.outcomes)
        found[compact] = {
            layer: read_weight(lm, layer) - done[-1].state.original[layer] for layer in plan.layers
        }
    for layer, update in found[False].items():
        assert relative(found[True][layer], update) < tolerance


@pytest.mark.parametrize(
    "name", ["memit", "memit_seq", "rome", "encore", "lyaplock", "nse", "emmet"]
)
def test_methods_that_need_all_of_C_say_so(tiny_lm, requests, name):
    lm = tiny_lm("gpt2")
    plan = build_plan(lm, layers=(0,))
    plan = build_plan(lm, layers=(0,), moments={0: compacted(plan.moments[0], 0.5)})
    with pytest.raises(ValueError, match="they are compact"):
        next(run_sequential(lm, [requests], METHODS[name](), plan))


def test_a_compact_file_is_smaller(tmp_path, C):
    """A file of d·k numbers instead of d²: here 36 of 60 directions are above the floor."""
    moment = SecondMoment(600)
    moment.sum += torch.block_diag(*10 * [C])
    moment.count = 1
    save_moments(tmp_path / "whole", {0: moment})
    small = compacted(moment.mean, 1e-2)
    save_compact(tmp_path / "compact", {0: small}, load_moments(tmp_path / "whole"))
    assert load_moments(tmp_path / "compact").counts == {0: 1}
    ratio = (tmp_path / "compact").stat().st_size / (tmp_path / "whole").stat().st_size
    assert ratio == pytest.approx(len(small.values) / 600, rel=0.05) and ratio < 0.7
