"""Target optimisation: batched as if alone, nothing left behind, and the same z as a naive
implementation.

Adam divides a gradient by its own size, so float32 round-off in a small component becomes a visible
part of a step. Models are therefore run in float64 where implementations are compared: 2e-16 grows
to less than 1e-12 of ‖δ‖ here, and 1e-9 is allowed, far below anything that a wrong token, weight
or step would do.
"""

from dataclasses import replace

import pytest
import torch
from conftest import CONTEXTS, MODEL_TYPES, hook_count, relative

from seqedit.bench.reference import target_value
from seqedit.lm.keys import BARE
from seqedit.lm.target_loss import TargetConfig
from seqedit.lm.targets import optimise_targets
from seqedit.lm.tokens import validate_requests
from seqedit.requests.request import parse_requests

SAME = 1e-9  # of ‖δ‖; see above
CONFIG = TargetConfig(steps=6, lr=0.1, clamp=2.0, stop_loss=0.01)


def deltas(targets):
    return targets.z - targets.h


@pytest.mark.parametrize("site", ["block", "mlp"])
def test_batched_is_one_by_one(exact_lm, requests, endings, site):
    """Targets of different lengths, all at once, in small parts, or each alone.

    The same values and the same ends.
    """
    lm = exact_lm("gpt2")
    config = TargetConfig(steps=8, lr=0.1, clamp=2.0, stop_loss=5.4)
    several_requests = requests + endings
    together = optimise_targets(lm, several_requests, CONTEXTS, 0, config, site=site)
    parts = optimise_targets(lm, several_requests, CONTEXTS, 0, config, site=site, batch_tokens=500)
    assert len(set(together.updates.tolist())) > 3  # the batch shrinks on its way
    for i, request in enumerate(several_requests):
        alone = optimise_targets(lm, [request], CONTEXTS, 0, config, site=site)
        for several in (together, parts):
            assert relative(several.h[i], alone.h[0]) < SAME
            assert several.updates[i] == 0 or relative(deltas(several)[i], deltas(alone)[0]) < SAME
            assert abs(several.loss[i] - alone.loss[0]) < SAME
            assert several.updates[i] == alone.updates[0] and several.stopped[i] == alone.stopped[0]


