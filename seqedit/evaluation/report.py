"""Gather everything that is measured on an edited model into one report for JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..lm.model import LanguageModel
from ..lm.targets import mean_states
from ..requests.request import EditRequest
from .abilities import perplexity, score_abilities, unrelated_facts
from .consistency import References, consistency
from .edits import retention, score_edits, summarise
from .generation import generate, ngram_entropy
from .shift import hidden_shift, shift_summary


def evaluate(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    unedited: pd.DataFrame | None = None,
    rounds: Mapping[int | str, int] | None = None,
    world: Path | None = None,
    states: Float[Tensor, "n d_model"] | None = None,
    generator: torch.Generator | None = None,
    references: References | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure the edits of `requests`, and whatever else the arguments ask for.

    Args:
        lm: the edited model.
        requests: the requests to measure.
        unedited: `score_edits` of the same requests on the unedited model; `neighborhood_kept`
            needs it.
        rounds: case_id → round in which the request was edited, for retention by age.
        world: folder of the embedded world, for abilities, unrelated facts and perplexity.
        states: `ordinary_states` of the unedited model; `hidden_shift` and `whitened_shift` need
            them.
        generator: if given, the first generation prompt of each request is continued and fluency is
            measured.
        references: with a generator, all generation prompts are continued, as published, and
            consistency is measured.
        progress: show a progress bar.

    Returns:
        Sections by name, which JSON can store. A metric is None if the requests lack the prompts
        for it, or if it overflows, as the perplexity of a broken model can.
    """
    scores = score_edits(lm, requests, unedited=unedited, progress=progress)
    summary = summarise(scores)
    report: dict[str, Any] = {
        "edits": {name: None if np.isnan(value) else value for name, value in summary.items()}
    }
    if rounds:
        scores["round"] = scores["case_id"].map(rounds)
        edited = scores.dropna(subset=["round"])
        report["retention"] = retention(edited, max(rounds.values())).to_dict("records")
    if world is not None:
        report |= _world_report(lm, world, states)
    if generator is not None:
        report |= _text_report(lm, requests, generator, references)
    return report


def _world_report(
    lm: LanguageModel, world: Path, states: Float[Tensor, "n d_model"] | None
) -> dict[str, Any]:
    """Abilities, unrelated facts and perplexity; with `states`, the shift of hidden states."""
    surprise = perplexity(lm, _heldout_texts(world))
    report = {
        "abilities": score_abilities(lm, world),
        "unrelated_facts": unrelated_facts(lm, world),
        "perplexity": surprise if np.isfinite(surprise) else None,
    }
    if states is not None:
        after = ordinary_states(lm, world)
        report["hidden_shift"] = hidden_shift(states, after)
        report["whitened_shift"] = shift_summary(states, after)
    return report


def _text_report(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    generator: torch.Generator,
    references: References | None,
) -> dict[str, Any]:
    """Fluency of generated text; with references also its consistency."""
    owners, prompts = [], []
    for i, request in enumerate(requests):
        own = request.generation_prompts if references else request.generation_prompts[:1]
        for prompt in own or (request.text,):
            owners.append(i)
            prompts.append(prompt)
    texts = generate(lm, prompts, generator)
    report: dict[str, Any] = {"fluency": ngram_entropy(texts)}
    if references:
        found, count = consistency(texts, owners, requests, references)
        report |= {"consistency": found, "consistency_n": count}
    return report


def ordinary_states(lm: LanguageModel, world: Path, count: int = 200) -> Float[Tensor, "n d_model"]:
    """Hidden states of the first held-out texts of a world, each averaged over its tokens."""
    return mean_states(lm, _heldout_texts(world)[:count]).cpu()


def _heldout_texts(world: Path) -> list[str]:
    """The texts of `world`/heldout.txt, one per line."""
    return (world / "heldout.txt").read_text(encoding="utf-8").splitlines()


def report_text(report: dict[str, Any]) -> str:
    """Format a report of `evaluate` as text, one block per section."""
    lines = []
    for section, values in report.items():
        if isinstance(values, dict):
            lines += [f"{section}:"]
            lines += [f"  {name:<24}{_cell(value):>10}" for name, value in values.items()]
        elif isinstance(values, list):
            lines += [f"{section}:", pd.DataFrame(values).to_string(index=False)]
        else:
            lines.append(f"{section:<26}{'–' if values is None else f'{values:.3f}':>10}")
    return "\n".join(lines)


def _cell(value: float | int | None) -> str:
    """A metric as text: three digits, counts as they are, a dash for None."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
