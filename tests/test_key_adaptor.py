"""REP's adaptor: it maps other ways of naming a subject to the edited key.

It leaves other tokens alone.
"""

from dataclasses import replace

import oracles
import pytest
import torch
from conftest import build_plan, hook_count, relative
from runs import same, weights
from torch.nn.functional import cosine_similarity

from seqedit.editing.sequential import handed_over, run_sequential
from seqedit.lm.weights import read_weight, write_weight
from seqedit.methods.catalogue import make_method
from seqedit.methods.combinators import prune, with_history
from seqedit.methods.combinators import robust_keys as with_robust_keys
from seqedit.methods.kinds.key_adaptor import stored_adaptor, train_adaptor
from seqedit.methods.memit import memit, memit_seq
from seqedit.methods.rome import rome


def test_training_leads_variants_to_the_edited_keys():
    """β comes near 1 for variants of the subject, but not for other tokens.

    Edited keys stay where they are.
    """
    generator = torch.Generator().manual_seed(0)
    edited, others = (
        torch.randn(5, 40, generator=generator),
        torch.randn(30, 40, generator=generator),
    )
    owner = torch.arange(5).repeat_interleave(4)
    variants = edited[owner] + 1.5 * torch.randn(20, 40, generator=generator)
    adaptor = train_adaptor(
        edited, edited, variants, owner, others, None, rank=16, steps=300, lr=1e-2
    )

    def adapted(k):
        gate = torch.sigmoid(k @ adaptor["gate"] + adaptor["bias"])[:, None]
        return k + gate * (k @ adaptor["A"] @ adaptor["B"])

    def missing(k):  # |β − 1|, with C = I
        return ((k * edited[owner]).sum(1) / (edited[owner] ** 2).sum(1) - 1).abs().mean()

    assert missing(adapted(variants)) < 0.6 * missing(variants)
    assert cosine_similarity(adapted(edited), edited).min() > 0.9
    assert (adapted(others) - others).norm() < 0.6 * others.norm()


def test_training_is_adam_on_the_losses(errors):
    """Training equals Adam on the losses written key by key, over ten steps.

    The float32 sums are taken in another order.
    """
    generator = torch.Generator().manual_seed(0)
    edited, whitened, others = (torch.randn(n, 12, generator=generator) for n in (3, 3, 5))
    whitened = whitened + edited  # so that k*ᵀC⁻¹k* > 0
    owner = torch.tensor([0, 0, 1, 2])
    variants = edited[owner] + torch.randn(4, 12, generator=generator)
    trained = [
        train_adaptor(edited, whitened, variants, owner, others, None, rank=2, steps=steps, lr=1e-2)
        for steps in (0, 10)
    ]
    own = {name: tensor.clone().requires_grad_() for name, tensor in trained[0].items()}
    optimizer = torch.optim.Adam(own.values(), lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        oracles.adaptor_loss(edited, whitened, variants, owner.tolist(), others, own).backward()
        optimizer.step()
    moved = torch.cat([(own[name] - trained[0][name]).flatten() for name in own])
    found = torch.cat([(trained[1][name] - trained[0][name]).flatten() for name in own])
    assert errors("memit_seq+robust_keys", "oracle", relative(found, moved)) < 1e-4


def test_the_base_edits_as_without(tiny_lm, requests):
    """The weights are those of the base method.

    The adaptor acts inside `handed_over` only, and there it changes the logits.
    """
    lm, other = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, method = (
        build_plan(lm),
        with_robust_keys(memit_seq(0.5), rank=4, adaptor_steps=20, adaptor_lr=1e-2),
    )
    *_, done = run_sequential(lm, [requests[:3], requests[3:]], method, plan)
    list(run_sequential(other, [requests[:3], requests[3:]], memit_seq(0.5), plan))
    assert same(weights(lm), weights(other)) and hook_count(lm) == 0
    ids = torch.tensor([lm.tokenizer(requests[0].text)["input_ids"]])
    plain = lm.model(ids).logits
    with handed_over(lm, method, done.state):
        assert (lm.model(ids).logits - plain).abs().max() > 1e-3
    assert torch.equal(lm.model(ids).logits, plain)
    closed = replace(
        done.state,
        memory=done.state.memory
        | {f"beside.adaptor.bias.{layer}": torch.tensor(-1e9) for layer in plan.layers},
    )
    with handed_over(lm, method, closed):  # a closed gate lets every key pass as it is
        assert torch.equal(lm.model(ids).logits, plain)
    assert done.state.memory["adaptor.owner.0"].unique().tolist() == list(range(6))


def test_continuing_equals_never_having_stopped(tiny_lm, requests):
    method, rounds = (
        with_robust_keys(with_history(memit(0.5)), rank=4, adaptor_steps=5),
        [requests[:3], requests[3:]],
    )
    lm, second = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan = build_plan(lm)
    first, whole = run_sequential(lm, rounds, method, plan)
    begun = tiny_lm("gpt2")
    list(run_sequential(begun, rounds[:1], method, plan))
    for layer in plan.layers:
        write_weight(second, layer, read_weight(begun, layer))
    (last,) = run_sequential(second, rounds[1:], method, plan, first.state)
    assert same(last.state.memory, whole.state.memory) and same(weights(second), weights(lm))
    assert stored_adaptor(last.state, 0)["B"].any()


def test_bases_that_do_not_fit():
    with pytest.raises(
        ValueError,
        match=r"robust_keys\(GRACE\): Codebook methods do not support a change of their targets",
    ):
        make_method("grace+robust_keys")
    with pytest.raises(ValueError, match="without restraints"):
        with_robust_keys(prune(memit()))
    assert (
        make_method("rome+robust_keys").one_at_a_time
        and with_robust_keys(rome()).name == "ROME+REP"
    )
