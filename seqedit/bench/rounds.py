"""Measure rounds of editing and the evaluation on the embedded model."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..base.paths import WORLD
from ..editing.contract import EditMethod
from ..editing.sequential import edit_round, run_sequential
from ..editing.state import EditPlan, EditState, Round
from ..evaluation.edits import score_edits
from ..evaluation.report import evaluate
from ..lm.default_layers import default_layers
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.target_loss import target_rows
from ..lm.targets import optimise_targets
from ..lm.weights import read_weight, restored
from ..methods.alphaedit import alphaedit
from ..methods.kinds.locate_then_edit import LocateThenEdit
from ..requests.published import load_requests
from ..requests.request import EditRequest
from .full_size import synthetic_plan
from .job import embedded_job, timed
from .reference import alphaedit_round


def bench_round(n_edits: int = 100, plain_edits: int | None = None) -> dict[str, Any]:
    """Time one round of AlphaEdit on the embedded model, and the plain way beside it.

    Args:
        n_edits: requests of the round.
        plain_edits: how many of them are edited by the plain way, too; by default all.
    """
    job = embedded_job(n_edits, n_edits)
    method = job.settings.make()
    return _compare(job.lm, job.rounds[0], method, job.plan, plain_edits or n_edits)


def bench_model_round(
    model: str, n_edits: int = 20, dtype: str = "float32", plain_edits: int = 2
) -> dict[str, Any]:
    """The same on any model, whose second moments are random and whose targets take all steps.

    Args:
        model: folder, hub id or short name.
        n_edits: requests of the round, which are the embedded world's.
        dtype: of the weights. The plain way runs in float32, as released code does.
        plain_edits: how many of them are edited by the plain way, whose cost per edit is the same
            for any number.
    """
    lm, requests, method, plan = round_of_model(model, n_edits, dtype)
    result = _compare(lm, requests, method, plan, plain_edits, load_model(model))
    return result | {"model": Path(model).name, "dtype": dtype, "layers": list(plan.layers)}


def round_of_model(
    model: str, n_edits: int, dtype: str
) -> tuple[LanguageModel, list[EditRequest], EditMethod, EditPlan]:
    """A model, requests, AlphaEdit and its plan, with random second moments."""
    requests = load_requests(WORLD / "records.json")[:n_edits]
    lm = load_model(model, dtype=getattr(torch, dtype))
    plan = synthetic_plan(lm, tuple(default_layers(lm.n_layers)), removed=0.3)
    return lm, requests, alphaedit(), plan


def _compare(
    lm: LanguageModel,
    requests: list[EditRequest],
    method: EditMethod,
    plan: EditPlan,
    plain_edits: int,
    plain_lm: LanguageModel | None = None,
) -> dict[str, Any]:
    """Time a round of all requests by the loop, and one of the first ones by the plain way.

    The weights of the two are compared after a round of the first ones by the loop.
    """
    plain_lm, few = plain_lm or lm, requests[:plain_edits]
    cpu_seconds, done = Rounds(lm, method, plan, requests[:4]).time(requests)
    with restored(lm, plan.layers):
        list(run_sequential(lm, [few], method, plan))
        fast = _weights(lm, plan)
    before = _weights(plain_lm, plan)
    with restored(plain_lm, plan.layers):
        seconds, plain_cpu_seconds = _plain_round(plain_lm, few, method, plan)
        plain = _weights(plain_lm, plan)
    differ = {layer: (fast[layer] - plain[layer]).norm() for layer in plan.layers}
    share = len(requests) / len(few)
    return {
        "edits": len(requests),
        "plain_edits": len(few),
        "plain_seconds": seconds * share,
        "seconds": done.seconds["total"],
        "ratio": seconds * share / done.seconds["total"],
        "cpu_ratio": plain_cpu_seconds * share / cpu_seconds,
        "stages": done.seconds,
        "weights_differ": max((differ[i] / plain[i].norm()).item() for i in plan.layers),
        "updates_differ": max(
            (differ[i] / (plain[i] - before[i]).norm()).item() for i in plan.layers
        ),
    }


class Rounds:
    """Rounds of AlphaEdit, each made on the unedited model, which is as before afterwards.

    What a run makes once, the null space above all, is made here and is part of no round; the plain
    way is given it, too. A first small round has loaded the kernels.

    Args:
        lm, method, plan: as `run_sequential` takes them.
        first: the requests of the small round.
    """

    def __init__(
        self, lm: LanguageModel, method: EditMethod, plan: EditPlan, first: list[EditRequest]
    ):
        self.lm, self.method, self.plan = lm, method, plan
        self._writer = method.writer(lm, plan)
        self.make(first)

    def make(self, requests: list[EditRequest]) -> Round:
        """Make a round of these requests."""
        with restored(self.lm, self.plan.layers):
            state = EditState.start(self.lm, self.plan.layers)
            return edit_round(self.lm, requests, self.method, self.plan, state, self._writer)

    def time(self, requests: list[EditRequest]) -> tuple[float, Round]:
        """CPU-seconds of a round of these requests, and what it did."""
        start = time.process_time()
        done = self.make(requests)
        return time.process_time() - start, done


def _weights(lm: LanguageModel, plan: EditPlan) -> dict[int, Tensor]:
    """Layer → the edited matrix as it is now."""
    return {layer: read_weight(lm, layer) for layer in plan.layers}


def _plain_round(
    lm: LanguageModel, requests: list[EditRequest], method: EditMethod, plan: EditPlan
) -> tuple[float, float]:
    """Seconds and CPU-seconds of a round by the plain way, which is written into the model.

    P and L2 are taken from the method's solver; making P dense is not timed.
    """
    assert isinstance(method, LocateThenEdit)  # AlphaEdit, with a number for its price
    size = plan.moments[plan.layers[0]].shape[0]
    eye = torch.eye(size, dtype=torch.float64, device=lm.device)
    projections, l2 = {}, 0.0
    for layer in plan.layers:
        solver = method.solver(plan.moments[layer].to(lm.device))
        assert isinstance(solver.M, float | int)
        projections[layer], l2 = solver.inverse(eye) * solver.M, solver.M
    past = {layer: 0 * eye for layer in plan.layers}
    start = time.process_time()
    seconds, _ = timed(
        lambda: alphaedit_round(
            lm, requests, plan.contexts, plan.layers, projections, l2, past, plan.target
        )
    )
    return seconds, time.process_time() - start


def round_line(result: dict[str, Any]) -> str:
    """The result of `bench_round` in a line."""
    of_model = f"{result['model']}, {result['dtype']}: " if "model" in result else ""
    return of_model + (
        "a round of {edits} edits (AlphaEdit): {seconds:.1f} s, plain {plain_seconds:.1f} s, "
        "ratio {ratio:.1f} ({cpu_ratio:.1f} of CPU-seconds); relative difference after "
        "{plain_edits}: weights {weights_differ:.1e}, updates {updates_differ:.1e}"
    ).format(**result)


def bench_flops(n_edits: int = 100, repeats: int = 20) -> dict[str, Any]:
    """Compare the rate of target optimisation with that of its largest matrix product.

    The product is that of the MLP on the largest group of tails.
    """
    job = embedded_job(n_edits, n_edits)
    lm, requests, plan = job.lm, job.rounds[0], job.plan

    def work() -> object:
        return optimise_targets(lm, requests, plan.contexts, plan.layers[-1], plan.target)

    with FlopCounterMode(display=False) as counter:
        work()
    seconds = min(timed(work)[0] for _ in range(3))
    d_model, d_ff = read_weight(lm, plan.layers[-1]).shape
    templates = [t for group in plan.contexts for t in group]
    lengths: Counter[int] = Counter()  # length of a tail → number of rows
    for own in target_rows(lm, requests, templates, plan.target):
        lengths.update(len(row.ids) - row.position for row in own)
    tokens = torch.randn(max(length * rows for length, rows in lengths.items()), d_model)
    up = torch.randn(d_model, d_ff)
    tokens @ up  # load kernels
    product = min(timed(lambda: tokens @ up)[0] for _ in range(repeats))
    flops = counter.get_total_flops()
    rate, limit = flops / seconds, 2 * tokens.shape[0] * d_model * d_ff / product
    return {
        "edits": n_edits,
        "flops": flops,
        "seconds": seconds,
        "rate": rate,
        "matrix_product_rate": limit,
        "shape": [len(tokens), d_model, d_ff],
        "share": rate / limit,
    }


def flops_line(result: dict[str, Any]) -> str:
    """The result of `bench_flops` in a line."""
    return (
        f"targets of {result['edits']} requests: {result['flops'] / 1e9:.0f} GFLOP at "
        f"{result['rate'] / 1e9:.0f} GFLOP/s, {100 * result['share']:.0f} % of a matrix product's "
        f"{result['matrix_product_rate'] / 1e9:.0f}"
    )


def bench_rounds(rounds: int = 50, batch_size: int = 20) -> dict[str, Any]:
    """Measure the seconds of a round and the bytes of history as edits add up.

    Targets take all their steps. Otherwise later rounds would do more work, on a model that is
    worse.
    """
    job = embedded_job(rounds * batch_size, batch_size)
    plan = replace(job.plan, target=replace(job.plan.target, stop_loss=0.0))
    layer = plan.layers[0]
    seconds, history = [], []
    for done in run_sequential(job.lm, job.rounds, job.settings.make(), plan):
        seconds.append(done.seconds)
        history.append(done.state.keys[layer].nbytes + done.state.grams[layer].nbytes)
    early, late, rest = seconds[1:6], seconds[-5:], ("keys", "solve", "observe")
    return {
        "rounds": rounds,
        "batch_size": batch_size,
        "seconds_early": _least(early),
        "seconds_late": _least(late),
        "ratio": _least(late) / _least(early),
        "ratio_without_targets": _least(late, rest) / _least(early, rest),
        "history_bytes": history,
        "dense_cache_bytes": 4 * plan.moments[layer].shape[0] ** 2,
    }


def _least(rounds: Sequence[dict[str, float]], stages: Sequence[str] = ("total",)) -> float:
    """Seconds of these stages in the fastest round, the one least slowed by other work."""
    return min(sum(seconds[stage] for stage in stages) for seconds in rounds)


def rounds_line(result: dict[str, Any]) -> str:
    """The result of `bench_rounds` in a line."""
    return (
        f"{result['rounds']} rounds of {result['batch_size']}: last ÷ second {result['ratio']:.2f} "
        f"({result['ratio_without_targets']:.2f} without targets); history "
        f"{result['history_bytes'][-1] / 1e6:.1f} MB a layer, a d×d cache "
        f"{result['dense_cache_bytes'] / 1e6:.1f} MB"
    )


def bench_evaluation(n_edits: int = 500) -> dict[str, Any]:
    """Time all metrics but those of generated text, for so many edits."""
    job = embedded_job(n_edits, n_edits)
    requests = job.rounds[0]
    unedited = score_edits(job.lm, requests)
    seconds, _ = timed(
        lambda: evaluate(job.lm, requests, unedited=unedited, rounds=job.edited_in, world=WORLD)
    )
    return {"edits": n_edits, "seconds": seconds}


def evaluation_line(result: dict[str, Any]) -> str:
    """The result of `bench_evaluation` in a line."""
    return f"evaluation of {result['edits']} edits: {result['seconds']:.1f} s"
