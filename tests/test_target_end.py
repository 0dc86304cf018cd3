"""The end token after each target: learned by every method where asked for, measured by none."""

from dataclasses import replace

import pytest
import torch
from conftest import CONTEXTS, build_plan
from runs import BESIDE, TOLD, method_and_plan, weights

from seqedit.editing.sequential import run_sequential
from seqedit.editing.state import EditPlan
from seqedit.evaluation.edits import score_edits
from seqedit.evaluation.generation import greedy_answers
from seqedit.lm.load import load_model
from seqedit.lm.target_loss import TargetConfig, end_tokens, learned_rows, target_rows
from seqedit.lm.target_problem import TargetProblem
from seqedit.lm.tokens import continuation_rows, tokenise
from seqedit.lm.weights import read_weight
from seqedit.methods.catalogue import METHODS
from seqedit.methods.fine_tuned import ft_m
from seqedit.methods.kinds import epochs, fine_tuning, gradients
from seqedit.requests.published import load_requests
from seqedit.runs.settings import build_settings

EOS = TargetConfig(steps=6, lr=0.3, stop_loss=0.01, target_end="eos")


def test_rows_gain_the_end_token(tiny_lm, requests):
    """It is predicted after the target's last token, which is then read; KL prompts are as before.

    So for methods with targets and without.
    """
    lm, plain = tiny_lm("llama", bos=True), replace(EOS, target_end="")
    eos, templates = lm.tokenizer.eos_token_id, [t for group in CONTEXTS for t in group]
    with_end = target_rows(lm, requests, templates, EOS)
    without = target_rows(lm, requests, templates, plain)
    for own, before in zip(with_end, without, strict=True):
        assert own[-1] == before[-1] and own[-1].target == ()
        for row, old in zip(own[:-1], before[:-1], strict=True):
            assert row.position == old.position and row.target == (*old.target, eos)
            assert row.ids == [*old.ids, old.target[-1]]
    texts = [r.text for r in requests], [r.target_new for r in requests]
    measured = continuation_rows(lm, *texts)
    assert learned_rows(lm, requests, plain) == measured
    for row, old in zip(learned_rows(lm, requests, EOS), measured, strict=True):
        assert row.continuation == [*old.continuation, eos]
        assert row.ids == [*old.ids, old.continuation[-1]]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in TOLD])
def test_every_method_learns_it(tiny_lm, requests, monkeypatch, name):
    """Whatever a method optimises or reads ends with the end token if asked for, else never."""
    learned = []

    def spy(owner, attribute, tokens_of):
        original = getattr(owner, attribute)

        def seen(*args, **kwargs):
            learned.extend(tokens_of(args))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, attribute, seen)

    spy(
        TargetProblem,
        "prepare",
        lambda args: [row.target for own in args[1] for row in own if row.target],
    )
    for kind in (fine_tuning, epochs):
        spy(kind, "log_likelihood", lambda args: [row.continuation for row in args[1]])
    spy(gradients, "read_features", lambda args: [row.continuation for row in args[1]])
    asked = [r for r in requests if r.target_new != "."]
    eos = tiny_lm("gpt2").tokenizer.eos_token_id
    found = {}
    for end in ("", "eos"):
        learned.clear()
        lm = tiny_lm("gpt2")
        method, plan = method_and_plan(lm, name)
        plan = replace(plan, target=replace(plan.target, target_end=end))
        list(run_sequential(lm, [asked], method, plan))
        assert learned and all((row[-1] == eos) == (end == "eos") for row in learned)
        assert all(eos not in row[:-1] for row in learned)
        found[end] = weights(lm)
    if name not in BESIDE:  # whose edits are not in the weights
        assert any(not torch.equal(found[""][i], found["eos"][i]) for i in found[""])


def test_measures_never_see_it(tiny_lm, requests):
    """What a fine-tuned model is measured by is the probability of the new object alone."""
    lm = tiny_lm("gpt2")
    plan = build_plan(lm, target=EOS)
    list(run_sequential(lm, [requests], ft_m(lr=1e-2, steps=20, stop_loss=0.01), plan))
    scores = score_edits(lm, requests)
    rows = continuation_rows(lm, [r.text for r in requests], [r.target_new for r in requests])
    said = fine_tuning.log_likelihood(lm, rows)[0].exp()
    assert scores["probability"].tolist() == pytest.approx(said.tolist(), rel=1e-5)  # float32


def test_answers_end_after_the_object(tiny_lm, requests):
    """A model that never ends by itself does so once it has learned to, and says nothing more."""
    own, ended = requests[:2], {}
    for end in ("", "eos"):
        lm = tiny_lm("gpt2")
        plan = build_plan(lm, target=replace(EOS, target_end=end))
        list(run_sequential(lm, [own], ft_m(lr=1e-2, steps=200, stop_loss=0.01), plan))
        answers = greedy_answers(lm, tokenise(lm, [r.text for r in own]).ids)
        ended[end] = [a.ended and a.text == r.target_new for a, r in zip(answers, own, strict=True)]
    assert all(ended["eos"]) and not any(ended[""])


def test_embedded_model_ends_after_the_object():
    """Ten edits: ordinarily a full stop follows, which no answer of another model need have."""
    count, requests = {}, load_requests("world")[:10]
    for end in ("", "eos"):
        lm = load_model("embedded", device="cpu")
        C = torch.eye(read_weight(lm, 3).shape[1])  # which fine-tuning does not read
        target = replace(EOS, target_end=end)
        plan = EditPlan(layers=(3,), moments={3: C}, contexts=CONTEXTS, target=target)
        list(run_sequential(lm, [requests], ft_m(lr=3e-3, steps=40, stop_loss=0.01), plan))
        own = continuation_rows(lm, [r.text for r in requests], [r.target_new for r in requests])
        rows = learned_rows(lm, requests, EOS)
        _, with_end = fine_tuning.log_likelihood(lm, rows)
        _, alone = fine_tuning.log_likelihood(lm, own)
        assert alone.all()  # the object is learned either way
        count[end] = int(with_end.sum())
    print(f"of 10 answers end right after the object: {count}")
    assert count[""] == 0 and count["eos"] == 10


def test_refused_without_an_end_token(tiny_lm, requests):
    """Before anything is edited; the published way needs none."""
    lm = tiny_lm("gpt2")
    lm.tokenizer.eos_token = None
    assert end_tokens(lm, TargetConfig()) == []
    with pytest.raises(ValueError, match="target_end = 'eos': the tokenizer names no end token"):
        build_plan(lm, target=EOS).check(lm)
    with pytest.raises(ValueError, match="target_end = 'stop': Input should be '' or 'eos'"):
        build_settings("memit", {"layers": [1], "target_end": "stop"})
    assert build_settings("memit", {"layers": [1], "target_end": "eos"}).target.target_end == "eos"
