"""Editors without targets, against literal transcriptions.

They are fine-tuning, editors with gradients as keys and residuals, and a codebook.
"""

import math
from dataclasses import replace

import pytest
import torch
from conftest import MODEL_TYPES, build_plan, hook_count, relative
from runs import method_and_plan, network_for, same, weights
from torch.nn.functional import log_softmax

from seqedit.algebra.restrain import compress
from seqedit.editing.sequential import handed_over, run_sequential
from seqedit.evaluation.continuations import exact_match
from seqedit.lm.keys import BARE, read_keys
from seqedit.lm.likelihood import (
    log_likelihood,
    read_features,
    shifted,
)
from seqedit.lm.target_loss import TargetConfig
from seqedit.lm.tokens import continuation_rows
from seqedit.lm.weights import read_weight
from seqedit.methods.combinators import null_space, prune, with_history
from seqedit.methods.fine_tuned import ft, ft_l, ft_m
from seqedit.methods.from_gradients import mend, rledit, ultraedit
from seqedit.methods.grace import grace
from seqedit.methods.kinds.codebook import place, target_label
from seqedit.methods.kinds.gradients import learned_residuals, mend_update
from seqedit.methods.kinds.hypernetwork import (
    Hypernetwork,
    add_features,
    both,
    load_hypernetwork,
    save_hypernetwork,
    standardised,
)


def literal_loss(lm, request, at_prompt=False):
    """−log p of the target, mean over its tokens, from one whole forward pass of one request."""
    prompt = lm.tokenizer(request.text)["input_ids"]
    whole = lm.tokenizer(f"{request.text} {request.target_new}")["input_ids"]
    log_p = log_softmax(lm.model(torch.tensor([whole])).logits[0], dim=-1)
    start = len(prompt)
    return -torch.stack(
        [log_p[start - 1 if at_prompt else t - 1, whole[t]] for t in range(start, len(whole))]
    ).mean()


def rows_of(lm, requests):
    return continuation_rows(lm, [r.text for r in requests], [r.target_new for r in requests])


@pytest.mark.parametrize("name", MODEL_TYPES)
@pytest.mark.parametrize("at_prompt", [False, True])
def test_log_likelihood(tiny_lm, requests, name, at_prompt):
    """In one padded batch as one by one; 1e-5 allows for float32 in another order."""
    lm = tiny_lm(name)
    said, right = log_likelihood(lm, rows_of(lm, requests), at_prompt=at_prompt)
    expected = torch.stack([-literal_loss(lm, request, at_prompt) for request in requests])
    assert torch.allclose(said, expected, atol=1e-5)
    if not at_prompt:
        assert (
            right.tolist()
            == exact_match(
                lm, [r.text for r in requests], [r.target_new for r in requests]
            ).tolist()
        )


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_features(tiny_lm, requests, name, everywhere):
    """Σ g xᵀ over all tokens is autograd's gradient of the loss in the matrix.

    The hooks are gone afterwards.
    """
    lm = tiny_lm(name)
    features, said, _ = read_features(lm, rows_of(lm, requests), (0, 1), everywhere=everywhere)
    assert hook_count(lm) == 0
    counts = [
        len(row.ids) if everywhere else len(row.continuation) for row in rows_of(lm, requests)
    ]
    assert torch.bincount(features[0].row).tolist() == counts
    for layer in (0, 1):
        weight = lm.down_proj(layer).weight.requires_grad_()
        (gradient,) = torch.autograd.grad(sum(literal_loss(lm, r) for r in requests), weight)
        weight.requires_grad_(False)
        gradient = gradient.T if name == "gpt2" else gradient  # Conv1D is in × out
        found = features[layer].g.T @ features[layer].x
        if everywhere:
            assert relative(found, gradient) < 1e-4  # float32, sums in another order
        else:
            assert relative(found, gradient) > 1e-2  # the prompt's tokens have gradients too