@pytest.mark.parametrize("site", ["block", "mlp"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_naive_implementation(exact_lm, requests, model_type, site):
    """Whole forward passes, a hook and `torch.optim.Adam`, request by request, find the same z."""
    lm = exact_lm(model_type, bos=model_type == "llama")
    same = 1e-6 if model_type == "gptj" else SAME  # GPT-J's attention scores are always float32
    templates = [t for group in CONTEXTS for t in group]
    chosen = requests[:3] if site == "block" else requests[1:2]
    found = optimise_targets(lm, chosen, CONTEXTS, 1, CONFIG, site=site)
    for i, request in enumerate(chosen):
        module = lm.mlp(1) if site == "mlp" else None
        z, steps, loss = target_value(lm, request, templates, 1, CONFIG, module)
        assert found.updates[i] == steps == 5
        assert abs(found.loss[i] - loss) < same
        assert relative(deltas(found)[i], z - found.h[i]) < same


@pytest.fixture
def endings():
    """Requests whose subject ends the prompt, where δ acts on the first target token directly."""
    subjects = (
        "André",
        "Zoë O'Brien",
        "Gamith",
        "Huciol Davindrar",
        "the café",
        "New York",
        "a teacher",
        "Elvinn",
    )
    targets = (".", "and", "is", "polo in Spain", ",", "the song", "'s", "a")
    return parse_requests(
        [
            {"case_id": i, "prompt": "Here comes {}", "subject": s, "target_new": t}
            for i, (s, t) in enumerate(zip(subjects, targets, strict=True))
        ]
    )


def test_naive_implementation_with_stop_and_clamp(exact_lm, endings):
    """Requests that end at different steps, and a clamp that binds, still agree with the naive
    implementation.
    """
    lm = exact_lm("gpt2")
    templates = [t for group in CONTEXTS for t in group]
    config = TargetConfig(steps=16, lr=0.1, clamp=0.6, stop_loss=5.4, kl=0.5)
    found = optimise_targets(lm, endings, CONTEXTS, 0, config)
    assert len(set(found.updates.tolist())) > 2 and set(found.stopped) == {"loss", "steps"}
    ratio = deltas(found).norm(dim=1) / found.h.norm(dim=1)
    assert (ratio > 0.599).any() and (ratio < 0.5).any()
    for i, request in enumerate(endings):
        z, steps, loss = target_value(lm, request, templates, 0, config)
        assert found.updates[i] == steps
        assert abs(found.loss[i] - loss) < SAME
        assert steps == 0 or relative(deltas(found)[i], z - found.h[i]) < SAME


def test_clamp(tiny_lm, requests):
    """‖δ‖ ≤ clamp · ‖h‖ by each request's own h, up to the rescaling's rounding (1e-6).

    A small clamp binds.
    """
    for clamp in (0.05, 0.5):
        config = TargetConfig(steps=4, lr=0.5, clamp=clamp, stop_loss=0.0)
        found = optimise_targets(tiny_lm("gpt2"), requests, CONTEXTS, 1, config)
        ratio = deltas(found).norm(dim=1) / found.h.norm(dim=1)
        assert (ratio <= clamp * (1 + 1e-6) + 1e-6).all()
        assert clamp > 0.05 or (ratio > clamp * (1 - 1e-4)).all()


def test_satisfied_from_the_start(tiny_lm, requests):
    """A loss below the limit at the first pass: no step, z = h."""
    found = optimise_targets(tiny_lm("gpt2"), requests, CONTEXTS, 1, TargetConfig(stop_loss=1e9))
    assert (
        torch.equal(found.z, found.h) and found.stopped == ["loss"] * 6 and not found.updates.any()
    )


@pytest.mark.parametrize(("seed", "subject", "letter"), [(3, "André", "b"), (4, "New York", "t")])
def test_right_is_greedy_decoding(tiny_lm, seed, subject, letter):
    """`right` says whether the model, asked token by token after the bare prompt, writes the whole
    target itself.
    """
    lm = tiny_lm("gpt2", seed=seed)
    targets = [
        letter,
        f"{letter} {letter} {letter}",
        f"{letter} {letter} a",
        f"a {letter} {letter}",
        "the old town",
    ]
    cases = [
        request
        for i, target in enumerate(targets)  # apart: one prompt cannot have two targets
        for request in parse_requests(
            [{"case_id": i, "prompt": "Here comes {}", "subject": subject, "target_new": target}]
        )
    ]
    expected = []
    for target in targets:
        ids, wanted = (
            lm.tokenizer(f"Here comes {subject}")["input_ids"],
            lm.tokenizer(" " + target)["input_ids"],
        )
        for _ in wanted:
            ids = [*ids, lm.model(torch.tensor([ids])).logits[0, -1].argmax().item()]
        expected.append(ids[-len(wanted) :] == wanted)
    assert expected == [True, True, False, False, False]  # what these models write is one letter
    assert optimise_targets(lm, cases, CONTEXTS, 1, CONFIG).right.tolist() == expected
    for request, right in zip(cases, expected, strict=True):  # contexts and KL prompts do not enter
        assert optimise_targets(lm, [request], CONTEXTS, 1, CONFIG).right.tolist() == [right]


def test_the_neutral_prompt_needs_no_room_beyond_the_subject(tiny_lm):
    """KL is read at the subject's last token, so what follows it in `kl_prompt` is not run, and
    changes nothing.
    """
    lm = tiny_lm("gpt2")
    request = parse_requests(
        [{"case_id": 0, "prompt": "{}", "subject": "x" * 63, "target_new": "is"}]
    )
    assert len(lm.tokenizer(request[0].subject + " is a")["input_ids"]) > lm.max_positions
    validate_requests(lm, request, BARE)
    short, long = (
        optimise_targets(lm, request, BARE, 0, replace(CONFIG, kl_prompt=prompt))
        for prompt in ("{}", "{} is a teacher")
    )
    assert torch.equal(short.z, long.z) and short.updates.tolist() == [5]


def test_steps_count_forward_passes(tiny_lm, requests):
    """The last forward pass only measures.

    `steps` − 1 updates; a first pass alone measures the unedited model.
    """
    lm = tiny_lm("gpt2")
    once = optimise_targets(
        lm, requests, CONTEXTS, 0, TargetConfig(steps=1, stop_loss=0.0, weight_decay=0.0)
    )
    assert torch.equal(once.z, once.h) and not once.updates.any()
    more = optimise_targets(
        lm, requests, CONTEXTS, 0, TargetConfig(steps=4, lr=0.05, stop_loss=0.0, weight_decay=0.0)
    )
    assert more.updates.tolist() == [3] * 6 and (more.loss < once.loss).all()


def test_the_model_is_left_alone(tiny_lm, requests):
    """No parameter changes a bit or receives a gradient, and no hook stays."""
    lm = tiny_lm("gpt2")
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    optimise_targets(lm, requests, CONTEXTS, 1, CONFIG)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    assert hook_count(lm) == 0


@pytest.mark.parametrize("layer", [1, 2])
def test_hooks_are_removed_after_an_exception(tiny_lm, requests, monkeypatch, layer):
    """An error inside the model reaches the caller, and leaves no hook behind."""
    lm = tiny_lm("gpt2")

    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(lm.mlp(layer), "forward", fail)
    with pytest.raises(MemoryError, match="no room"):
        optimise_targets(lm, requests, CONTEXTS, 1, CONFIG)
    assert hook_count(lm) == 0


def test_a_loss_that_is_no_number_is_not_a_success(tiny_lm, requests):
    """NaN above the edited layer.

    The target is not finite either, so that the round can be refused.
    """
    lm = tiny_lm("gpt2")
    lm.model.get_submodule("transformer.ln_f").weight[0] = float("nan")
    found = optimise_targets(lm, requests, CONTEXTS, 1, CONFIG)
    assert torch.isfinite(found.h).all() and not torch.isfinite(found.z).any()
    assert found.stopped == ["steps"] * 6


def test_last_layer(exact_lm, requests):
    """With no block above the edited layer only the head runs again.

    The naive implementation agrees.
    """
    lm = exact_lm("gpt2")
    request = requests[4]  # the subject ends the prompt
    found = optimise_targets(lm, [request], CONTEXTS, 2, CONFIG)
    z, steps, _ = target_value(lm, request, [t for g in CONTEXTS for t in g], 2, CONFIG)
    assert relative(deltas(found)[0], z - found.h[0]) < SAME and found.updates[0] == steps
