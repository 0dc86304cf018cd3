"""The runs behind the chapters, as lists: what is compared with what."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..base.paths import MODEL, WORLD
from ..methods.catalogue import METHODS
from ..runs.config import RunConfig

SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class StudyRun:
    """A run of a study.

    Attributes:
        label: what it is called there; settings: overrides of the tuned ones.
        corpus_lines: second moments from so many lines of the corpus; None takes those that are shipped.
        dtype: of the model's weights.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    n_edits: int = 100
    batch_size: int = 25
    seed: int = 1
    requests: str = "records.json"
    evaluate_every: int = 0
    corpus_lines: int | None = None
    dtype: str = "float32"

    def config(self) -> RunConfig:
        return RunConfig(
            model=str(MODEL),
            requests=WORLD / self.requests,
            method=self.method,
            settings=self.settings,
            n_edits=self.n_edits,
            batch_size=self.batch_size,
            shuffle=True,
            seed=self.seed,
            evaluate_every=self.evaluate_every,
            dtype=self.dtype,
            device="cpu",
        )


COMPOSED = (
    "alphaedit+sphere",
    "memit_seq+revive",
    "memit_rect+with_history+compensated",
    "memit_seq+robust_keys",
)
"""Systems of the literature that are a method with something after it: SPHERE, REVIVE, OTE-SE, REP."""


def methods() -> Iterator[StudyRun]:
    """Every method once, with its tuned settings, on the same hundred facts."""
    for name in (*METHODS, *COMPOSED):
        yield StudyRun(name, name)


def choices() -> Iterator[StudyRun]:
    """One choice switched at a time: what papers and released codes leave open, or do differently."""
    switches = [
        ("base", "memit", {}),
        ("prune", "memit+prune", {"alpha": math.e}),
        ("prune-twice", "memit+prune_added_twice", {"alpha": math.e}),
        ("prune-history", "memit+with_history+prune", {"alpha": math.e}),
        ("history", "memit+with_history", {}),
        ("rect", "memit_rect", {"share": 0.4}),
        ("rect-history", "memit_rect+with_history", {"share": 0.4}),
        ("rect-compensated", "memit_rect+with_history+compensated", {"share": 0.4}),
        ("nse", "nse_paper", {"mass": 1.0}),
        ("nse-no-space", "nse_paper", {"mass": 1.0, "separator": ""}),
        ("nse-most-neurons", "nse_paper", {"mass": 0.8}),
        ("nse-one-fewer", "nse", {"mass": 0.8}),
        ("memit-no-space", "memit+with_history", {"separator": ""}),
        ("mixed-key", "rome", {}),
        ("average-key", "r_rome", {}),
        ("tau-1", "alphaedit", {"threshold": 0.01, "l2": 1.0}),
        ("tau-2", "alphaedit", {"threshold": 0.02, "l2": 1.0}),
        ("l2-10", "alphaedit", {"threshold": 0.02, "l2": 10.0}),
        ("no-history", "memit+null_space", {"threshold": 0.02}),
    ]
    for seed in (1, 2, 3):
        for label, method, settings in switches:
            yield StudyRun(label, method, settings, seed=seed)
        for label, method in (
            ("one-position", "ft"),
            ("every-token", "ft_m"),
        ):  # names: targets of several tokens
            yield StudyRun(
                label, method, seed=seed, n_edits=25, batch_size=5, requests="reversal.json"
            )


def growth() -> Iterator[StudyRun]:
    """Four hundred edits by methods of every kind, evaluated along the way: what grows, and what breaks."""
    for name in (
        "rome",
        "r_rome",
        "memit",
        "memit_seq",
        "alphaedit",
        "encore",
        "nse_paper",
        "memit_rect",
        "ft_m",
        "ultraedit",
    ):
        yield StudyRun(name, name, n_edits=400, evaluate_every=4)


LIFELONG = (
    "memit",
    "memit_seq",
    "alphaedit",
    "nse",
    "memit_rect",
    "memit_prune",
    "rome",
    "encore",
    "evoedit",
    "ultraedit",
    "rledit",
    "mend",
    "ft_m",
    "grace",
    "memit_rect+with_history+compensated",
)
BASES = ("rome", "memit", "memit_seq", "encore", "memit_rect", "memit_prune", "ultraedit", "rledit")


def lifelong() -> Iterator[StudyRun]:
    """A thousand edits of the 1,124 there are, in three orders: forgetting and failure of methods of every kind."""
    for seed in SEEDS:
        for name in LIFELONG:
            yield StudyRun(name, name, n_edits=1000, batch_size=50, seed=seed, evaluate_every=4)
        name = "memit_seq+prune_rounds+compensated"
        yield StudyRun(
            name, name, {"alpha": 1.2}, n_edits=1000, batch_size=50, seed=seed, evaluate_every=4
        )


def horizon() -> Iterator[StudyRun]:
    """What tuning on 160 facts could not see: the shorter clamp for methods tuned to 1, at a thousand edits; MEMIT's
    exchanged the other way."""
    for seed in SEEDS:
        for method, clamp in (
            ("memit", 1.0),
            ("memit_seq", 0.75),
            ("alphaedit", 0.75),
            ("nse", 0.75),
            ("encore", 0.75),
            ("evoedit", 0.75),
            ("memit_seq+prune_rounds+compensated", 0.75),
        ):
            settings = {"clamp": clamp} | ({"alpha": 1.2} if "prune" in method else {})
            yield StudyRun(
                f"{method}-clamp-{clamp:g}",
                method,
                settings,
                n_edits=1000,
                batch_size=50,
                seed=seed,
                evaluate_every=4,
            )


