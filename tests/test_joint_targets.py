"""One key and target for a subject (MEMIT-Merge), and neighbours in the loss of targets.

1e-4 of an update allows for float32 weights, and for Adam's scaling of round-off in targets.
"""

from dataclasses import replace

import oracles
import pytest
import torch
from conftest import CONTEXTS, build_plan, relative
from runs import same, weights

from seqedit.editing.sequential import run_sequential
from seqedit.lm.joint_targets import mean_by, optimise_joint_targets, subject_numbers
from seqedit.lm.keys import BARE, read_keys, read_values
from seqedit.lm.target_loss import TargetConfig, target_rows
from seqedit.lm.target_problem import TargetProblem
from seqedit.lm.targets import optimise_targets
from seqedit.lm.weights import read_weight
from seqedit.methods.catalogue import make_method
from seqedit.methods.combinators import robust_keys
from seqedit.methods.kinds.residuals import neighbour_rows, same_form_subjects
from seqedit.methods.memit import memit, memit_merge
from seqedit.methods.nse import nse
from seqedit.methods.rome import rome
from seqedit.methods.searches import merge_subjects, neighbour_assisted


@pytest.fixture
def shared(requests):
    """Three requests about one subject, apart from each other, and two about others."""
    one, two, three, four, five = requests[:5]
    return [
        one,
        two,
        replace(three, subject=one.subject),
        five,
        replace(five, case_id="again", prompt="{} plays", subject=one.subject),
    ]


@pytest.fixture
def asked(requests):
    """Requests with two neighbours of their own form each, and one in other words."""
    neighbours = ("André", "Gamith Yudrashanr")
    return [
        replace(
            r,
            neighborhood_prompts=(
                r.prompt.replace("{}", neighbours[0]),
                "In Madrid André is",
                r.prompt.replace("{}", neighbours[1]),
            ),
        )
        for r in requests[:3]
    ]


