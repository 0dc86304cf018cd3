"""Measure rounds at full size, on random weights in the shapes of large models."""

import gc
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from ..algebra.compact import CompactMoment
from ..algebra.second_moment import SecondMoment
from ..base.paths import MODEL, WORLD
from ..editing.sequential import run_sequential
from ..editing.state import EditPlan
from ..lm.architecture import architecture_of
from ..lm.keys import BARE, Contexts
from ..lm.model import LanguageModel
from ..lm.second_moments import Reading, accumulate_moments
from ..lm.target_loss import TargetConfig
from ..lm.weights import read_weight
from ..methods.alphaedit import alphaedit
from ..moments.corpus import Corpus
from ..planner.estimate import Texts, Work, estimate
from ..planner.shapes import shape_of
from ..requests.published import load_requests
from ..requests.request import EditRequest, batched

FULL_SIZE = ("smollm2-135m", "gpt-j-6b", "llama-3-8b")
"""The models whose shapes are measured."""


def random_model(config: PretrainedConfig, device: str, dtype: torch.dtype) -> LanguageModel:
    """Make a model of random weights on a device, with the embedded model's tokenizer.

    Args:
        config: the shape of the model.
        device: where the weights are made and stay.
        dtype: of the weights.
    """
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    finally:
        torch.set_default_dtype(before)
    return LanguageModel(
        model.to(device, dtype).eval().requires_grad_(False),
        AutoTokenizer.from_pretrained(MODEL, trust_remote_code=False),
        architecture_of(config.model_type),
    )


def synthetic_moments(
    lm: LanguageModel, layers: tuple[int, ...], removed: float
) -> dict[int, Tensor | CompactMoment]:
    """Compact moments whose eigenvectors are random, with eigenvalues of 1, above every τ.

    Args:
        lm: the model.
        layers: the layers that get a moment.
        removed: share of the directions that are eigenvectors.
    """
    size = read_weight(lm, layers[0]).shape[1]
    generator = torch.Generator(lm.device).manual_seed(0)
    moments: dict[int, Tensor | CompactMoment] = {}
    for layer in layers:
        columns = torch.randn(size, round(removed * size), device=lm.device, generator=generator)
        vectors = torch.linalg.qr(columns)[0].cpu()
        moments[layer] = CompactMoment(
            torch.ones(vectors.shape[1]), vectors, torch.tensor(1e-3), torch.tensor(2e-3)
        )
    return moments


def bench_model(
    config: PretrainedConfig,
    layers: tuple[int, ...],
    *,
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
    rounds: int = 3,
    batch_size: int = 100,
    removed: float = 0.3,
    moments_tokens: int = 65_536,
) -> dict[str, Any]:
    """Measure AlphaEdit and the computation of second moments on a random model.

    Targets take all their steps. The requests are the embedded world's, with its tokenizer.

    Args:
        config: the shape of the model.
        layers: the edited layers, ascending.
        device: where the model runs.
        dtype: of its weights.
        rounds: number of rounds.
        batch_size: number of requests per round.
        removed: share of the directions of C above τ.
        moments_tokens: number of tokens for the second moments.

    Returns:
        Seconds of each round by stage, peak memory, and tokens per second of the second moments;
        and beside them the estimate of `seqedit plan` for texts of the same lengths.
    """
    start = time.perf_counter()
    lm = random_model(config, device, dtype)
    seconds = {"load": time.perf_counter() - start}
    requests = load_requests(WORLD / "records.json")[: rounds * batch_size]
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if lm.device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "layers": list(layers),
        "batch_size": batch_size,
    }
    result |= _measure_moments(lm, layers, moments_tokens)
    _reset_peak(lm)
    start = time.perf_counter()
    plan = synthetic_plan(lm, layers, removed)
    seconds["prepare"] = time.perf_counter() - start
    done = run_sequential(lm, list(batched(requests, batch_size)), alphaedit(), plan)
    result["rounds"] = [each.seconds for each in done]
    result |= {"seconds": seconds, "peak_bytes": _peak(lm)}
    work = Work(
        method=alphaedit(),
        layers=layers,
        edits=len(requests),
        batch_size=batch_size,
        dtype=dtype,
        removed=removed,
        moments_tokens=result["moments_tokens"],
    )
    return result | _estimated(config, work, texts_of(lm, requests, plan.contexts))


def _measure_moments(
    lm: LanguageModel, layers: tuple[int, ...], moments_tokens: int
) -> dict[str, Any]:
    """Tokens, tokens per second and peak memory of computing second moments of the world's text."""
    _reset_peak(lm)
    start = time.perf_counter()
    texts, reading = Corpus(file=WORLD / "corpus.txt").texts(), Reading(tokens=moments_tokens)
    moments: dict[int, SecondMoment] = {}
    for _ in accumulate_moments(lm, texts, layers, reading, moments):
        pass
    _wait(lm)
    count = moments[layers[0]].count
    return {
        "moments_tokens": count,
        "moments_tokens_per_second": count / (time.perf_counter() - start),
        "moments_peak_bytes": _peak(lm),
    }


