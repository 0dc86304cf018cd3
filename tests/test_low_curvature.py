"""CrispEdit, against Adam and the projection written out; and the gradients that it needs."""

import math

import oracles
import pytest
import torch
from conftest import CONTEXTS, build_plan, relative
from test_epochs import gradient_of
from torch.nn.functional import log_softmax

from seqedit.algebra.second_moment import SecondMoment
from seqedit.editing.sequential import run_sequential
from seqedit.lm.gradient_moments import collect_gradient_moments, read_text_features
from seqedit.lm.weights import read_weight, write_weight
from seqedit.methods.breadth_first import locft_bf
from seqedit.methods.curvature import crispedit, crispedit_seq
from seqedit.moments.cache import corpus_gradients
from seqedit.moments.files import load_moments, save_moments
from seqedit.runs.config import RunConfig
from seqedit.runs.job import make_plan
from seqedit.runs.settings import build_settings

TEXTS = ["The sport of Gamith is polo", "Danielle Darrieux plays in New York", "a", ""]
SETTINGS = {"lr": 5e-3, "epochs": 3, "batch": 6, "stop_loss": 1e-9, "share": 0.5}


def literal_gradients(lm, text, layer):
    """Inputs and gradients at the outputs of a layer's matrix, of Σ −log p(token | before)."""
    ids, kept = lm.tokenizer(text)["input_ids"], {}

    def keep(module, args, output):
        kept["x"], kept["out"] = args[0][0], output.detach().requires_grad_()
        return kept["out"]

    with lm.down_proj(layer).register_forward_hook(keep):
        log_p = log_softmax(lm.model(torch.tensor([ids])).logits[0], dim=-1)
    loss = -sum(log_p[t - 1, ids[t]] for t in range(1, len(ids)))
    (g,) = torch.autograd.grad(loss, kept["out"])
    return kept["x"][:-1], g[0, :-1]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradients_of_a_text(exact_lm, name):
    """Every token's gradient is that of the loss of the whole text, which is its own label.

    Batched or alone they are the same, and a text of one token has none.
    """
    lm = exact_lm(name)
    expected = {layer: SecondMoment(16) for layer in (0, 1)}
    for text in TEXTS[:2]:
        rows = [lm.tokenizer(text)["input_ids"]]
        for layer, moment in expected.items():
            x, g = literal_gradients(lm, text, layer)
            found = read_text_features(lm, rows, [layer])[layer]
            assert relative(found.x, x) < 1e-6 and relative(found.g, g) < 1e-6  # float32 copies
            moment.update(g)
    found = collect_gradient_moments(lm, TEXTS, (0, 1), progress=False)
    for layer, moment in expected.items():
        assert found[layer].count == moment.count
        assert relative(found[layer].mean, moment.mean) < 1e-5


