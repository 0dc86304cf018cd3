"""Fine-tuning in epochs (LocFT-BF), against Adam written out over literal losses."""

from dataclasses import replace

import oracles
import pytest
import torch
from conftest import build_plan, relative
from runs import same, weights
from test_editors import literal_loss, rows_of

from seqedit.editing.sequential import run_sequential
from seqedit.lm.target_loss import TargetConfig, learned_rows
from seqedit.lm.tokens import ContinuationRow
from seqedit.lm.weights import read_weight, write_weight
from seqedit.methods.breadth_first import locft_bf
from seqedit.methods.fine_tuned import ft_m
from seqedit.methods.kinds.epochs import keep_rows, recall_rows, without_prompts

SETTINGS = {"lr": 5e-3, "epochs": 3, "batch": 4, "stop_loss": 1e-9}


def gradient_of(lm, requests):
    """W → gradient of the mean literal loss of the requests in the matrix of layer 1, out × in."""

    def gradient(W):
        write_weight(lm, 1, W)
        weight = lm.down_proj(1).weight.requires_grad_()
        loss = sum(literal_loss(lm, request) for request in requests) / len(requests)
        (found,) = torch.autograd.grad(loss, weight)
        weight.requires_grad_(False)
        return found.T  # Conv1D is in × out

    return gradient


def trained_literally(lm, requests, seed=0, one_at_a_time=False):
    """The matrix of layer 1 after three epochs of Adam, batch by batch in the order of the seed."""
    generator = torch.Generator().manual_seed(seed)
    torch.randperm(0, generator=generator)  # no earlier edit is drawn
    order, W = torch.randperm(len(requests), generator=generator), read_weight(lm, 1)
    for group in order.split(1) if one_at_a_time else [order]:
        state = {}
        for _ in range(3):
            group = group[torch.randperm(len(group), generator=generator)]
            for batch in group.split(4):
                W = oracles.adam(W, gradient_of(lm, [requests[i] for i in batch]), 5e-3, state)
    return W


def test_locft_bf_is_adam_over_shuffled_batches(exact_lm, requests, errors):
    """Six requests in batches of four and two, in another order in each of three epochs.

    The converse: one request after the other, and one batch for all, are other methods.
    """
    lm, other = exact_lm("gpt2"), exact_lm("gpt2")
    W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
    (done,) = run_sequential(lm, [requests], locft_bf(**SETTINGS), plan)
    expected = trained_literally(other, requests)
    error = relative(read_weight(lm, 1) - W0, expected - W0)
    assert errors("locft_bf", "oracle", error) < 1e-6  # float64; Adam amplifies round-off
    assert {o.target_updates for o in done.outcomes} == {6}
    losses = torch.tensor([o.target_loss for o in done.outcomes])
    literal = torch.stack([literal_loss(lm, request) for request in requests]).detach()
    assert torch.allclose(losses.double(), literal, atol=1e-6)
    for changed in ({"order": "depth"}, {"batch": 6}):
        model = exact_lm("gpt2")
        list(run_sequential(model, [requests], locft_bf(**SETTINGS | changed), plan))
        assert relative(read_weight(model, 1) - W0, expected - W0) > 1e-2


def test_depth_first_alone_is_fine_tuning_of_one_request_after_the_other(exact_lm, requests):
    """With batches of one request it is FT-M in rounds of one request, in the order drawn."""
    lm, other, literal = exact_lm("gpt2"), exact_lm("gpt2"), exact_lm("gpt2")
    W0, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
    depth = locft_bf(**SETTINGS | {"order": "depth", "batch": 1})
    list(run_sequential(lm, [requests], depth, plan))
    generator = torch.Generator().manual_seed(0)
    torch.randperm(0, generator=generator)
    order = torch.randperm(len(requests), generator=generator).tolist()
    each = ft_m(lr=5e-3, steps=3, stop_loss=1e-9)
    list(run_sequential(other, [[requests[i]] for i in order], each, plan))
    for found in (read_weight(other, 1), trained_literally(literal, requests, one_at_a_time=True)):
        assert relative(read_weight(lm, 1) - W0, found - W0) < 1e-6


