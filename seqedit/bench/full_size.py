"""Rounds at full size: random weights in the shapes of large models, for memory and time."""

import gc
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from ..algebra.compact import CompactMoment
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
from ..planner.shapes import EDITED, config_of, shape_of
from ..requests.published import load_requests
from ..requests.request import EditRequest

FULL_SIZE = ("gpt-j-6b", "llama-3-8b")


def random_model(config: PretrainedConfig, device: str, dtype: torch.dtype) -> LanguageModel:
    """A model of random weights with the embedded model's tokenizer; made where it stays, in `dtype`."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(before)
    return LanguageModel(
        model.to(device, dtype).eval().requires_grad_(False),
        AutoTokenizer.from_pretrained(MODEL),
        architecture_of(config.model_type),
    )


def synthetic_moments(
    lm: LanguageModel, layers: tuple[int, ...], removed: float
) -> dict[int, CompactMoment]:
    """Compact moments with a random subspace above every τ: a share `removed` of the directions, eigenvalues 1."""
    size = read_weight(lm, layers[0]).shape[1]
    generator = torch.Generator(lm.device).manual_seed(0)
    moments = {}
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
    """AlphaEdit on a random model: seconds of each round by stage, peak memory, tokens a second of second moments.

    Targets take all their steps. Requests are the embedded world's, so texts are of its tokenizer; the estimate of
    `seqedit plan` for texts of these lengths stands beside what was measured.
    """
    start = time.perf_counter()
    lm = random_model(config, device, dtype)
    seconds = {"load": time.perf_counter() - start}
    requests: list[EditRequest] = load_requests(WORLD / "records.json")[: rounds * batch_size]
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if lm.device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "layers": list(layers),
        "batch_size": batch_size,
    }
    _reset_peak(lm)
    start = time.perf_counter()
    reading, moments = Reading(tokens=moments_tokens), {}
    for _ in accumulate_moments(
        lm, Corpus(file=WORLD / "corpus.txt").texts(), layers, reading, moments
    ):
        pass
    _wait(lm)
    count = moments[layers[0]].count
    result |= {
        "moments_tokens": count,
        "moments_tokens_per_second": count / (time.perf_counter() - start),
        "moments_peak_bytes": _peak(lm),
    }
    del moments
    _reset_peak(lm)
    start = time.perf_counter()
    contexts = world_contexts()
    plan = EditPlan(
        layers=layers,
        moments=synthetic_moments(lm, layers, removed),
        contexts=contexts,
        target=TargetConfig(stop_loss=0.0),
        max_update_ratio=float("inf"),
    )
    seconds["prepare"] = time.perf_counter() - start
    batches = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
    result["rounds"] = [done.seconds for done in run_sequential(lm, batches, alphaedit(), plan)]
    result |= {"seconds": seconds, "peak_bytes": _peak(lm)}
    shape = shape_of(config)
    work = Work(
        method=alphaedit(),
        layers=layers,
        edits=len(requests),
        batch_size=batch_size,
        dtype=dtype,
        removed=removed,
        moments_tokens=count,
    )
    texts = texts_of(lm, requests, contexts)
    found = estimate(shape, work, texts)
    return result | {
        "parameters": shape.parameters,
        "texts": asdict(texts),
        "estimated": {
            "peak_bytes": found["memory"]["run"],
            "moments_peak_bytes": found["memory"]["second moments"],
            "round_flops": (
                found["flops"]["targets"] + found["flops"]["keys"] + found["flops"]["solve"]
            )
            / found["rounds"],
        },
    }


def world_contexts(count: int = 5, words: int = 8) -> Contexts:
    """Templates from the world's text; what a random model samples is no text."""
    lines = islice(Corpus(file=WORLD / "corpus.txt").texts(), count)
    return (*BARE, tuple(" ".join(line.split()[:words]) + ". {}" for line in lines))


def texts_of(lm: LanguageModel, requests: list[EditRequest], contexts: Contexts) -> Texts:
    """Mean lengths of requests under this model's tokenizer."""

    def mean(texts) -> float:
        return sum(len(ids) for ids in lm.tokenizer(list(texts))["input_ids"]) / len(requests)

    prompt = mean(r.text for r in requests)
    templates = [t for group in contexts for t in group]
    longest = max(
        len(ids) for ids in lm.tokenizer([t.replace("{}", "") for t in templates])["input_ids"]
    )
    return replace(
        Texts(),
        prompt=prompt,
        kl=mean(r.subject for r in requests),
        context=longest,
        subject_end=mean(r.text[: r.prompt.index("{}") + len(r.subject)] for r in requests),
        target=mean(" " + r.target_new for r in requests),
        contexts=len(templates),
    )


def bench_full_size(names: tuple[str, ...] = FULL_SIZE) -> dict[str, Any]:
    """`bench_model` for GPT-J- and Llama-3-8B-shaped models in bfloat16 on a GPU.

    Raises:
        ValueError: there is no GPU, or no embedded model to take texts from.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "full-size needs a GPU: about 30 GB for these models in bfloat16 (`seqedit plan --model "
            "llama-3-8b --edits 300 --dtype bfloat16` says what takes how much)"
        )
    if not Path(MODEL).exists():
        raise ValueError(
            f"full-size takes its texts from {WORLD}, which is not here; work in a clone"
        )
    return {name: bench_model(config_of(name), EDITED[name]) for name in names}


def _wait(lm: LanguageModel) -> None:
    if lm.device.type == "cuda":
        torch.cuda.synchronize()


def _reset_peak(lm: LanguageModel) -> None:
    gc.collect()
    if lm.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(lm: LanguageModel) -> int | None:
    """Bytes that tensors took at most since the last reset; None on a CPU, where a process has one peak only."""
    return torch.cuda.max_memory_allocated() if lm.device.type == "cuda" else None


def report_full_size(results: dict[str, dict]) -> str:
    """A line for each model."""
    lines = []
    for name, r in results.items():
        rounds = [sum(v for k, v in s.items() if k != "total") for s in r["rounds"]]
        stages = ", ".join(
            f"{stage} {s:.1f}" for stage, s in r["rounds"][-1].items() if stage != "total"
        )
        peak = (
            f"peak {r['peak_bytes'] / 1e9:.1f} GB (estimated {r['estimated']['peak_bytes'] / 1e9:.1f}), "
            f"second moments {r['moments_peak_bytes'] / 1e9:.1f} GB "
            f"({r['estimated']['moments_peak_bytes'] / 1e9:.1f})"
            if r["peak_bytes"]
            else "peak not measured on a CPU"
        )
        rate = r["estimated"]["round_flops"] / rounds[-1] / 1e12
        lines.append(
            f"{name}, {r['dtype']}, {r['device']}: rounds of {r['batch_size']} edits "
            f"{', '.join(f'{s:.1f}' for s in rounds)} s (last: {stages}; {rate:.3g} TFLOP/s); {peak}; second "
            f"moments {r['moments_tokens_per_second']:,.0f} tokens/s"
        )
    return "\n".join(lines)