def test_gradients_are_cached(tiny_lm, tmp_path, monkeypatch):
    """Like second moments of keys, under another name; a second call reads the file."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS[:2]))
    lm = tiny_lm("gpt2")
    first = corpus_gradients(lm, corpus, [0, 2])
    (path,) = (tmp_path / "cache").glob("gradients-*-2.safetensors")
    tokens = sum(len(lm.tokenizer(text)["input_ids"]) for text in TEXTS[:2])
    assert load_moments(path, "S").counts == {2: tokens - 2}  # the last of each predicts nothing
    with pytest.raises(ValueError, match="holds no tensor named C.<layer>"):
        load_moments(path)
    monkeypatch.setattr("seqedit.moments.cache.collect_gradient_moments", pytest.fail)
    again = corpus_gradients(lm, corpus, [0, 2])
    assert all(torch.equal(first[layer], again[layer]) for layer in (0, 2))
    assert first[2].shape == (16, 16) and torch.linalg.eigvalsh(first[2])[-1] > 0


def trained_literally(lm, requests, plan, *, project, A=None, S=None):
    """The matrix of layer 1 after three epochs of Adam on one batch, projected as asked."""
    A, S = plan.moments[1] if A is None else A, plan.gradients[1] if S is None else S
    W, state, gradient = read_weight(lm, 1), {}, gradient_of(lm, requests)

    def projected(Q):
        return oracles.low_curvature(Q, A, S, SETTINGS["share"])

    for _ in range(3):
        if project == "gradient":
            W = oracles.adam(W, lambda W: projected(gradient(W)), SETTINGS["lr"], state)
        else:
            W = W + projected(oracles.adam(W, gradient, SETTINGS["lr"], state) - W)
    return W


def test_crispedit_is_adam_projected(exact_lm, requests, errors):
    """Both forms: the update of the first stays in the allowed directions.

    That of the second leaves them, because Adam divides entry by entry after the projection.
    """
    updates = {}
    for project in ("step", "gradient"):
        lm, other = exact_lm("gpt2"), exact_lm("gpt2")
        W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
        list(run_sequential(lm, [requests], crispedit(**SETTINGS, project=project), plan))
        expected = trained_literally(other, requests, plan, project=project)
        updates[project] = read_weight(lm, 1) - W0
        error = relative(updates[project], expected - W0)
        assert errors("crispedit", "oracle", error) < 1e-5  # float32 factors; Adam amplifies
    outside = {
        project: relative(oracles.low_curvature(Q, plan.moments[1], plan.gradients[1], 0.5), Q)
        for project, Q in updates.items()
    }
    assert outside["step"] < 1e-5 and outside["gradient"] > 0.1


def test_adam_nscl_is_crispedit_without_outputs(exact_lm, requests):
    """With S = I updates stay in a null space of A; it needs no gradients of a text."""
    lm, other = exact_lm("gpt2"), exact_lm("gpt2")
    W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
    method = crispedit(**SETTINGS, factors="inputs")
    without = build_plan(lm, layers=(1,), gradients={})
    list(run_sequential(lm, [requests], method, without))
    eye = torch.eye(16, dtype=torch.float64)
    expected = trained_literally(other, requests, plan, project="step", S=eye)
    assert relative(read_weight(lm, 1) - W0, expected - W0) < 1e-5
    with pytest.raises(ValueError, match="gradients: none for layer 1"):
        next(run_sequential(lm, [requests], crispedit(**SETTINGS), without))


def test_little_is_left_out_at_a_small_share(tiny_lm, requests):
    """As γ → 0 the sharpest direction alone is left out: nearly LocFT-BF, unlike with a large γ."""
    ends = {}
    for share in (1e-6, 0.9):
        lm = tiny_lm("gpt2")
        W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
        list(run_sequential(lm, [requests], crispedit(**SETTINGS | {"share": share}), plan))
        ends[share] = read_weight(lm, 1) - W0
    lm = tiny_lm("gpt2")
    settings = {name: SETTINGS[name] for name in ("lr", "epochs", "batch", "stop_loss")}
    list(run_sequential(lm, [requests], locft_bf(**settings), plan))
    free = read_weight(lm, 1) - W0
    assert relative(ends[1e-6], free) < 0.3 < 0.5 < relative(ends[0.9], free)


def test_crispedit_seq_merges_the_curvature_of_its_edits(exact_lm, requests, errors):
    """The first round is CrispEdit's; the second projects by (nA + n′A′)/(n + n′), and so for S.

    A′ and S′ are read off the edits' own texts, prompts and objects, after the first round.
    """
    lm, other = exact_lm("gpt2"), exact_lm("gpt2")
    W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
    method = crispedit_seq(**SETTINGS, text_weight=2.0)
    rounds = [requests[:3], requests[3:]]
    first, second = run_sequential(lm, rounds, method, plan)
    write_weight(other, 1, trained_literally(other, rounds[0], plan, project="step"))
    xs, gs = zip(
        *(literal_gradients(other, f"{r.text} {r.target_new}", 1) for r in rounds[0]), strict=True
    )
    x, g = torch.cat(xs), torch.cat(gs)
    A = (2 * plan.moments[1] + 3 * x.T @ x / len(x)) / 5
    S = (2 * plan.gradients[1] + 3 * g.T @ g / len(g)) / 5
    assert relative(first.state.memory["curvature.A.1"], A) < 1e-5
    assert relative(first.state.memory["curvature.S.1"], S) < 1e-5
    expected = trained_literally(other, rounds[1], plan, project="step", A=A, S=S)
    error = relative(read_weight(lm, 1) - W0, expected - W0)
    assert errors("crispedit_seq", "oracle", error) < 1e-4  # float32 factors; Adam amplifies
    assert [done.state.memory["curvature.count"].item() for done in (first, second)] == [5, 8]
    plain = exact_lm("gpt2")
    list(run_sequential(plain, rounds, crispedit(**SETTINGS), plan))
    assert relative(read_weight(plain, 1) - W0, expected - W0) > 1e-2


def test_half_precision(tiny_lm, requests):
    """The float32 master stays in the allowed directions; the model's matrix is rounded from it."""
    lm = tiny_lm("gpt2")
    lm.model.to(torch.bfloat16)
    W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
    (done,) = run_sequential(lm, [requests], crispedit(**SETTINGS), plan)
    update = (read_weight(lm, 1) - W0).double()
    kept = oracles.low_curvature(update, plan.moments[1], plan.gradients[1], 0.5)
    assert relative(update, kept) < 1e-5 and update.norm() > 0
    assert not math.isnan(done.outcomes[0].target_loss)


def test_settings_that_are_none():
    with pytest.raises(ValueError, match="project = 'weights': it must be one of step, gradient"):
        crispedit(project="weights")
    with pytest.raises(ValueError, match="factors = 'none': it must be one of both, inputs"):
        crispedit_seq(factors="none")


def test_gradients_need_a_text(tiny_lm, tmp_path):
    """Second moments of keys from a file bring no text for those of gradients: it is asked for."""
    moments = SecondMoment(64)
    moments.update(torch.randn(200, 64))
    save_moments(tmp_path / "C", {1: moments})
    config = RunConfig(model="", requests="", method="crispedit", moments=tmp_path / "C")
    lm, settings = tiny_lm("gpt2"), build_settings("crispedit", {"layers": [1]})
    with pytest.raises(ValueError, match="corpus: crispedit needs .* --corpus beside --moments"):
        make_plan(config, lm, settings, CONTEXTS)
