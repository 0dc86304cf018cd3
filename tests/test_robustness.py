"""Perturbed subjects and firing keys, inverse questions, targets drawn both ways, what a comparison
can see.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CONTEXTS, SENTENCES, build_plan, relative
from problems import Problem
from runs import same, weights

from seqedit.algebra.diagnostics import drift
from seqedit.algebra.solve import solve_update
from seqedit.base.paths import MODEL, WORLD
from seqedit.editing.sequential import run_sequential
from seqedit.evaluation.continuations import Ratings
from seqedit.evaluation.detection import detection, visibility
from seqedit.evaluation.edits import score_edits, summarise
from seqedit.evaluation.robustness import (
    PERTURBATIONS,
    firing,
    perturbed,
    robustness,
)
from seqedit.lm.keys import BARE, read_keys, read_values
from seqedit.lm.load import load_model
from seqedit.lm.target_loss import Anchors, TargetConfig
from seqedit.lm.targets import mean_states, optimise_targets
from seqedit.lm.weights import read_weight
from seqedit.methods.kinds.residuals import inverse_anchors
from seqedit.methods.memit import bird, memit
from seqedit.methods.rome import r_rome, rome
from seqedit.requests.published import load_requests


def test_perturbed_requests_keep_their_target(tiny_lm, requests):
    """Every kind asks for the same target; the subject's place is known in each."""
    lm = tiny_lm("gpt2")
    first = replace(
        requests[0], paraphrase_prompts=("They say Danielle Darrieux speaks", "nobody speaks")
    )
    asked = perturbed(lm, [first, *requests[1:]], SENTENCES, tokens=20)
    assert tuple(asked) == PERTURBATIONS and asked["as edited"][1:] == requests[1:]
    assert [r.text for r in asked["paraphrase"]] == ["They say Danielle Darrieux speaks"]
    assert asked["paraphrase"][0].prompt == "They say {} speaks"
    turned = asked["subject's words reversed"]
    assert turned[0].text == "The mother tongue of Darrieux Danielle is" and len(turned) == 3
    assert asked["subject's last word only"][0].text == "The mother tongue of Darrieux is"
    for before, after in zip([first, *requests[1:]], asked["after a long text"], strict=True):
        assert after.text.endswith(f" {before.text}")
        assert (
            20
            <= len(lm.tokenizer(after.text)["input_ids"])
            - len(lm.tokenizer(before.text)["input_ids"])
            < 80
        )
    assert asked == perturbed(lm, [first, *requests[1:]], SENTENCES, tokens=20)


def test_robustness_is_exact_match(tiny_lm, requests):
    lm = tiny_lm("gpt2")
    assert robustness(lm, {"as edited": requests[:2], "paraphrase": []}) == {"as edited": 0.0}


@pytest.mark.parametrize(("make", "anchor"), [(r_rome, "averaged"), (rome, "bare")])
def test_thm_firing(tiny_lm, requests, make, anchor):
    """Δk = β(k)(v* − Wk₀), measured on the weights of an edit, with v* found independently.

    k₀ is the averaged key for r-ROME and the bare one for ROME. The edited layer says v* at k₀ and,
    the two keys being different, not at the other. Float32 through a model: 1e-4.
    """
    lm, before = tiny_lm("gpt2"), tiny_lm("gpt2")
    plan, request = build_plan(lm, layers=(1,)), requests[0]
    next(run_sequential(lm, [[request]], make(), plan))
    W = read_weight(before, 1)
    update = read_weight(lm, 1) - W
    own = {
        "averaged": read_keys(before, [request], CONTEXTS, 1, average="uniform"),
        "bare": read_keys(before, [request], BARE, 1),
    }
    found = optimise_targets(before, [request], CONTEXTS, 1, plan.target, site="mlp")
    bias = read_values(before, [request], 1, "mlp") - W @ own["bare"]
    missing = found.z.T - bias - W @ own[anchor]  # v* − Wk₀
    assert relative(update @ own[anchor], missing) < 1e-4
    (other,) = own.keys() - {anchor}
    assert relative(update @ own[other], missing) > 1e-3
    scale = firing(before, [request], [request], 1, plan.moments[1], CONTEXTS)[0]  # β(bare)/β(k*)
    for kind, asked in perturbed(before, [request], ["A quiet town."], tokens=8).items():
        if not asked:
            continue
        beta = firing(before, [request], asked, 1, plan.moments[1], CONTEXTS)[0]
        beta = beta / scale if anchor == "bare" else beta
        assert relative(update @ read_keys(before, asked, BARE, 1), beta * missing) < 1e-4, kind
    assert firing(before, [request], [request], 1, plan.moments[1])[0] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_firing_is_a_property_of_the_cheapest_update(seed):
    """Of all updates that write r at k*, that of least drift answers by β, and only that one does.

    It is silent at keys that are orthogonal to k* in the inner product of C⁻¹, and only there.
    """
    problem = Problem(seed, d_ff=8, d_model=3, n=1)
    C, own, r = problem.M, problem.K, problem.R
    update = solve_update(own, r, C, mu=0.0)
    u = torch.linalg.solve(C, own)

    def beta(k):
        return (k.T @ u) / (own.T @ u)

    keys = problem.random(8, 20)
    assert relative(update @ keys, r @ beta(keys).T) < 1e-8
    silent = keys - u @ (u.T @ keys) / (u.T @ u)
    assert (update @ silent).norm() < 1e-8 * update.norm() * silent.norm()
    assert relative(solve_update(own, r, C) @ own, r) > 1e-3  # MEMIT's balance: β(k*) below 1
    for M in (torch.eye(8, dtype=torch.float64), problem.metric()):  # another metric: another β
        other = solve_update(own, r, M, mu=0.0)
        assert relative(other @ own, r) < 1e-8
        assert relative(other @ keys, r @ beta(keys).T) > 1e-2
        assert drift(other, C) > drift(update, C)


