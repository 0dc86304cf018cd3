"""Everything the study measures on an edited model, gathered into one JSON-serialisable report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..lm.model import LanguageModel
from ..lm.targets import mean_states
from ..requests.request import EditRequest
from .abilities import perplexity, score_abilities, unrelated_facts
from .consistency import References, consistency
from .edits import retention, score_edits, summarise
from .generation import generate, ngram_entropy
from .shift import hidden_shift


def evaluate(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    unedited: pd.DataFrame | None = None,
    rounds: Mapping[int | str, int] | None = None,
    world: Path | None = None,
    states: Tensor | None = None,
    generator: torch.Generator | None = None,
    references: References | None = None,
    progress: bool = False,
) -> dict:
    """Edit metrics of `requests`, and what else is asked for; None where the requests lack the prompts for a metric.

    The perplexity of a model that is broken can overflow, and is None then.

    Args:
        unedited: `score_edits` of the same requests on the unedited model, for `neighborhood_kept`.
        rounds: case_id → round in which it was edited, for retention by age.
        world: folder of the embedded world, for abilities, unrelated facts and perplexity.
        states: `ordinary_states` of the unedited model, for `hidden_shift`.
        generator: when given, the first generation prompt of each request is continued and fluency is measured.
        references: with a generator, all generation prompts are continued, as published, and consistency is measured.
    """
    scores = score_edits(lm, requests, unedited=unedited, progress=progress)
    report: dict = {
        "edits": {
            name: None if value != value else value for name, value in summarise(scores).items()
        }
    }
    if rounds:
        scores["round"] = scores["case_id"].map(rounds)
        report["retention"] = retention(
            scores.dropna(subset=["round"]), max(rounds.values())
        ).to_dict("records")
    if world is not None:
        texts = (world / "heldout.txt").read_text(encoding="utf-8").splitlines()
        surprise = perplexity(lm, texts)
        report |= {
            "abilities": score_abilities(lm, world),
            "unrelated_facts": unrelated_facts(lm, world),
            "perplexity": surprise if np.isfinite(surprise) else None,
        }
        if states is not None:
            report["hidden_shift"] = hidden_shift(states, ordinary_states(lm, world))
    if generator is not None:
        asked = [
            (i, prompt)
            for i, r in enumerate(requests)
            for prompt in (r.generation_prompts[: None if references else 1] or (r.text,))
        ]
        texts = generate(lm, [prompt for _, prompt in asked], generator)
        report["fluency"] = ngram_entropy(texts)
        if references:
            report["consistency"], report["consistency_n"] = consistency(
                texts, [i for i, _ in asked], requests, references
            )
    return report


def ordinary_states(lm: LanguageModel, world: Path, count: int = 200) -> Tensor:
    """Hidden states of the first held-out texts, each a mean over its tokens, (count, d_model)."""
    return mean_states(
        lm, (world / "heldout.txt").read_text(encoding="utf-8").splitlines()[:count]
    ).cpu()


def table(report: dict) -> str:
    """The report as readable text, one section a block."""
    lines = []
    for section, values in report.items():
        if isinstance(values, dict):
            lines += [f"{section}:"] + [
                f"  {name:<24}{value:>10.3f}"
                if isinstance(value, float)
                else f"  {name:<24}{'–' if value is None else value:>10}"
                for name, value in values.items()
            ]
        elif isinstance(values, list):
            lines += [f"{section}:", pd.DataFrame(values).to_string(index=False)]
        else:
            lines.append(f"{section:<26}{'–' if values is None else f'{values:.3f}':>10}")
    return "\n".join(lines)