def literal_loss(lm, request, delta, subject_end, config, contexts):
    """Mean over contexts of −log p(target), δ added to layer 1 at the subject's last token, + KL
    + decay; one whole forward pass per text.
    """

    def log_p(text, target, at):
        ids = lm.tokenizer(text + target)["input_ids"]
        start = len(lm.tokenizer(text)["input_ids"])

        def add(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden.index_add(1, torch.tensor([at(ids)]), delta[None, None])
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        hook = lm.block(1).register_forward_hook(add)
        logits = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        hook.remove()
        return logits, ids, start

    terms = []
    for text, target, at in contexts:
        logits, ids, start = log_p(text, target, at)
        terms.append(-torch.stack([logits[t - 1, ids[t]] for t in range(start, len(ids))]).mean())
    return torch.stack(terms).mean()


def test_subjects_are_numbered(shared):
    assert subject_numbers(shared).tolist() == [0, 1, 0, 2, 0]
    columns = torch.arange(10.0).reshape(2, 5)
    expected = torch.tensor([[2.0, 1.0, 3.0], [7.0, 6.0, 8.0]])
    assert torch.equal(mean_by(columns, subject_numbers(shared)), expected)


def test_a_joint_target_minimises_the_mean_loss(tiny_lm, shared):
    """Adam on the mean over the subject's requests, step by step; others as if alone."""
    lm, config = tiny_lm("gpt2"), TargetConfig(steps=6, lr=0.3, stop_loss=0.01)
    found = optimise_joint_targets(lm, shared, CONTEXTS, 1, config)
    alone = optimise_targets(lm, [shared[1], shared[3]], CONTEXTS, 1, config)
    assert torch.equal(found.z[[1, 3]], alone.z) and torch.equal(found.h[[1, 3]], alone.h)
    group = [shared[i] for i in (0, 2, 4)]
    deltas = (found.z - found.h)[[0, 2, 4]]
    assert torch.allclose(deltas[0], deltas[1], atol=1e-5) and found.updates.tolist() == [5] * 5
    templates = [template for own in CONTEXTS for template in own]
    problem = TargetProblem.prepare(
        lm, target_rows(lm, group, templates, config), 1, config, "block", None
    )
    delta = torch.zeros(16, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=0.3)
    limit = 0.75 * problem.h.norm(dim=1).mean()
    for _ in range(5):
        adam.zero_grad()
        sum(problem.losses(delta.expand(3, -1)).loss / 3).backward()
        adam.step()
        delta.data *= min(1.0, limit / delta.data.norm())
    assert relative(deltas[0], delta.detach()) < 1e-3  # Adam scales round-off up

    long = replace(config, steps=30, lr=0.1, clamp=50.0, kl=0.0, weight_decay=0.0)
    problem = TargetProblem.prepare(
        lm, target_rows(lm, group, templates, long), 1, long, "block", None
    )
    joint = optimise_joint_targets(lm, group, CONTEXTS, 1, long)
    before = problem.losses(torch.zeros(3, 16)).loss.mean()
    assert problem.losses(joint.z - joint.h).loss.mean() < before - 1e-3


def test_one_key_and_one_target_for_a_subject(tiny_lm, shared, errors):
    """MEMIT's equation on one column for each subject, the mean of those of its requests."""
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, W0 = build_plan(lm, layers=(1,)), read_weight(lm, 1)
    (done,) = run_sequential(lm, [shared], memit_merge(0.5), plan)
    found = optimise_joint_targets(other, shared, CONTEXTS, 1, plan.target)
    K, R = read_keys(other, shared, CONTEXTS, 1), found.z.T - read_values(other, shared, 1)
    members = ([0, 2, 4], [1], [3])
    keys = [K[:, own].double().mean(dim=1) for own in members]
    residuals = [R[:, own].double().mean(dim=1) for own in members]
    expected = oracles.memit(keys, residuals, 0.5, plan.moments[1])
    error = relative(read_weight(lm, 1) - W0, expected)
    assert errors("memit_merge", "oracle", error) < 1e-4
    assert done.state.keys[1].shape == (64, 3) and len(done.outcomes) == 5
    assert memit_merge().key_average is None and memit().key_average == "groups"


def test_without_shared_subjects_it_is_memit(tiny_lm, requests, shared):
    for batch, alike in ((requests, True), (shared, False)):
        lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
        plan = build_plan(lm)
        list(run_sequential(lm, [batch[:2], batch[2:]], memit_merge(0.5), plan))
        list(run_sequential(other, [batch[:2], batch[2:]], memit(0.5), plan))
        assert same(weights(lm), weights(other)) == alike


def test_what_cannot_be_merged():
    for base, name in ((rome(), "one_at_a_time"), (nse(), "passes")):
        with pytest.raises(ValueError, match=f"in the way: .*{name}"):
            merge_subjects(base)
    for name in ("encore", "bird", "memit+neighbour_assisted"):
        with pytest.raises(ValueError, match=r"merge_subjects\(.*with the plain search of targets"):
            make_method(f"{name}+merge_subjects")
    with pytest.raises(ValueError, match="without merge_subjects"):
        neighbour_assisted(memit_merge())
    with pytest.raises(ValueError, match="a key for each request"):
        robust_keys(memit_merge())


def test_neighbours_are_found_by_their_form(tiny_lm, asked):
    """In the words of the prompt, with the true object, without the end token that is learned."""
    lm, config = tiny_lm("gpt2"), TargetConfig(target_end="eos")
    assert same_form_subjects(asked[0]) == ["André", "Gamith Yudrashanr"]
    rows = neighbour_rows(lm, asked, 2, config)
    assert [len(own) for own in rows] == [2, 2, 2]
    for request, own in zip(asked, rows, strict=True):
        for subject, row in zip(("André", "Gamith Yudrashanr"), own, strict=True):
            text = f"{request.prompt.replace('{}', subject)} {request.target_true}"
            assert lm.tokenizer.decode([*row.ids, row.target[-1]]) == text
            end = text.index(subject) + len(subject)
            assert len(lm.tokenizer.decode(row.ids[: row.position + 1])) >= end
    empty = replace(asked[0], prompt="{}", neighborhood_prompts=("",))
    assert same_form_subjects(empty) == []


def test_neighbours_enter_the_loss(tiny_lm, asked, errors):
    """The loss is the mean over contexts and neighbours, text by text; a round is MEMIT with it."""
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    config = TargetConfig(steps=2, lr=0.1, stop_loss=0.0, kl=0.0, weight_decay=0.0)
    request = asked[0]
    delta = 0.1 * torch.randn(16, generator=torch.Generator().manual_seed(0))
    contexts = []
    for subject, target in (
        (request.subject, request.target_new),
        ("André", request.target_true),
        ("Gamith Yudrashanr", request.target_true),
    ):
        text = request.prompt.replace("{}", subject)
        head = text[: text.index(subject) + len(subject)]
        contexts.append((text, f" {target}", lambda ids, head=head: token_of(lm, ids, head)))
    expected = literal_loss(lm, request, delta, None, config, contexts)
    rows = target_rows(lm, [request], ["{}"], config)
    more = neighbour_rows(lm, [request], 2, config)
    with_more = [[*rows[0][:-1], *more[0], rows[0][-1]]]
    problem = TargetProblem.prepare(lm, with_more, 1, config, "block", None)
    assert problem.losses(delta[None]).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = TargetProblem.prepare(lm, rows, 1, config, "block", None)
    assert plain.losses(delta[None]).loss.item() != pytest.approx(expected.item(), rel=1e-2)

    plan, W0 = build_plan(lm, layers=(1,)), read_weight(lm, 1)
    method = make_method("memit+neighbour_assisted+iterated", lam=0.5, neighbours=2, iterations=1)
    list(run_sequential(lm, [asked], method, plan))
    protected = neighbour_rows(other, asked, 2, plan.target)
    z = optimise_targets(other, asked, CONTEXTS, 1, plan.target, protected=protected).z
    K, h = read_keys(other, asked, CONTEXTS, 1), read_values(other, asked, 1)
    expected = oracles.memit(oracles.columns(K), oracles.columns(z.T - h), 0.5, plan.moments[1])
    error = relative(read_weight(lm, 1) - W0, expected)
    assert errors("memit+neighbour_assisted+iterated", "oracle", error) < 1e-4
    unprotected = optimise_targets(other, asked, CONTEXTS, 1, plan.target).z
    assert relative(unprotected, z) > 1e-3


def token_of(lm, ids, head):
    """The last token that covers the last character of `head`, a beginning of the text of `ids`."""
    for i in range(len(ids)):
        if len(lm.tokenizer.decode(ids[: i + 1])) >= len(head):
            return i
    raise AssertionError(head)


def test_protection_protects(tiny_lm, asked):
    """With many steps and no clamp, neighbours at which δ is added keep their objects better."""
    lm = tiny_lm("gpt2")
    config = TargetConfig(steps=30, lr=0.3, clamp=50.0, stop_loss=0.0, kl=0.0, weight_decay=0.0)
    more = neighbour_rows(lm, asked, 2, config)
    losses = {}
    for protected in (None, more):
        found = optimise_targets(lm, asked, BARE, 1, config, protected=protected)
        rows = target_rows(lm, asked, ["{}"], config)
        of_neighbours = [[*own, row[-1]] for own, row in zip(more, rows, strict=True)]
        problem = TargetProblem.prepare(lm, of_neighbours, 1, config, "block", None)
        losses[protected is None] = problem.losses(found.z - found.h).loss.mean().item()
    assert losses[False] < losses[True] - 0.1


def test_too_few_neighbours(tiny_lm, asked, requests):
    """The bare prompt takes the place of those that are not there, or whose object is not known."""
    lm, config = tiny_lm("gpt2"), TargetConfig(target_end="eos")
    unknown = replace(asked[1], target_true=None)
    rows = neighbour_rows(lm, [asked[0], requests[3], unknown], 3, config)
    bare = [own[0] for own in target_rows(lm, [asked[0], requests[3], unknown], ["{}"], config)]
    assert rows[0][:2] == neighbour_rows(lm, asked[:1], 2, config)[0] and rows[0][2] == bare[0]
    assert rows[1] == [bare[1]] * 3 and rows[2] == [bare[2]] * 3
    plan, method = build_plan(lm), neighbour_assisted(memit(0.5), 3)
    (done,) = run_sequential(lm, [[asked[0], requests[3], unknown]], method, plan)
    assert {o.status for o in done.outcomes} == {"edited"}