def test_inverse_questions():
    """The unedited model knows the old answer to the inverse of an edit, and not the new one."""
    lm = load_model(MODEL, device="cpu")
    asked = load_requests(WORLD / "reversal.json")[:20]
    found = summarise(score_edits(lm, asked))
    assert found["portability_inverse_previous"] >= 0.9
    assert found["portability_inverse_success"] <= 0.1
    assert found["portability_inverse_accuracy"] <= 0.1
    swapped = [
        replace(
            request,
            portability=tuple(
                p._replace(answer=p.previous, previous=p.answer) for p in request.portability
            ),
        )
        for request in asked
    ]
    assert summarise(score_edits(lm, swapped))["portability_inverse_success"] >= 0.9


def test_detection_is_the_area_under_the_curve():
    before = Ratings(
        np.array([0.1, 0.2, 0.3]), np.ones(3, bool), np.zeros(3, int), np.ones(3), [(0,)] * 3
    )
    after = Ratings(
        np.array([2.1, 0.1, 0.3]), np.ones(3, bool), np.zeros(3, int), np.ones(3), [(0,)] * 3
    )
    assert visibility(before, after) == pytest.approx([2.0, 0.1, 0.0])
    assert detection(np.array([3.0, 1.0]), np.array([0.5, 2.0])) == 0.75
    assert detection(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def anchored(lm, requests, anchors, **changes):
    config = TargetConfig(
        **({"steps": 30, "lr": 0.3, "clamp": 20.0, "stop_loss": 0.0, "kl": 0.0} | changes)
    )
    return optimise_targets(lm, requests, CONTEXTS, 1, config, anchors=anchors)


def test_anchors_pull_and_push(tiny_lm, requests):
    """A strong point draws the subject's last hidden state to itself, a negative weight drives it
    away.
    """
    lm = tiny_lm("gpt2")
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(6, 1, 16, generator=generator)
    free = anchored(lm, requests, None)
    nothing = anchored(lm, requests, Anchors(points, torch.zeros(1)))
    assert relative(nothing.z, free.z) < 1e-4
    distances = []
    for weight in (5.0, 0.0, -5.0):
        z = anchored(lm, requests, Anchors(points, torch.tensor([weight]))).z
        distances.append(
            torch.stack(
                [
                    distance(lm, r, value, point)
                    for r, value, point in zip(requests, z, points[:, 0], strict=True)
                ]
            ).mean()
        )
    assert distances[0] < distances[1] - 0.1 < distances[2] - 0.2


def distance(lm, request, z, point):
    """‖h_s − point‖ with z put in at the subject's last token of the neutral prompt, by a whole
    forward pass.
    """
    ids = lm.tokenizer(request.subject)["input_ids"]
    found = {}

    def put(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        bare = found["h"]
        hidden[0, len(ids) - 1] += z - bare
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def keep(module, args, output):
        found["last"] = (output[0] if isinstance(output, tuple) else output)[0, len(ids) - 1]

    found["h"] = read_values(lm, [request], 1)[:, 0]
    handles = [lm.block(1).register_forward_hook(put), lm.block(2).register_forward_hook(keep)]
    try:
        lm.model(torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return (found["last"] - point).norm()


def test_inverse_anchors(tiny_lm, requests):
    """The four points of BIRD's equation, from means over tokens."""
    lm = tiny_lm("gpt2")
    known = [replace(r, relation_id="one" if i < 4 else "two") for i, r in enumerate(requests)]
    anchors = inverse_anchors(lm, known, alpha=0.5, beta=0.25)
    assert anchors.weights.tolist() == [0.5, 0.5, -0.125, -0.125] and anchors.points.shape == (
        6,
        4,
        16,
    )
    s = {
        r.subject: m
        for r, m in zip(known, mean_states(lm, [r.subject for r in known]), strict=True)
    }
    old = {
        r.subject: m
        for r, m in zip(known, mean_states(lm, [r.target_true for r in known]), strict=True)
    }
    back = torch.stack([s[r.subject] - old[r.subject] for r in known[:4]]).mean(0)
    new, relation = mean_states(lm, ["Spain", "The birthplace of  is"])
    r = known[2]
    expected = torch.stack(
        [new - relation, new + back, old[r.subject] - relation, old[r.subject] + back]
    )
    assert torch.allclose(anchors.points[2], expected, atol=1e-5)


def test_bird(tiny_lm, requests):
    """With α = 0 it is MEMIT; with a large α other targets; without target_true the round is
    refused by name.
    """
    ends = []
    for method in (memit(0.5), bird(0.5, alpha=1e-12), bird(0.5, alpha=1.0)):
        lm = tiny_lm("gpt2")
        next(run_sequential(lm, [requests], method, build_plan(lm)))
        ends.append(read_weight(lm, 1))
    assert relative(ends[1], ends[0]) < 1e-5 and relative(ends[2], ends[0]) > 1e-3
    lm = tiny_lm("gpt2")
    before = weights(lm)
    (done,) = run_sequential(
        lm, [[replace(requests[0], target_true=None)]], bird(0.5), build_plan(lm)
    )
    assert "case_id 0: target_true is needed" in done.outcomes[0].reason and same(
        weights(lm), before
    )
