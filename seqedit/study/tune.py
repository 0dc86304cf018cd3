"""Chooses each method's settings for the embedded model, on calibration facts that results never use.

Published constants are not scale-free: a small model needs its own. Every method gets the same budget: twelve
settings, each judged by sequential edits of the same calibration facts. Methods with targets search the target's
learning rate and clamp alike, with three values of what is the method's own. What was tried and what it cost is
written beside the choice.
"""

import itertools
import json
import tempfile
import time
from pathlib import Path

from ..base.files import write_json
from ..base.paths import DATA, MODEL, WORLD
from ..runs.config import RunConfig
from ..runs.engine import run
from ..runs.records import load_run

EDITS, ROUND = 160, 40
ALL, EACH = ((0, 1, 2),), ((0,), (1,), (2,))
TARGET = {"steps": (25,), "weight_decay": (0.05,), "lr": (0.5, 1.0), "clamp": (0.75, 1.0)}
MEMIT = {"layers": ALL, "lam": (100.0, 300.0, 1000.0)} | TARGET
ALPHAEDIT = {"layers": ALL, "l2": (1.0,), "threshold": (0.02, 0.05, 0.1)} | TARGET
ENCORE = {"layers": ALL, "lam": (100.0,), "gamma": (0.1, 1.0, 10.0)} | TARGET
ROME = {"layers": EACH} | TARGET
NSE = {
    "layers": ALL,
    "lam": (100.0,),
    "done_below": (3.0,),
    "hopeless_from": (1e3,),
    "mass": (0.8, 0.9, 1.0),
} | TARGET
FT = {"layers": (*EACH, *ALL), "steps": (25,), "lr": (3e-4, 1e-3, 3e-3)}
GRIDS = {
    "memit": MEMIT,
    "memit_seq": MEMIT,
    "rome": ROME,
    "r_rome": ROME,
    "alphaedit": ALPHAEDIT,
    "evoedit": ALPHAEDIT,
    "betaedit": {"layers": ALL, "lam": (10.0, 100.0, 300.0), "l2": (1.0,), "threshold": (0.02,)}
    | TARGET,
    "nas": ALPHAEDIT,
    "emmet": ROME | {"lam": (1000.0,)},
    "encore": ENCORE,
    "rlsedit": ENCORE,
    "nse_paper": NSE,
    "nse": NSE,
    "bird": {"layers": ALL, "lam": (100.0,), "alpha": (2e-4, 2e-3, 2e-2)} | TARGET,
    "lyaplock": {"layers": ALL, "lam": (100.0,), "budget": (1.5, 5.0, 60.0)} | TARGET,
    "memit_rect": {"layers": ALL, "lam": (100.0,), "share": (0.4, 0.6, 0.8)} | TARGET,
    "memit_prune": {"layers": ALL, "lam": (100.0,), "alpha": (1.2, 2.0, 2.718281828)} | TARGET,
    "ultraedit": {"layers": ALL, "ridge": (1.0, 10.0, 100.0), "eta": (1e-4, 2e-4, 4e-4, 8e-4)},
    "mend": {"layers": ALL},
    "rledit": {"layers": ALL},
    "rledit_released": {"layers": ALL},  # trained instead
    "ft": FT,
    "ft_m": FT,
    "ft_l": {"layers": EACH, "steps": (25,), "lr": (1e-3, 3e-3), "epsilon": (1e-2, 2e-2)},
    "grace": {
        "layers": EACH,
        "radius": (1.0, 2.0, 4.0, 8.0),
        "clamp": (10.0,),
        "kl": (0.0,),
        "lr": (1.0,),
        "weight_decay": (0.0,),
    },
    "alphaedit+sphere": {"share": (0.3, 0.5, 0.7, 0.9), "strength": (0.25, 0.5, 1.0)},
    "memit_seq+revive": {
        "share": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
        "lr": (1.0,),
        "clamp": (1.0, 2.0),
    },
    "memit_rect+with_history+compensated": {
        "share": (0.05, *(i / 10 for i in range(1, 10)), 0.95, 1.0)
    },
    "memit_seq+robust_keys": {
        "adaptor_steps": (100, 400),
        "adaptor_lr": (3e-3, 1e-2, 3e-2),
        "rank": (8, 32),
    },
}
"""Values that are tried, in all combinations; after a "+", beside the settings chosen for the method before it.

Tried before on the same facts, and left out: λ of 1 and 10 (like 100) and of 10,000 (writes nothing), L2 of 0.1 (like
1) and 10 (worse), τ of 0.002 and 2 (much worse), clamp 2 (worse with lr 1), layers 1–2 and 1–3 (worse), one layer for
MEMIT and AlphaEdit (worse), no contexts (paraphrases fail), 2, 10, 20 of length 10 and 5 of length 5 (no better on the
whole).
"""


def quality(scores: dict) -> float:
    """Harmonic mean of the three accuracies (success is near its ceiling) and of the unrelated facts still known."""
    values = [
        scores[f"edits.{kind}_accuracy"] for kind in ("efficacy", "paraphrase", "neighborhood")
    ]
    values.append(scores["unrelated_facts"])
    return len(values) / sum(1 / max(value, 1e-3) for value in values)


def tune(method: str, out: Path, say=print) -> dict:
    """Try the method's grid, write `out`/<method>.json (the best) and `out`/<method>.search.json (all of them)."""
    if method not in GRIDS:
        raise ValueError(
            f"method: there is no grid for {method!r}; there are grids for {', '.join(GRIDS)}"
        )
    base, *after = method.split("+")
    chosen = json.loads((DATA / "hyper" / f"{base}.json").read_text()) if after else {}
    grid, trials = GRIDS[method], []
    out.mkdir(parents=True, exist_ok=True)
    for values in itertools.product(*grid.values()):
        settings = chosen | dict(zip(grid, values, strict=True))
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
            scores = load_run(Path(folder)).scores.iloc[-1]
        trial = {
            "settings": settings,
            "quality": round(quality(scores), 4),
            **{
                name: round(float(scores[f"edits.{name}"]), 4)
                for name in ("efficacy_accuracy", "paraphrase_accuracy", "neighborhood_accuracy")
            },
            "unrelated_facts": round(float(scores["unrelated_facts"]), 4),
            "seconds": round(time.perf_counter() - start, 1),
        }
        say(json.dumps(trial))
        trials.append(trial)
    best = max(trials, key=lambda trial: trial["quality"])
    write_json(out / f"{method}.json", best["settings"])
    write_json(out / f"{method}.search.json", {"facts": EDITS, "round": ROUND, "trials": trials})
    return best
