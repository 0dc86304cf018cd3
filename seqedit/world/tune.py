"""Chooses each method's settings for the embedded model, on calibration facts that results never use.

Published constants are not scale-free: a small model needs its own. Every method gets the same budget: a grid of
`GRID_SIZE` settings, each judged by sequential edits of the same calibration facts. What was tried and
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
TARGET = {"steps": 25, "weight_decay": 0.05, "kl": 0.0625, "lr": 1.0}
GRIDS = {
    "memit": {"lam": (3.0, 10.0, 30.0), "clamp": (1.0, 2.0), "layers": ((1, 2, 3),)},
    "memit_seq": {"lam": (3.0, 10.0, 30.0), "clamp": (1.0, 2.0), "layers": ((1, 2, 3),)},
    "alphaedit": {"threshold": (0.005, 0.02, 0.05), "l2": (0.1, 1.0), "clamp": (2.0,), "layers": ((1, 2, 3),)},
    "rome": {"clamp": (1.0, 2.0, 4.0), "layers": ((1,), (2,))},
    "r_rome": {"clamp": (1.0, 2.0, 4.0), "layers": ((1,), (2,))},
}
GRID_SIZE = 6


def quality(scores: dict) -> float:
    """Harmonic mean of the three accuracies; success is near its ceiling for every setting."""
    values = [scores[f"edits.{kind}_accuracy"] for kind in ("efficacy", "paraphrase", "neighborhood")]
    return len(values) / sum(1 / max(value, 1e-3) for value in values)


def tune(method: str, out: Path, say=print) -> dict:
    """Try the method's grid, write `out`/<method>.json (the best) and `out`/<method>.search.json (all of them)."""
    grid = GRIDS[method]
    trials = []
    for values in itertools.product(*grid.values()):
        settings = TARGET | dict(zip(grid, values, strict=True))
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
    assert len(trials) == GRID_SIZE, "every method gets the same budget"
    best = max(trials, key=lambda trial: trial["quality"])
    write_json(out / f"{method}.json", best["settings"])
    write_json(out / f"{method}.search.json", {"facts": EDITS, "round": ROUND, "trials": trials})
    return best