def synthetic_plan(lm: LanguageModel, layers: tuple[int, ...], removed: float) -> EditPlan:
    """A plan with synthetic moments, in which every target takes all its steps.

    The arguments are those of `synthetic_moments`.
    """
    contexts = world_contexts()
    return EditPlan(
        layers=layers,
        moments=synthetic_moments(lm, layers, removed),
        contexts=contexts,
        target=TargetConfig(stop_loss=0.0),
        max_update_ratio=float("inf"),
    )


def _estimated(config: PretrainedConfig, work: Work, texts: Texts) -> dict[str, Any]:
    """What `seqedit plan` estimates for the same run, with what the estimate is for."""
    shape = shape_of(config)
    found = estimate(shape, work, texts)
    flops = found["flops"]
    return {
        "parameters": shape.parameters,
        "texts": asdict(texts),
        "estimated": {
            "peak_bytes": found["memory"]["run"],
            "moments_peak_bytes": found["memory"]["second moments"],
            "round_flops": (flops["targets"] + flops["keys"] + flops["solve"]) / found["rounds"],
        },
    }


def world_contexts(count: int = 5, words: int = 8) -> Contexts:
    """Context templates from the world's text, since a random model samples no useful text.

    Args:
        count: number of templates beside the bare one.
        words: number of words of each.
    """
    lines = islice(Corpus(file=WORLD / "corpus.txt").texts(), count)
    return (*BARE, tuple(" ".join(line.split()[:words]) + ". {}" for line in lines))


def texts_of(lm: LanguageModel, requests: Sequence[EditRequest], contexts: Contexts) -> Texts:
    """The lengths of requests and contexts under the model's tokenizer, for an estimate."""
    tokenizer: Any = lm.tokenizer

    def mean(texts: Iterable[str]) -> float:
        return sum(map(len, tokenizer(list(texts))["input_ids"])) / len(requests)

    templates = [t for group in contexts for t in group]
    bare = tokenizer([t.replace("{}", "") for t in templates])["input_ids"]
    return replace(
        Texts(),
        prompt=mean(r.text for r in requests),
        kl=mean(r.subject for r in requests),
        context=max(map(len, bare)),
        subject_end=mean(r.text[: r.prompt.index("{}") + len(r.subject)] for r in requests),
        target=mean(" " + r.target_new for r in requests),
        contexts=len(templates),
    )


def _wait(lm: LanguageModel) -> None:
    """Wait until the device has finished."""
    if lm.device.type == "cuda":
        torch.cuda.synchronize()


def _reset_peak(lm: LanguageModel) -> None:
    """Free unused memory and start measuring its peak anew."""
    gc.collect()
    if lm.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(lm: LanguageModel) -> int | None:
    """The most bytes that tensors have taken since the last reset.

    None on a CPU, where only the peak of the whole process is known.
    """
    return torch.cuda.max_memory_allocated() if lm.device.type == "cuda" else None


def model_line(r: dict[str, Any], matmul_rate: dict[str, float]) -> str:
    """The result of `bench_model` in a line.

    Args:
        r: the result.
        matmul_rate: operations per second of the card's matrix products, by dtype.
    """
    stages = [{k: v for k, v in seconds.items() if k != "total"} for seconds in r["rounds"]]
    rounds = [sum(seconds.values()) for seconds in stages]
    last = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages[-1].items())
    rate = r["estimated"]["round_flops"] / rounds[-1] / 1e12
    share = 1e12 * rate / matmul_rate.get(r["dtype"], float("nan"))
    return (
        f"{r['dtype']}: rounds of {r['batch_size']} edits "
        f"{', '.join(f'{s:.1f}' for s in rounds)} s (last: {last}; {rate:.3g} TFLOP/s, "
        f"{100 * share:.0f} % of a product's); {_peak_text(r)}; second moments "
        f"{1e6 / r['moments_tokens_per_second']:.1f} s for a million tokens"
    )


def _peak_text(r: dict[str, Any]) -> str:
    """Peak memory, measured and estimated, as part of a line."""
    if not r["peak_bytes"]:
        return "peak not measured on a CPU"
    estimated = r["estimated"]
    return (
        f"peak {r['peak_bytes'] / 1e9:.1f} GB (estimated {estimated['peak_bytes'] / 1e9:.1f}), "
        f"second moments {r['moments_peak_bytes'] / 1e9:.1f} GB "
        f"({estimated['moments_peak_bytes'] / 1e9:.1f})"
    )
