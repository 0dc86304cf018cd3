"""Judges settings on calibration facts, which results never edit."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ..base.paths import FACTS, MODEL, WORLD, find_model
from ..editing.sequential import handed_over, run_sequential
from ..evaluation.abilities import answer_facts
from ..evaluation.edits import score_edits
from ..lm.checkpoint_check import read_config
from ..lm.model import LanguageModel
from ..lm.registry import locate
from ..requests.published import load_requests
from ..runs.config import RunConfig
from ..runs.job import prepare

KINDS = ("efficacy", "paraphrase", "neighborhood")

EXACT = tuple(f"{kind}_accuracy" for kind in KINDS)
"""Scores that judge edits of the embedded model, which says nearly every fact of its world; success
is near its ceiling there.
"""
SUCCESS = ("efficacy_accuracy", "paraphrase", "neighborhood")
"""Scores that judge edits of other models, which prefer many a true object that they do not say:
the success of the papers, but for the edits themselves.
"""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What settings are judged by.

    Attributes:
        model: as `RunConfig` takes it.
        requests: calibration facts that a trial edits; results never edit them.
        kept: facts that are never edited, JSON lines of `prompt` and `target`; results do not ask
            for them. None judges by the edits and their neighbourhoods alone.
        edits: how many requests a trial edits.
        batch_size: how many of them a round.
        seed: of context templates and of the sampler.
        dtype: of the model's weights.
    """

    model: str = str(MODEL)
    requests: Path = WORLD / "calibration.json"
    kept: Path | None = WORLD / "calibration_unrelated.jsonl"
    edits: int = 400
    batch_size: int = 50
    seed: int = 0
    dtype: str = "float32"

    @classmethod
    def of_facts(cls, model: str) -> "Calibration":
        """Facts about the real world, for any model but the embedded one."""
        return cls(
            model=model,
            requests=FACTS / "calibration.json",
            kept=FACTS / "calibration_kept.jsonl",
            edits=100,
        )

    @property
    def n_layers(self) -> int | None:
        """How many layers the model has; None for the embedded one, for which the catalogue's
        ranges are.
        """
        if Path(find_model(self.model)) == MODEL:
            return None
        return read_config(locate(self.model)).get_text_config().num_hidden_layers


def judge(method: str, settings: Mapping[str, Any], calibration: Calibration) -> dict[str, Any]:
    """Edit the calibration facts with given settings and measure what came of them.

    Returns:
        The settings; `quality`, the harmonic mean of the shares below, between 0 and 1; the scores
        of the edits, their paraphrases and neighbourhoods (`EXACT` or `SUCCESS`); the share of kept
        facts that are still said, of those that the unedited model says; and the seconds it took.

    Raises:
        ValueError: the input is wrong, or the unedited model says none of the kept facts.
    """
    start = time.perf_counter()
    job = prepare(
        RunConfig(
            model=calibration.model,
            requests=calibration.requests,
            method=method,
            settings=dict(settings),
            n_edits=calibration.edits,
            batch_size=calibration.batch_size,
            seed=calibration.seed,
            dtype=calibration.dtype,
        )
    )
    known = _known(job.lm, calibration.kept) if calibration.kept else None
    made, state = job.settings.make(), None
    for done in run_sequential(job.lm, job.rounds, made, job.plan):
        state = done.state
    assert state is not None  # there is at least one round
    with handed_over(job.lm, made, state):
        scores = score_edits(job.lm, job.requests)
        measured = zip(KINDS, EXACT if job.embedded else SUCCESS, strict=True)
        shares = {kind: float(scores[score].mean()) for kind, score in measured}
        if calibration.kept:
            shares["kept_facts"] = float(answer_facts(job.lm, calibration.kept)[known].mean())
    quality = len(shares) / sum(1 / max(share, 1e-3) for share in shares.values())
    return {
        "settings": dict(settings),
        "quality": round(quality, 4),
        **{name: round(share, 4) for name, share in shares.items()},
        "seconds": round(time.perf_counter() - start, 1),
    }


def _known(lm: LanguageModel, kept: Path) -> Bool[np.ndarray, "facts"]:
    """Which of the kept facts the unedited model says."""
    known = answer_facts(lm, kept)
    if not known.any():
        raise ValueError(f"kept: the model says none of the facts of {kept}; give others")
    return known


def shortest_target(trials: Sequence[dict[str, Any]], edits: int) -> dict[str, Any]:
    """The trial with the smallest clamp among those within one standard error of the best.

    The standard error of the best quality follows from the binomial variances of its shares, by the
    delta method; requests, not prompts, are counted as independent.

    Args:
        trials: as `judge` returns them.
        edits: how many requests a trial edits.

    Source: the one-standard-error rule, Breiman et al., Classification and Regression Trees (1984).
    """
    best = max(trials, key=lambda trial: trial["quality"])
    quality, variance = best["quality"], 0.0
    shares = [best[kind] for kind in (*KINDS, "kept_facts") if kind in best]
    for share in shares:
        slope = quality**2 / (len(shares) * share**2)
        variance += slope**2 * share * (1 - share) / edits
    near = [trial for trial in trials if trial["quality"] >= quality - variance**0.5]
    return min(near, key=lambda trial: trial["settings"]["clamp"])


def check_disjoint(calibration: Calibration, results: Path | str) -> None:
    """Refuse calibration facts of which results use one.

    Raises:
        ValueError: a subject is edited in both, or the calibration edits the subject of a probe of
            the results; the message names it.
    """
    edited = load_requests(calibration.requests)[: calibration.edits]
    calibrated = {request.subject: request.case_id for request in edited}
    for request in load_requests(results):
        if request.subject in calibrated:
            raise ValueError(
                f"requests: the calibration edits {request.subject!r} (case_id "
                f"{calibrated[request.subject]!r}), and so do the results (case_id "
                f"{request.case_id!r}); choose settings on other facts"
            )