def projection() -> Iterator[StudyRun]:
    """One line of projection on every base; and, for one solve, all of {projection, λC, L2, history} on and off."""
    target = {"lr": 1.0, "clamp": 1.0, "layers": [0, 1, 2]}
    prices = {
        "C": ("memit", {"lam": 100.0}),
        "L2": ("alphaedit", {"l2": 1.0}),
        "C+L2": ("betaedit", {"lam": 100.0, "l2": 1.0}),
    }
    for seed in SEEDS:
        for base in BASES:
            yield StudyRun(f"{base}", base, n_edits=200, seed=seed)
            yield StudyRun(f"{base}-projected", f"{base}+null_space", n_edits=200, seed=seed)
        for price, (method, settings) in prices.items():
            for projected in (False, True):
                for history in (False, True):
                    threshold = {
                        "threshold": 0.02 if projected else 1e9
                    }  # of which 1e9 removes nothing
                    name = (
                        method
                        + ("+null_space" if method == "memit" else "")
                        + (
                            "+with_history"
                            if history and method == "memit"
                            else "+without_history"
                            if not history and method != "memit"
                            else ""
                        )
                    )
                    yield StudyRun(
                        f"{price}{'-P' if projected else ''}{'-H' if history else ''}",
                        name,
                        target | settings | threshold,
                        n_edits=200,
                        seed=seed,
                    )


def prune() -> Iterator[StudyRun]:
    """PRUNE on five bases: without, bases of its logarithm, added twice; and per round, with compensation."""
    alphas = {
        "rome": (1.2, math.e),
        "r_rome": (1.2, math.e),
        "memit": (1.2, 2.0, math.e),
        "memit_seq": (1.2, 2.0, math.e),
        "mend": (1.2, math.e),
    }
    for seed in SEEDS:
        for base, values in alphas.items():
            yield StudyRun(base, base, n_edits=200, seed=seed)
            for alpha in values:
                yield StudyRun(
                    f"{base}-{alpha:.3g}", f"{base}+prune", {"alpha": alpha}, n_edits=200, seed=seed
                )
        for base in ("memit", "memit_seq"):
            yield StudyRun(
                f"{base}-twice",
                f"{base}+prune_added_twice",
                {"alpha": math.e},
                n_edits=200,
                seed=seed,
            )
        for after in ("prune_rounds", "prune_rounds+compensated"):
            yield StudyRun(
                f"memit_seq-{after}",
                f"memit_seq+{after}",
                {"alpha": math.e},
                n_edits=200,
                seed=seed,
            )


def nse() -> Iterator[StudyRun]:
    """NSE's parts one at a time, and the size of a round."""
    parts = {
        "memit_seq": ("memit_seq", {}),
        "rewinding": ("memit_seq+rewind", {}),
        "nse": ("nse_paper", {}),
        "no-space": ("nse_paper", {"separator": ""}),
        "released": ("nse", {"mass": 0.8}),
        "more-passes": ("nse_paper", {"done_below": 0.1}),
    }
    parts |= {f"mass-{mass:g}": ("nse_paper", {"mass": mass}) for mass in (0.8, 0.4)}
    for seed in SEEDS:
        for label, (method, settings) in parts.items():
            yield StudyRun(label, method, settings, n_edits=200, seed=seed)
        for size in (10, 25, 50, 200):
            for method in ("memit", "memit_seq", "alphaedit", "nse_paper"):
                yield StudyRun(
                    f"{method}-by-{size}", method, n_edits=200, batch_size=size, seed=seed
                )


def matters() -> Iterator[StudyRun]:
    """One setting at a time around the tuned ones of MEMIT-seq and AlphaEdit; the text behind C; bfloat16."""
    grids = {
        "memit_seq": {
            "lam": (1.0, 1e4),
            "clamp": (0.25, 0.5, 2.0),
            "lr": (0.25, 0.5),
            "layers": ([1], [2], [1, 2, 3], [0, 1, 2, 3]),
            "context_lengths": ([], [[10, 20]]),
        },
        "alphaedit": {"threshold": (0.002, 0.01, 0.02, 0.1, 0.5), "l2": (0.01, 0.1, 10.0)},
    }
    for seed in SEEDS:
        for method, grid in grids.items():
            yield StudyRun(method, method, seed=seed)
            for name, values in grid.items():
                for value in values:
                    yield StudyRun(
                        f"{method}-{name}-{_short(value)}", method, {name: value}, seed=seed
                    )
            for lines in (20, 200):
                yield StudyRun(f"{method}-text-{lines}", method, corpus_lines=lines, seed=seed)
            yield StudyRun(f"{method}-bf16", method, dtype="bfloat16", seed=seed)


def _short(value: Any) -> str:
    """A setting's value as part of a folder's name."""
    if isinstance(value, list):
        return "".join(_short(part) for part in value) or "none"
    return f"{value:g}"


STUDIES = {
    study.__name__: study
    for study in (methods, choices, growth, lifelong, projection, prune, nse, matters, horizon)
}
"""Studies by name."""
