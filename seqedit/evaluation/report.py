"""Gather everything that is measured on an edited model into one report for JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..lm.model import LanguageModel
from ..lm.targets import mean_states
from ..requests.request import EditRequest
from .abilities import answer_facts, answer_tasks, perplexity
from .consistency import References, consistency
from .edits import outcome_rows, retention, score_edits, summarise
from .generation import generate, ngram_entropy
from .shift import hidden_shift, shift_summary
from .wild import score_wild, summarise_wild


def evaluate(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    unedited: pd.DataFrame | None = None,
    edited: Sequence[EditRequest] | None = None,
    extra_kinds: Sequence[str] = (),
    rounds: Mapping[int | str, int] | None = None,
    world: Path | None = None,
    states: Float[Tensor, "n d_model"] | None = None,
    texts: Sequence[str] = (),
    generator: torch.Generator | None = None,
    references: References | None = None,
    wild: bool = False,
    kept: Path | None = None,
    known: Bool[np.ndarray, "facts"] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure the edits of `requests`, and whatever else the arguments ask for.

    Args:
        lm: the edited model.
        requests: the requests to measure.
        unedited: `score_edits` of the same requests on the unedited model; `neighborhood_kept`
            needs it.
        edited: all requests edited so far; by default those that are measured. Probes of their
            facts are left out where they ask what has stayed as it was.
        extra_kinds: kinds of prompts that are measured beside the usual ones, see
            `seqedit.evaluation.probes.EXTRA_KINDS`.
        rounds: case_id → round in which the request was edited, for retention by age.
        world: folder of the embedded world, for abilities, unrelated facts and perplexity.
        states: `ordinary_states` of the unedited model; `hidden_shift` and `whitened_shift` need
            them.
        texts: documents whose perplexity is measured, `text_perplexity`.
        generator: if given, the first generation prompt of each request is continued and fluency is
            measured.
        references: with a generator, all generation prompts are continued, as published, and
            consistency is measured.
        wild: let the model answer each request freely and judge the answers.
        kept: file of facts that are never edited, JSON lines of `prompt` and `target`.
        known: whether each of them counts: the unedited model said it, and no edit is about it.
        progress: show a progress bar.

    Returns:
        Sections by name, which JSON can store. A metric is None if the requests lack the prompts
        for it, or if it overflows, as the perplexity of a broken model can. `probes` holds the
        outcome of every single probe (`outcome_rows`).
    """
    scores = score_edits(
        lm,
        requests,
        unedited=unedited,
        edited=edited,
        extra_kinds=extra_kinds,
        progress=progress,
    )
    report: dict[str, Any] = {"edits": _without_nan(summarise(scores))}
    if rounds:
        scores["round"] = scores["case_id"].map(rounds)
        of_rounds = scores.dropna(subset=["round"])
        report["retention"] = retention(of_rounds, max(rounds.values())).to_dict("records")
    if world is not None:
        report |= _world_report(lm, world, states)
    if texts:
        report["text_perplexity"] = finite_perplexity(lm, texts)
    if generator is not None:
        report |= _text_report(lm, requests, generator, references)
    if wild:
        report["wild"] = _without_nan(summarise_wild(score_wild(lm, requests)))
    if kept is not None and known is not None:
        report |= _kept_report(lm, kept, known, report.get("answers", {}))
    return report | {"probes": outcome_rows(scores)}


def _without_nan(summary: dict[str, float]) -> dict[str, float | None]:
    """The same metrics, None for NaN, which JSON does not have."""
    return {name: None if np.isnan(value) else value for name, value in summary.items()}


def finite_perplexity(lm: LanguageModel, texts: Sequence[str]) -> float | None:
    """The perplexity of texts; None if it overflows, as that of a broken model can."""
    found = perplexity(lm, texts)
    return found if np.isfinite(found) else None


def _world_report(
    lm: LanguageModel, world: Path, states: Float[Tensor, "n d_model"] | None
) -> dict[str, Any]:
    """Abilities, unrelated facts and perplexity; with `states`, the shift of hidden states.

    `answers` holds for each fact and each item of a task whether it was right, "1", or not, "0".
    """
    tasks, facts = answer_tasks(lm, world), answer_facts(lm, world / "unrelated.jsonl")
    report = {
        "abilities": {task: float(right.mean()) for task, right in tasks.items()},
        "unrelated_facts": float(facts.mean()),
        "perplexity": finite_perplexity(lm, _heldout_texts(world)),
        "answers": {
            name: _compact(answers)
            for name, answers in ({"unrelated_facts": facts} | tasks).items()
        },
    }
    if states is not None:
        after = ordinary_states(lm, world)
        report["hidden_shift"] = hidden_shift(states, after)
        report["whitened_shift"] = shift_summary(states, after)
    return report


def _kept_report(
    lm: LanguageModel, path: Path, known: Bool[np.ndarray, "facts"], answers: dict[str, str]
) -> dict[str, Any]:
    """Of the never-edited facts that the unedited model said, the share that is still said.

    Those that it did not know cannot be forgotten, and a small model knows few.
    """
    said = answer_facts(lm, path)
    return {
        "known_facts": int(known.sum()),
        "kept_facts": float(said[known].mean()) if known.any() else None,
        "answers": answers | {"kept_facts": _compact(said)},
    }


def _compact(right: Bool[np.ndarray, "n"]) -> str:
    """Outcomes as a string, "1" for right."""
    return "".join("01"[int(one)] for one in right)


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


SINGLE = ("answers", "probes")
"""Sections of a report with the outcomes of single probes, which are not for people to read."""


def report_text(report: dict[str, Any]) -> str:
    """Format a report of `evaluate` as text, one block per section."""
    lines = []
    for section, values in report.items():
        if section in SINGLE:
            continue
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