def test_what_is_told_makes_no_step(tiny_lm, requests):
    """A batch whose loss is below the limit is left out; passes end when their mean is."""
    plan, easy = build_plan(tiny_lm("gpt2"), layers=(1,)), replace(requests[4], target_new="a")
    lm = tiny_lm("gpt2")
    method = locft_bf(lr=5e-2, epochs=100, batch=1, stop_loss=3.8)
    first, again = run_sequential(lm, [[easy], [easy]], method, plan)
    assert 0 < first.outcomes[0].target_updates < 100
    assert first.outcomes[0].reason == "mean loss below 3.8"
    assert (again.outcomes[0].status, again.outcomes[0].target_updates) == ("already satisfied", 0)
    hard = replace(method, epochs=2, stop_loss=3.8)
    (both,) = run_sequential(lm, [[easy, requests[0]]], hard, plan)
    assert both.outcomes[0].target_updates < 4 and both.outcomes[0].reason == "used all 2 epochs"


def test_rows_are_kept_exactly(tiny_lm, requests):
    """Tokens, targets and ends come back as they were; nothing is kept without replay."""
    lm = tiny_lm("gpt2")
    rows = learned_rows(lm, requests, TargetConfig(target_end="eos"))
    assert recall_rows(keep_rows(rows)) == rows and recall_rows({}) == []
    (done,) = run_sequential(lm, [requests], locft_bf(**SETTINGS), build_plan(lm, layers=(1,)))
    assert done.state.memory == {}


def test_a_prompt_that_is_edited_again_is_replaced():
    """By its prompt, whatever its target; other prompts stay."""
    old = [ContinuationRow([1, 2, 3], [4]), ContinuationRow([1, 2], [5])]
    new = [ContinuationRow([1, 2, 3, 7], [7, 8])]
    assert without_prompts(old, new) == [old[1]]


@pytest.mark.parametrize("replay", [1, 100])
def test_replay_goes_through_the_state(tiny_lm, requests, replay):
    """A run that continues from the state and the matrices equals one that never stopped."""
    rounds = [requests[:2], requests[2:4], requests[4:]]
    method = locft_bf(**SETTINGS, replay=replay)
    lm = tiny_lm("gpt2")
    plan = build_plan(lm, layers=(1,))
    *_, whole = run_sequential(lm, rounds, method, plan)
    first, second = tiny_lm("gpt2"), tiny_lm("gpt2")
    *_, stopped = run_sequential(first, rounds[:2], method, plan)
    assert recall_rows(stopped.state.memory) == rows_of(lm, requests[:4])
    write_weight(second, 1, read_weight(first, 1))
    (last,) = run_sequential(second, rounds[2:], method, plan, stopped.state)
    assert same(weights(second), weights(lm)) and same(last.state.memory, whole.state.memory)


def test_replay_keeps_what_was_learned(tiny_lm, requests):
    """With all earlier edits in every round those of the first stay learned better than with none.

    Both make the same number of steps.
    """
    rounds, losses = [requests[:2], requests[2:4], requests[4:]], {}
    for replay in (0, 100):
        lm = tiny_lm("gpt2")
        method = locft_bf(lr=1e-2, epochs=20, batch=100, stop_loss=1e-3, replay=replay)
        *_, last = run_sequential(lm, rounds, method, build_plan(lm, layers=(1,)))
        losses[replay] = sum(literal_loss(lm, request).item() for request in requests[:2])
        assert {o.target_updates for o in last.outcomes} == {20}
    assert losses[100] < losses[0] - 1


def test_an_order_that_is_none():
    with pytest.raises(ValueError, match="order = 'random': it must be one of breadth, depth"):
        locft_bf(order="random")
