"""Prices for a model that nobody tuned: what the rule rests on, and what it changes."""

import pytest
import torch
from conftest import relative

from seqedit.algebra.compact import compacted
from seqedit.algebra.solve import solve_update
from seqedit.algebra.subspace import null_space
from seqedit.runs.engine import run
from seqedit.runs.records import load_run
from seqedit.runs.scale import PRICE, QUIET, scaled_to
from seqedit.runs.settings import build_settings


@pytest.fixture
def text():
    """Keys of a text with directions of very different use, (d_ff, n), and their second moment."""
    g = torch.Generator().manual_seed(0)
    K = torch.logspace(-2, 1, 30, dtype=torch.float64)[:, None] * torch.randn(
        30, 400, generator=g, dtype=torch.float64
    )
    return K, K @ K.T / 400


def test_thm_ordinary_key(text):
    """The mean over a text of kᵀC⁻¹k is d_ff, and that of kᵀPk is tr(PC), up to float64's round-off
    times the condition number of C, 1e6; over keys of another text they are neither.
    """
    K, C = text
    P = null_space(C, 1e-2).basis

    def means(keys):
        leverage = (keys * torch.linalg.solve(C, keys)).sum(0).mean()
        return leverage, (P.T @ keys).square().sum(0).mean()

    leverage, quiet = means(K)
    assert leverage.item() == pytest.approx(30, rel=1e-9)
    assert quiet.item() == pytest.approx((P.T @ C @ P).trace().item(), rel=1e-9)
    leverage, quiet = means(K.flip(0))
    assert leverage > 300 and quiet > 2 * (P.T @ C @ P).trace()


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
def test_share_of_a_residual_that_is_written(text, method):
    """A key that costs what an ordinary one does gets 1 / (1 + PRICE) of its residual, with either
    price, on this model and on one whose activations are a thousand times as large.
    """
    for scale in (1.0, 1e3):
        C = scale**2 * text[1]
        settings = build_settings(method, {"layers": (0,)})
        settings = scaled_to(settings, {0: C.float()}, {})
        key, R = torch.ones(30, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
        if method == "memit":
            key *= (30 / (key.T @ torch.linalg.solve(C, key))).sqrt()
            update = solve_update(key, R, M=settings.parameters["lam"] * C)
        else:
            space = null_space(C, settings.parameters["threshold"])
            B = space.basis
            assert B.shape[1] == round(QUIET * 30)
            key *= ((B.T @ C @ B).trace() / (B.T @ key).square().sum()).sqrt()
            eye = torch.eye(30, dtype=torch.float64)
            update = solve_update(key, R, M=settings.parameters["l2"] * eye, basis=B)
        # settings have three digits
        assert relative(update @ key, R / (1 + PRICE)) < 1e-3


def test_what_is_given_stays(text):
    moments = {0: text[1].float()}
    said = []
    settings = build_settings("betaedit", {"layers": (0,), "lam": 7.0})
    found = scaled_to(settings, moments, {"lam": 7.0}, said.append).parameters
    assert found["lam"] == 7.0 and {"l2", "threshold"} <= {
        name for name in found if found[name] != settings.parameters[name]
    }
    (remark,) = said
    assert "lam" not in remark and f"l2 {found['l2']:g}" in remark
    everything = {"lam": 1, "l2": 1, "threshold": 1}
    assert scaled_to(settings, moments, everything, said.append) == settings and len(said) == 1
    grace = build_settings("grace", {"layers": (0,)})
    assert scaled_to(grace, moments, {}, said.append) == grace and len(said) == 1


def test_compact_moments_scale_alike(text):
    """Where the floor lies below τ nothing is lost but the order within the null space."""
    settings = build_settings("alphaedit", {"layers": (0,)})
    whole = scaled_to(settings, {0: text[1]}, {}).parameters
    short = scaled_to(settings, {0: compacted(text[1], 1e-2)}, {}).parameters
    assert short["threshold"] == whole["threshold"]
    assert short["l2"] == pytest.approx(whole["l2"], rel=1e-2)


def test_a_run_without_settings_is_scaled(space):
    """The record has what was used; what is given or comes from a file is left alone."""
    run(space.config(settings={"layers": [0, 1], "steps": 4}), space.out)
    assert load_run(space.out).run["parameters"]["parameters"]["lam"] == PRICE * 64
    given = space.folder / "given"
    run(space.config(), given)
    assert load_run(given).run["parameters"]["parameters"]["lam"] == 0.5
    hyper = space.folder / "from-file"
    file = space.write("hyper.json", {"layers": [0, 1], "steps": 4})
    run(space.config(settings={}, hyper=file), hyper)
    assert load_run(hyper).run["parameters"]["parameters"]["lam"] != PRICE * 64
