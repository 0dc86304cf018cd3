"""Chooses each method's settings for the embedded model, on calibration facts that results never use.

Published constants are not scale-free: a small model needs its own. Every method gets the same budget: six
settings, each judged by sequential edits of the same calibration facts. What was tried and
what it cost is written beside the choice.
"""

import itertools
import json
import tempfile
import time
from pathlib import Path

from ..files import write_json
from ..paths import MODEL, WORLD
from ..study.records import load_run
from ..study.run import RunConfig, run

EDITS, ROUND = 60, 20
SHARED = {"steps": 25, "weight_decay": 0.05, "clamp": 2.0}
MEMIT = {"lam": (100.0, 1000.0, 10_000.0), "lr": (0.5, 1.0), "layers": ((0, 1, 2),)}
ROME = {"lr": (0.5, 1.0), "layers": ((0,), (1,), (2,))}
GRIDS = {
    "memit": MEMIT, "memit_seq": MEMIT, "rome": ROME, "r_rome": ROME,
    "alphaedit": {"threshold": (0.02,), "l2": (0.1, 1.0, 10.0), "lr": (0.5, 1.0), "layers": ((0, 1, 2),)},
}
"""Trial settings of each method, six for each. Smaller λ (1, 10, 100) had given the same scores on 40 facts."""


def quality(scores: dict) -> float:
    """Harmonic mean of the three accuracies (success is near its ceiling) and of the unrelated facts still known."""
    values = [scores[f"edits.{kind}_accuracy"] for kind in ("efficacy", "paraphrase", "neighborhood")]
    values.append(scores["unrelated_facts"])
    return len(values) / sum(1 / max(value, 1e-3) for value in values)


def tune(method: str, out: Path, say=print) -> dict:
    """Try the method's grid, write `out`/<method>.json (the best) and `out`/<method>.search.json (all of them)."""
    if method not in GRIDS:
        raise ValueError(f"method: there is no grid for {method!r}; there are grids for {', '.join(GRIDS)}")
    grid, trials = GRIDS[method], []
    out.mkdir(parents=True, exist_ok=True)
    for values in itertools.product(*grid.values()):
        settings = SHARED | dict(zip(grid, values, strict=True))
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            config = RunConfig(model=str(MODEL), requests=WORLD / "calibration.json", method=method, settings=settings,
                               n_edits=EDITS, batch_size=ROUND)
            run(config, Path(folder))
            scores = load_run(Path(folder)).scores.iloc[-1]
        trial = {"settings": settings, "quality": round(quality(scores), 4),
                 **{name: round(float(scores[f"edits.{name}"]), 4) for name in
                    ("efficacy_accuracy", "paraphrase_accuracy", "neighborhood_accuracy")},
                 "unrelated_facts": round(float(scores["unrelated_facts"]), 4),
                 "seconds": round(time.perf_counter() - start, 1)}
        say(json.dumps(trial))
        trials.append(trial)
    best = max(trials, key=lambda trial: trial["quality"])
    write_json(out / f"{method}.json", best["settings"])
    write_json(out / f"{method}.search.json", {"facts": EDITS, "round": ROUND, "trials": trials})
    return best
