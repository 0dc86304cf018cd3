"""Chooses the settings of each method for the embedded model, on calibration facts only.

Published constants are not scale-free: a small model needs its own. Every method gets the same
budget of twelve settings, each judged by sequential edits of the same calibration facts, which
results never use. Methods with targets search the learning rate and the clamp of the target alike,
with three values of what is the method's own. What was tried and what it cost is written beside the
choice.
"""

import itertools
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.files import write_json
from ..base.paths import DATA, MODEL, WORLD
from ..methods.catalogue import CATALOGUE
from ..runs.config import RunConfig, Say
from ..runs.engine import run
from ..runs.records import load_run

EDITS, ROUND = 160, 40
"""Calibration facts that a trial edits, and how many of them a round."""


def quality(scores: Mapping[Any, Any]) -> float:
    """The figure by which settings are judged, between 0 and 1.

    It is the harmonic mean of the three accuracies and of the share of unrelated facts still known.
    Success is left out because it is near its ceiling.

    Args:
        scores: the last evaluation of a run, a row of `Record.scores`.
    """
    kinds = ("efficacy", "paraphrase", "neighborhood")
    values = [scores[f"edits.{kind}_accuracy"] for kind in kinds]
    values.append(scores["unrelated_facts"])
    return len(values) / sum(1 / max(value, 1e-3) for value in values)


def tune(method: str, out: Path, say: Say = print) -> dict[str, Any]:
    """Try all settings in the ranges of a method's catalogue entry and write the best of them.

    Writes `out`/<method>.json, the best settings, and `out`/<method>.search.json, all trials.

    Args:
        say: told each trial as a line of JSON.

    Returns:
        The best trial.

    Raises:
        ValueError: the catalogue has no ranges for the method.
    """
    grid = CATALOGUE[method].search if method in CATALOGUE else {}
    if not grid:
        known = ", ".join(name for name, entry in CATALOGUE.items() if entry.search)
        raise ValueError(
            f"method: {method!r} has no ranges to search; there are ranges for {known}"
        )
    base, *after = method.split("+")
    chosen = json.loads((DATA / "hyper" / f"{base}.json").read_text()) if after else {}
    trials: list[dict[str, Any]] = []
    out.mkdir(parents=True, exist_ok=True)
    for values in itertools.product(*grid.values()):
        trials.append(_try(method, chosen | dict(zip(grid, values, strict=True))))
        say(json.dumps(trials[-1]))
    best = max(trials, key=lambda trial: float(trial["quality"]))
    write_json(out / f"{method}.json", best["settings"])
    write_json(out / f"{method}.search.json", {"facts": EDITS, "round": ROUND, "trials": trials})
    return best


def _try(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the quality and the shares of a run on calibration facts."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            model=str(MODEL),
            requests=WORLD / "calibration.json",
            method=method,
            settings=settings,
            n_edits=EDITS,
            batch_size=ROUND,
        )
        run(config, Path(folder))
        scores = load_run(Path(folder)).scores.iloc[-1].to_dict()
    kinds = ("efficacy_accuracy", "paraphrase_accuracy", "neighborhood_accuracy")
    return {
        "settings": settings,
        "quality": round(quality(scores), 4),
        **{kind: round(float(scores[f"edits.{kind}"]), 4) for kind in kinds},
        "unrelated_facts": round(float(scores["unrelated_facts"]), 4),
        "seconds": round(time.perf_counter() - start, 1),
    }
