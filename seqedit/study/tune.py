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
from ..runs.config import RunConfig, Say
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
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
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
"""Method → its settings → the values that are tried, in all combinations.

A method with combinators keeps the settings chosen for what stands before its "+".

Values tried before on the same facts and left out: λ of 1 and 10 (like 100) and of 10,000 (writes
nothing), L2 of 0.1 (like 1) and 10 (worse), τ of 0.002 and 2 (much worse), clamp 2 (worse with lr
1), layers 1–2 and 1–3 (worse), one layer for MEMIT and AlphaEdit (worse), no contexts (paraphrases
fail), 2, 10, 20 contexts of length 10 and 5 of length 5 (no better on the whole).
"""


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
    """Try all settings of a method's grid and write the best of them.

    Writes `out`/<method>.json, the best settings, and `out`/<method>.search.json, all trials.

    Args:
        say: told each trial as a line of JSON.

    Returns:
        The best trial.

    Raises:
        ValueError: there is no grid for the method.
    """
    if method not in GRIDS:
        raise ValueError(
            f"method: there is no grid for {method!r}; there are grids for {', '.join(GRIDS)}"
        )
    base, *after = method.split("+")
    chosen = json.loads((DATA / "hyper" / f"{base}.json").read_text()) if after else {}
    grid = GRIDS[method]
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
