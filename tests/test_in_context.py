"""In-context editing: which statement stands before which prompt, and that all measures see it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import MODEL_TYPES, build_plan
from runs import same, weights

from seqedit.editing.sequential import handed_over, run_sequential
from seqedit.evaluation.abilities import perplexity
from seqedit.evaluation.continuations import rate
from seqedit.evaluation.edits import score_edits
from seqedit.evaluation.generation import generate
from seqedit.evaluation.wild import FRAME, wild_prompts
from seqedit.lm.load import load_model
from seqedit.lm.targets import mean_states
from seqedit.methods.in_context import in_context, in_context_oracle
from seqedit.methods.kinds.in_context import EDITS, ROOM, STATES, Reader, end_states, statements
from seqedit.requests.published import load_requests

METHODS = [in_context(0.999), in_context_oracle()]


def told(lm, requests, method, rounds=None):
    """The state after edits."""
    *_, done = run_sequential(lm, rounds or [requests], method, build_plan(lm))
    return done.state


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_statements_stand_before_what_asks_for_them(tiny_lm, requests, errors, method):
    """The edited prompts are rated as the same prompts with their statement before them; others,
    and everything outside `handed_over`, as they are.
    """
    lm = tiny_lm("gpt2")
    before, state = weights(lm), told(lm, requests[:3], method)
    assert same(weights(lm), before)
    prompts, targets = [r.text for r in requests[:3]], [r.target_new for r in requests[:3]]
    with handed_over(lm, method, state):
        now = rate(lm, [*prompts, "The cello plays"], [*targets, "polo"])
        fronts = lm.in_front([*prompts, "The cello plays"])
    assert fronts == [*(f"{p} {t}. " for p, t in zip(prompts, targets, strict=True)), ""]
    literal = [f"{p} {t}. {p}" for p, t in zip(prompts, targets, strict=True)]
    expected = rate(lm, [*literal, "The cello plays"], [*targets, "polo"])
    error = np.abs(now.nll / expected.nll - 1).max()
    name = "in_context_oracle" if method.retrieval == "oracle" else "in_context"
    assert errors(name, "oracle", float(error)) < 1e-6
    assert lm.in_front(prompts) == [""] * 3 and not lm.in_context
    assert np.abs(rate(lm, prompts, targets).nll / now.nll[:3] - 1).min() > 1e-3


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_states_at_the_end_of_texts(tiny_lm, requests, name):
    """In padded batches as one by one; 1e-5 allows for float32 in another order."""
    lm = tiny_lm(name)
    texts = [r.text for r in requests]
    found = end_states(lm, texts, batch_tokens=40)
    for text, state in zip(texts, found, strict=True):
        assert torch.allclose(end_states(lm, [text])[0], state, atol=1e-5)
    assert end_states(lm, []).shape == (0, found.shape[1])


def test_nearest_by_cosine_after_the_mean(tiny_lm, requests):
    """The mean is over edits and context templates; below the least similarity nothing is said."""
    lm = tiny_lm("gpt2")
    plan = build_plan(lm)
    method = in_context(0.5)
    state = told(lm, requests[:4], method)
    keys = end_states(lm, [r.text for r in requests[:4]])
    templates = [t.replace("{}", "").strip() for own in plan.contexts for t in own if t != "{}"]
    mean = torch.cat([keys, end_states(lm, templates)]).mean(dim=0)
    asked = [r.text for r in requests]
    cosines = torch.nn.functional.cosine_similarity(
        (end_states(lm, asked) - mean)[:, None], (keys - mean)[None], dim=2
    )
    edited = [f"{r.text} {r.target_new}. " for r in requests[:4]]
    for least in (0.1, 0.5, 0.9):
        found = Reader(lm, in_context(least), state).in_front(asked)
        assert found == [edited[int(c.argmax())] if c.max() >= least else "" for c in cosines]
    assert found[:4] == edited
    one = told(lm, requests[:1], method)  # a single edit has a mean of more than itself
    assert Reader(lm, method, one).in_front(asked[:1]) == edited[:1]
    assert Reader(lm, in_context(0.99), one).in_front(asked) == [edited[0], *[""] * 5]


def test_the_oracle_knows_what_asks(tiny_lm, requests):
    """The prompt, its paraphrases and its questions; no neighbour, and no text that holds them."""
    lm = tiny_lm("gpt2")
    one = replace(requests[0], paraphrase_prompts=("She speaks",), questions=("What is it?",))
    one = replace(one, neighborhood_prompts=("The mother tongue of André is",))
    reader = Reader(lm, in_context_oracle(), told(lm, [one], in_context_oracle()))
    asked = [one.text, "She speaks", "What is it?"]
    other = [one.neighborhood_prompts[0], f"I heard. {one.text}"]
    statement = "The mother tongue of Danielle Darrieux is Dutch. "
    assert reader.in_front([*asked, *other]) == [*[statement] * 3, "", ""]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_is_remembered(tiny_lm, requests, method):
    """As tensors, in the same bits whether a run was continued or not; a later edit of the same
    prompt takes the place of the earlier one.
    """
    lm = tiny_lm("gpt2")
    again = replace(requests[1], case_id="again", target_new="chess – schön")
    rounds = [requests[:3], [*requests[3:], again]]
    whole = told(lm, None, method, rounds)
    state = None
    for batch in rounds:
        (done,) = run_sequential(tiny_lm("gpt2"), [batch], method, build_plan(lm), state)
        state = done.state
    assert same(whole.memory, state.memory) and EDITS in whole.memory
    kept = statements(whole.memory)
    assert [one.text for one in kept] == [r.text for r in requests]
    assert kept[1].target == "chess – schön" and kept[0].target == "Dutch"
    if method.retrieval == "nearest":
        assert whole.memory[STATES].shape == (6, 16)
    assert {o.status for o in done.outcomes} == {"edited"}


def test_every_measure_of_answers_sees_them(tiny_lm, requests):
    """Scores, generated text, answers in the wild; not perplexity and hidden states."""
    lm, method = tiny_lm("gpt2"), in_context_oracle()
    ones = [replace(r, questions=(f"Who is {r.subject}?",)) for r in requests[:2]]
    state = told(lm, ones, method)
    plain = score_edits(lm, ones)["probability"]
    texts = [r.text for r in ones]
    untold = perplexity(lm, texts), mean_states(lm, texts)
    with handed_over(lm, method, state):
        assert (score_edits(lm, ones)["probability"] != plain).all()
        ids = wild_prompts(lm, ones)
        told_texts = generate(lm, texts, torch.Generator().manual_seed(0), length=30)
        assert untold[0] == perplexity(lm, texts)
        assert torch.equal(untold[1], mean_states(lm, texts))
    for i, request in enumerate(ones):
        statement = f"{request.text} {request.target_new}. "
        assert lm.tokenizer.decode(ids["bare"][i]) == statement + request.text
        framed = FRAME.format(statement + request.questions[0])
        assert lm.tokenizer.decode(ids["question"][i]) == framed
        assert told_texts[i].startswith(request.text) and statement not in told_texts[i]
    plain_texts = generate(lm, texts, torch.Generator().manual_seed(0), length=30)
    assert plain_texts != told_texts


def test_a_statement_without_room_is_left_out(tiny_lm, requests):
    """The prompt is then asked as it is, and fits as before."""
    lm, method = tiny_lm("gpt2"), in_context_oracle()
    words = " ".join(["town"] * (lm.max_positions - ROOM - 5))
    long = replace(requests[0], prompt=words + " {}", subject="André")
    reader = Reader(lm, method, told(lm, [long, requests[1]], method))
    assert reader.in_front([long.text]) == [""] and reader.in_front([requests[1].text]) != [""]


def test_retrieval_on_the_embedded_model():
    """Of a hundred edits nearly all are found by their paraphrases, and few by their neighbours."""
    lm, requests = load_model("embedded", device="cpu"), load_requests("world")[:100]
    method = in_context(0.7)
    reader = Reader(lm, method, told(lm, requests, method))
    statement = {r.case_id: f"{r.text} {r.target_new}. " for r in requests}
    found = {}
    for kind in ("paraphrase_prompts", "neighborhood_prompts"):
        asked = [(r.case_id, prompt) for r in requests for prompt in getattr(r, kind)]
        fronts = reader.in_front([prompt for _, prompt in asked])
        right = [front == statement[i] for (i, _), front in zip(asked, fronts, strict=True)]
        found[kind] = np.mean(right), np.mean([front != "" for front in fronts])
    print(found)
    assert found["paraphrase_prompts"][0] > 0.9 and found["neighborhood_prompts"][1] < 0.1