def test_shifted_acts_like_the_update(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    before, updates = (
        weights(lm),
        {layer: 0.1 * torch.randn(16, 64).requires_grad_() for layer in (0, 2)},
    )
    with shifted(lm, updates):
        said, _ = log_likelihood(lm, rows_of(lm, requests))
    slope = torch.autograd.grad(said.sum(), list(updates.values()))
    assert all(s.norm() > 0 for s in slope) and same(weights(lm), before) and hook_count(lm) == 0
    for layer, update in updates.items():
        lm.down_proj(layer).weight.data += update.detach().T
    assert torch.allclose(log_likelihood(lm, rows_of(lm, requests))[0], said, atol=1e-5)


@pytest.mark.parametrize(("method", "at_prompt"), [(ft, True), (ft_m, False), (ft_l, True)])
def test_fine_tuning(tiny_lm, requests, method, at_prompt, errors):
    """Fine-tuning is `torch.optim.Adam` on the mean loss of the requests, taken one at a time.

    ε is a box around the start.
    """
    settings = {"lr": 5e-3, "steps": 4} | ({"epsilon": 8e-3} if method is ft_l else {})
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    (done,) = run_sequential(lm, [requests], method(**settings), build_plan(lm, layers=(1,)))
    weight = other.down_proj(1).weight.requires_grad_()
    start = weight.detach().clone()
    optimizer = torch.optim.Adam([weight], lr=5e-3)
    for _ in range(4):
        optimizer.zero_grad()
        (sum(literal_loss(other, r, at_prompt) for r in requests) / len(requests)).backward()
        optimizer.step()
        if method is ft_l:
            weight.data.clamp_(start - 8e-3, start + 8e-3)
    error = relative(read_weight(lm, 1) - start.T, weight.detach().T - start.T)
    assert errors(method.__name__, "oracle", error) < 2e-3  # Adam amplifies round-off
    losses = torch.tensor([o.target_loss for o in done.outcomes])
    assert torch.allclose(
        losses, torch.stack([literal_loss(other, r, at_prompt) for r in requests]), atol=1e-3
    )
    largest = (read_weight(lm, 1) - start.T).abs().max()
    assert largest <= 8e-3 * (1 + 1e-5) if method is ft_l else largest > 8e-3


def test_released_ft_mistrains_targets_of_several_tokens(tiny_lm, requests):
    """With one target token FT is FT-M; with several it raises the wrong probabilities."""
    one, several = replace(requests[4], target_new="a"), requests[1]
    ends = {}
    for request in (one, several):
        for method in (ft, ft_m):
            lm = tiny_lm("gpt2")
            list(
                run_sequential(
                    lm, [[request]], method(lr=5e-3, steps=6), build_plan(lm, layers=(1,))
                )
            )
            ends[request.case_id, method] = literal_loss(lm, request).item(), read_weight(lm, 1)
    assert torch.equal(ends[4, ft][1], ends[4, ft_m][1])
    assert ends[1, ft_m][0] < ends[1, ft][0] - 0.1


def test_fine_tuning_stops_when_every_request_is_told(tiny_lm, requests):
    """A request that the model answers already needs no step.

    One that it does not answer keeps the round going.
    """
    lm = tiny_lm("gpt2")
    plan, easy = build_plan(lm, layers=(1,)), replace(requests[4], target_new="a")
    method = ft_m(lr=5e-2, steps=100, stop_loss=3.8)
    first, again = run_sequential(lm, [[easy], [easy]], method, plan)
    assert 0 < first.outcomes[0].target_updates < 100 and "below 3.8" in first.outcomes[0].reason
    assert (again.outcomes[0].status, again.outcomes[0].target_updates) == ("already satisfied", 0)
    (both,) = run_sequential(lm, [[easy, requests[0]]], replace(method, steps=2), plan)
    assert {o.target_updates for o in both.outcomes} == {2} and "used all 2" in both.outcomes[
        1
    ].reason


def test_running_statistics(tiny_lm):
    """Joined batch by batch they are those of all features together."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randn(n, 5, generator=generator, dtype=torch.float64) * 3 + 1 for n in (1, 4, 9)
    ]
    running = None
    for batch in batches:
        running = add_features(running, batch)
    everything = torch.cat(batches)
    assert torch.allclose(running[1], everything.mean(0)) and (running[0] == 14).all()
    found = standardised(running, everything)
    assert torch.allclose(found, (everything - everything.mean(0)) / everything.std(0), atol=1e-5)
    assert (
        standardised(add_features(None, batches[0]), batches[0]).abs().max() == 0
    )  # one token says nothing


def test_ultraedit_is_its_closed_form(tiny_lm, requests, errors):
    """Δᵀ = (HᵀH + I)⁻¹HᵀV with v = −η‖ĥ‖²ĝ, token by token.

    Both layers come from one pass, and the statistics continue over rounds.
    """
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm)
    features, _, _ = read_features(other, rows_of(other, requests[:3]), (0, 1))
    (done,) = run_sequential(lm, [requests[:3]], ultraedit(eta=0.01, ridge=2.0), plan)
    for layer in (0, 1):
        H, G = features[layer].x.double(), features[layer].g.double()
        h, g = (H - H.mean(0)) / H.std(0), (G - G.mean(0)) / G.std(0)
        V = torch.stack([-0.01 * (a @ a) * b for a, b in zip(h, g, strict=True)])
        expected = torch.linalg.inv(H.T @ H + 2 * torch.eye(64, dtype=torch.float64)) @ H.T @ V
        error = relative(read_weight(lm, layer) - read_weight(other, layer), expected.T)
        assert errors("ultraedit", "oracle", error) < 1e-4  # float32 weights
        count = done.state.memory[f"features.{layer}"][0, 0]
        assert count == sum(len(row.continuation) for row in rows_of(other, requests[:3]))
    (second,) = run_sequential(lm, [requests[3:]], ultraedit(eta=0.01, ridge=2.0), plan, done.state)
    assert second.state.memory["features.0"][0, 0] > count


def test_ultraedit_composes(tiny_lm, requests):
    """UltraEdit uses the common solver.

    History keeps a key for every token, and projection confines the update.
    """
    lm = tiny_lm("gpt2")
    plan, W0 = build_plan(lm), read_weight(lm, 0)
    (done,) = run_sequential(
        lm, [requests], with_history(null_space(ultraedit(eta=0.01), 0.9)), plan
    )
    tokens = sum(len(row.continuation) for row in rows_of(lm, requests))
    assert done.state.keys[0].shape == (64, tokens) and done.state.grams[0].shape == (
        tokens,
        tokens,
    )
    update, drift = read_weight(lm, 0) - W0, done.layers[0].drift
    assert 0 < drift < 0.9 * update.norm() ** 2


def test_prune_takes_any_base(tiny_lm, requests):
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm, layers=(1,))
    *_, done = run_sequential(lm, [requests], prune(ft_m(lr=5e-2, steps=10), 1.5), plan)
    list(run_sequential(other, [requests], ft_m(lr=5e-2, steps=10), plan))
    assert same(weights(lm), weights(other))  # the loop goes on unrestrained
    W0, W = done.state.original[1], read_weight(lm, 1)
    with handed_over(lm, prune(ft_m(), 1.5), done.state):
        assert relative(read_weight(lm, 1) - W0, compress(W0, W - W0, 1.5)) < 1e-5
        assert relative(read_weight(lm, 1), W) > 1e-3


def test_grace_answers_near_its_keys_only(tiny_lm, requests, errors):
    """The weights stay as they are; GRACE acts inside `handed_over` only.

    There the edited prompts get their targets' values, and other prompts keep their own.
    """
    lm = tiny_lm("gpt2")
    plan = build_plan(
        lm, layers=(2,), target=TargetConfig(steps=30, lr=0.5, clamp=50.0, kl=0.0, weight_decay=0.0)
    )
    chosen, method = [replace(requests[4], target_new="a"), requests[2]], grace(radius=1e-3)
    before = weights(lm)
    (done,) = run_sequential(lm, [chosen], method, plan)
    assert same(weights(lm), before) and hook_count(lm) == 0
    assert done.state.memory["beside.codebook.keys"].shape == (64, 2)
    with handed_over(lm, method, done.state):
        now = [literal_loss(lm, r).item() for r in chosen]
        elsewhere = literal_loss(lm, requests[0]).item()
    error = abs(now[0] / done.outcomes[0].target_loss - 1)  # what was found is what is used
    assert errors("grace", "oracle", error) < 1e-4
    assert all(new < literal_loss(lm, r).item() - 0.1 for new, r in zip(now, chosen, strict=True))
    assert elsewhere == literal_loss(lm, requests[0]).item() and hook_count(lm) == 0
    K = read_keys(lm, [replace(r, prompt="{}", subject=r.text) for r in chosen], BARE, 2)
    assert torch.equal(done.state.memory["beside.codebook.keys"], K)


def test_grace_places_balls():
    """Where a key falls decides what becomes of the balls.

    A far key gets a new ball. A near key with the same target widens the ball. A near key
    with another target shares the distance, so that the balls do not overlap.
    """
    value, radius = torch.zeros(3), 1.0
    book = place({}, torch.tensor([0.0, 0]), value, 7, radius)
    book = place(book, torch.tensor([5.0, 0]), value, 8, radius)
    assert book["beside.codebook.radii"].tolist() == [1.0, 1.0]
    book = place(
        book, torch.tensor([0.0, 1.5]), value, 7, radius
    )  # within 1 + 1 of the first, same target
    assert book["beside.codebook.radii"].tolist() == [1.5, 1.0] and book[
        "beside.codebook.keys"
    ].shape == (2, 2)
    book = place(
        book, torch.tensor([5.0, 1.0]), value, 9, radius
    )  # near the second, another target
    assert book["beside.codebook.labels"].tolist() == [7, 8, 9] and book[
        "beside.codebook.keys"
    ].shape == (2, 3)
    assert book["beside.codebook.radii"].tolist() == pytest.approx([1.5, 0.5, 0.5], abs=1e-4)
    assert book["beside.codebook.radii"][1] + book["beside.codebook.radii"][2] < 1.0
    assert target_label("Dutch") == target_label("Dutch") != target_label("French")


def test_grace_has_one_layer(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    with pytest.raises(
        ValueError, match=r"layers: GRACE has its codebook at one layer, \[0, 1\] were given"
    ):
        next(run_sequential(lm, [requests], grace(), build_plan(lm)))


@pytest.mark.parametrize("name", ["gptj", "llama"])
@pytest.mark.parametrize(
    "method",
    [ft_m(lr=1e-2, steps=3), ultraedit(eta=0.01), grace(radius=1e-3)],
    ids=lambda method: method.name,
)
def test_on_other_architectures(tiny_lm, requests, name, method):
    """Each edits what it says on models of other kinds: the targets gain probability."""
    lm = tiny_lm(name)
    plan = build_plan(lm, layers=(1,))
    before = log_likelihood(lm, rows_of(lm, requests))[0].sum().item()
    *_, done = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
    with handed_over(lm, method, done.state):
        after = log_likelihood(lm, rows_of(lm, requests))[0].sum().item()
    assert after > before + 0.05 and not math.isnan(after)


def test_hypernetwork_starts_as_the_identity(tiny_lm, requests):
    """Untrained, RLEdit's residuals are −η(x·x̂)ĝ and MEND's update is −η Σ ĝx̂ᵀ.

    Blocks act once their B is not zero.
    """
    lm = tiny_lm("gpt2")
    features, _, _ = read_features(lm, rows_of(lm, requests), (0, 1))
    network = Hypernetwork((0, 1), (64, 16), rank=4, blocks=3, step=0.5)
    network.running = torch.stack([add_features(None, both(f)) for f in features.values()])
    hats = {
        layer: standardised(network.seen(layer), both(f)).float() for layer, f in features.items()
    }
    for layer, f in features.items():
        x, g = (f.x - f.x.mean(0)) / f.x.std(0), (f.g - f.g.mean(0)) / f.g.std(0)
        expected = torch.stack(
            [-0.5 * (raw @ a) * b for raw, a, b in zip(f.x, x, g, strict=True)], dim=1
        )
        assert relative(learned_residuals(network, layer, f.x, hats[layer]), expected) < 1e-3
        assert (
            relative(
                mend_update(network, layer, f),
                -0.5 * sum(torch.outer(b, a) for a, b in zip(x, g, strict=True)),
            )
            < 1e-3
        )
    before = learned_residuals(network, 1, features[1].x, hats[1])
    torch.nn.init.normal_(network.B)
    assert relative(learned_residuals(network, 1, features[1].x, hats[1]), before) > 1e-2


@pytest.mark.parametrize("name", ["rledit", "rledit_released", "mend"])
def test_editors_with_networks(tiny_lm, requests, name, errors):
    """The update is the closed form of the network's outputs.

    They come from one pass at the weights before the round. RLEdit's statistics continue
    from those of its training.
    """
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    method, plan = method_and_plan(lm, name)
    (done,) = run_sequential(lm, [requests], method, plan)
    network = load_hypernetwork(method.network, other, (0, 1))
    features, _, _ = read_features(
        other, rows_of(other, requests), (0, 1), everywhere=name == "mend"
    )
    for layer, f in features.items():
        if name == "mend":
            expected = mend_update(network, layer, f)
        else:
            running = add_features(network.seen(layer), both(f))
            assert torch.equal(done.state.memory[f"features.{layer}"], running)
            hats = standardised(running, both(f)).float()
            X, R = f.x.double(), learned_residuals(network, layer, f.x, hats).double()
            expected = (
                R
                @ X
                @ torch.linalg.inv(
                    X.T @ X + network.ridge(layer) * torch.eye(64, dtype=torch.float64)
                )
            )
        error = relative(read_weight(lm, layer) - read_weight(other, layer), expected)
        assert errors(name, "oracle", error) < 1e-4  # float32 weights


def test_networks_that_do_not_fit(tiny_lm, requests):
    """A network that does not fit is refused before the first round, and the message names it.

    It may be for another model, for other layers, or missing.
    """
    lm = tiny_lm("gpt2")
    path, plan = network_for(lm), build_plan(lm)
    for bad, message in (
        (build_plan(lm, layers=(0, 2)), r"layers: \[0, 2\] were given, but .* for layers \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            next(run_sequential(lm, [requests], mend(path), bad))
    with pytest.raises(ValueError, match="was trained for another model"):
        other = tiny_lm("gpt2", seed=1)
        next(run_sequential(other, [requests], rledit(path), plan))
    with pytest.raises(ValueError, match="network: none.safetensors is not there"):
        next(run_sequential(lm, [requests], mend("none.safetensors"), plan))


def test_network_file(tiny_lm, tmp_path):
    """Written and read back, A and B in half precision, the rest exactly."""
    lm = tiny_lm("gpt2")
    network = Hypernetwork((0, 2), (64, 16), rank=3, blocks=2, step=0.25)
    torch.nn.init.normal_(network.B)
    save_hypernetwork(tmp_path / "n.safetensors", network, lm)
    again = load_hypernetwork(str(tmp_path / "n.safetensors"), lm, (2,))
    assert again.layers == (0, 2) and again.step(2).item() == pytest.approx(0.25)
    for name, tensor in network.state_dict().items():
        assert torch.equal(
            again.state_dict()[name], tensor.half().float() if name in ("A", "B") else tensor
        )
