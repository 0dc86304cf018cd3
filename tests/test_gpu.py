"""The same work on a GPU as on the CPU; without a GPU these tests are skipped.

`make gpu` runs them beside the measurements of speed. Differences are those of two kinds of
arithmetic: float32 sums in another order, which Adam's first steps scale up in targets.
"""

import pytest
import torch
from conftest import build_plan, relative
from runs import every_method, method_and_plan

from seqedit.algebra.diagnostics import condition_number, spectrum
from seqedit.algebra.second_moment import SecondMoment
from seqedit.algebra.solver import Solver
from seqedit.algebra.subspace import null_space
from seqedit.editing.sequential import handed_over, run_sequential
from seqedit.evaluation.continuations import rate
from seqedit.evaluation.generation import greedy_answers
from seqedit.lm.keys import read_keys, read_values
from seqedit.lm.second_moments import collect_second_moments
from seqedit.lm.tokens import tokenise
from seqedit.lm.weights import read_weight
from seqedit.methods.catalogue import make_method
from seqedit.runs.checkpoint import begin, resume, save_round

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
DEVICES = ("cpu", "cuda")


@pytest.fixture
def pair(tiny_lm):
    """The same tiny model on the CPU and on the GPU."""

    def build(model_type="gpt2", dtype=torch.float32):
        models = tuple(tiny_lm(model_type) for _ in DEVICES)
        for lm, device in zip(models, DEVICES, strict=True):
            lm.model.to(device, dtype)
        return models

    return build


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "llama", "gemma2", "gemma3_text"])
def test_keys_values_and_moments(pair, requests, model_type):
    found = []
    for lm in pair(model_type):
        plan = build_plan(lm)
        moments = collect_second_moments(lm, [r.text for r in requests], (0, 2), progress=False)
        found.append(
            [
                read_keys(lm, requests, plan.contexts, 1),
                read_values(lm, requests, 2),
                moments[0].sum,
                moments[2].sum,
            ]
        )
    for cpu, gpu in zip(*found, strict=True):
        assert gpu.is_cuda and relative(gpu.cpu(), cpu) < 1e-4


@every_method
def test_two_rounds_of_every_method(pair, requests, name):
    """Statuses are the same, and updates and answers agree."""
    updates, outcomes, rated = [], [], []
    for lm in pair():
        method, plan = method_and_plan(lm, name)
        before = {layer: read_weight(lm, layer) for layer in plan.layers}
        rounds = list(run_sequential(lm, [requests[:2], requests[2:4]], method, plan))
        outcomes.append([o.status for done in rounds for o in done.outcomes])
        with handed_over(lm, method, rounds[-1].state):
            updates.append([(read_weight(lm, i) - before[i]).cpu() for i in plan.layers])
            prompts = [r.text for r in requests[:4]]
            rated.append(rate(lm, prompts, [r.target_new for r in requests[:4]]).nll)
    assert outcomes[0] == outcomes[1]
    for cpu, gpu in zip(*updates, strict=True):
        assert relative(gpu, cpu) < 2e-2 if cpu.norm() else not gpu.norm()
    assert abs(rated[0] - rated[1]).max() < 2e-2


def test_solves_and_diagnostics():
    generator = torch.Generator().manual_seed(0)
    K, past = (torch.randn(96, n, generator=generator) for n in (7, 11))
    R, texts = torch.randn(40, 7, generator=generator), torch.randn(96, 300, generator=generator)
    C = texts @ texts.T / 300
    found = []
    for device in DEVICES:
        k, p, r, c = (x.to(device) for x in (K, past, R, C))
        solver = Solver(1.0, null_space(c, 0.5))
        gram = solver.extend(torch.zeros(0, 0, device=device), p[:, :0], p)
        update = solver.update(k, r, p, gram)
        found.append([update, Solver(c + torch.eye(96).to(c)).update(k, r), spectrum(update)])
        assert condition_number(r) == pytest.approx(condition_number(R), rel=1e-6)
    for cpu, gpu in zip(*found, strict=True):
        assert gpu.is_cuda and relative(gpu.cpu(), cpu) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_second_moments_of_half_precision_keys(dtype):
    """Products that are not widened first: tensor cores round their sums a little earlier."""
    keys = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
    fast, exact = SecondMoment(64, "cuda"), keys.double().T @ keys.double()
    fast.update(keys, chunk=1000)
    assert relative(fast.sum, exact) < 1e-5 and fast.count == 3000


def test_a_run_goes_on_on_the_other_device(pair, requests, tmp_path):
    """The CPU continues from a checkpoint of the GPU, as if it had made the first round itself."""
    (cpu, gpu), (alone, _) = pair(), pair()
    method, rounds = make_method("memit_seq", lam=0.5), [requests[:2], requests[2:4]]
    *_, whole = run_sequential(alone, rounds, method, build_plan(alone))
    (first,) = run_sequential(gpu, rounds[:1], method, build_plan(gpu))
    begin(tmp_path, {"parameters": {"model": "tiny"}})
    save_round(tmp_path, gpu, first.state, {}, keep=False)
    plan = build_plan(cpu)
    state = resume(tmp_path, cpu, plan.layers)
    (second,) = run_sequential(cpu, rounds[1:], method, plan, state)
    assert second.state.round == whole.state.round
    for layer, original in whole.state.original.items():
        update, expected = (read_weight(lm, layer) - original for lm in (cpu, alone))
        assert relative(update, expected) < 2e-2


def test_greedy_answers(pair, requests):
    cpu, gpu = pair("llama")
    prompts = tokenise(cpu, [r.text for r in requests[:4]]).ids
    assert greedy_answers(cpu, prompts, new_tokens=8) == greedy_answers(gpu, prompts, new_tokens=8)


def test_bfloat16_edits_point_where_float32_ones_do(pair, requests):
    updates = []
    for dtype in (torch.float32, torch.bfloat16):
        lm = pair("llama", dtype)[1]
        before, plan = read_weight(lm, 1), build_plan(lm, layers=(1,))
        list(run_sequential(lm, [requests[:3]], make_method("memit", lam=0.5), plan))
        updates.append((read_weight(lm, 1) - before).flatten())
    assert torch.nn.functional.cosine_similarity(*updates, dim=0) > 0.9
