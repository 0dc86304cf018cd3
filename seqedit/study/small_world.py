"""The studies on the fictional world and the embedded model, as lists of runs."""

import math
from collections.abc import Iterator
from typing import Any

from ..methods.catalogue import CATALOGUE
from ..runs.resolve import HYPER
from .study_run import StudyRun

Switch = tuple[str, str, dict[str, Any]]
"""Label, method and settings of a run."""

SEEDS = (1, 2, 3)


NOT_RUN = {
    *("memit_merge", "nas_pilot", "stableedit", "locft_bf", "crispedit", "crispedit_seq"),
    *("in_context", "in_context_oracle", "memit_seq+curvature"),
}
"""Methods whose settings were searched after the records of `methods` were made."""


def methods() -> Iterator[StudyRun]:
    """Every method whose settings were searched, once, on the same hundred facts; but for those in
    `NOT_RUN`.

    The compensated PRUNE is left out; it is compared with its base in `prune`.
    """
    for name in CATALOGUE:
        searched = (HYPER / "shared" / f"{name}.search.json").exists()
        if searched and name not in {"memit_seq+prune_rounds+compensated"} | NOT_RUN:
            yield StudyRun(name, name)


def choices() -> Iterator[StudyRun]:
    """One choice switched at a time: what papers and released code leave open or do differently."""
    switches: list[Switch] = [
        ("base", "memit", {}),
        ("prune", "memit+prune", {"alpha": math.e}),
        ("prune-twice", "memit+prune_added_twice", {"alpha": math.e}),
        ("prune-history", "memit+with_history+prune", {"alpha": math.e}),
        ("history", "memit+with_history", {}),
        ("rect", "memit_rect", {"share": 0.4}),
        ("rect-history", "memit_rect+with_history", {"share": 0.4}),
        ("rect-compensated", "memit_rect+with_history+compensated", {"share": 0.4}),
        ("nse", "nse_paper", {"mass": 1.0}),
        ("nse-no-space", "nse_paper", {"mass": 1.0, "target_separator": ""}),
        ("nse-most-neurons", "nse_paper", {"mass": 0.8}),
        ("nse-one-fewer", "nse", {"mass": 0.8}),
        ("memit-no-space", "memit+with_history", {"target_separator": ""}),
        ("mixed-key", "rome", {}),
        ("average-key", "r_rome", {}),
        ("tau-1", "alphaedit", {"threshold": 0.01, "l2": 1.0}),
        ("tau-2", "alphaedit", {"threshold": 0.02, "l2": 1.0}),
        ("l2-10", "alphaedit", {"threshold": 0.02, "l2": 10.0}),
        ("no-history", "memit+null_space", {"threshold": 0.02}),
    ]
    for seed in SEEDS:
        for label, method, settings in switches:
            yield StudyRun(label, method, settings, seed=seed)
        # these requests have targets of several tokens
        for label, method in (("one-position", "ft"), ("every-token", "ft_m")):
            yield StudyRun(
                label, method, seed=seed, n_edits=25, batch_size=5, requests="reversal.json"
            )


def growth() -> Iterator[StudyRun]:
    """Four hundred edits by methods of every kind, evaluated along the way: what grows and what
    breaks.
    """
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
    """A thousand of the 1,124 edits in three orders: forgetting and failure of methods of every
    kind.
    """
    for seed in SEEDS:
        for name in LIFELONG:
            yield StudyRun(name, name, n_edits=1000, batch_size=50, seed=seed, evaluate_every=4)
        name = "memit_seq+prune_rounds+compensated"
        yield StudyRun(
            name, name, {"alpha": 1.2}, n_edits=1000, batch_size=50, seed=seed, evaluate_every=4
        )


def horizon() -> Iterator[StudyRun]:
    """The other clamp at a thousand edits, which tuning on 160 facts could not judge.

    Methods tuned to a clamp of 1 get 0.75; MEMIT, tuned to 0.75, gets 1.
    """
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
    """Projection on every base; and for one solve projection, λC, L2 and history, each on and
    off.
    """
    target = {"lr": 1.0, "clamp": 1.0, "layers": [0, 1, 2]}
    prices: dict[str, tuple[str, dict[str, Any]]] = {
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
                    threshold = 0.02 if projected else 1e9  # the latter removes nothing
                    yield StudyRun(
                        f"{price}{'-P' if projected else ''}{'-H' if history else ''}",
                        _factorial_method(method, history),
                        target | settings | {"threshold": threshold},
                        n_edits=200,
                        seed=seed,
                    )


def _factorial_method(base: str, history: bool) -> str:
    """A base with a null space, with or without a history, whichever of these it has by itself."""
    if base == "memit":
        return "memit+null_space" + ("+with_history" if history else "")
    return base + ("" if history else "+without_history")


def prune() -> Iterator[StudyRun]:
    """PRUNE on five bases: without it, by the base of its logarithm, added twice, and in every
    round.
    """
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
    """The parts of NSE one at a time, and the size of a round."""
    parts: dict[str, tuple[str, dict[str, Any]]] = {
        "memit_seq": ("memit_seq", {}),
        "rewinding": ("memit_seq+rewind", {}),
        "nse": ("nse_paper", {}),
        "no-space": ("nse_paper", {"target_separator": ""}),
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
    """One setting of MEMIT-seq and AlphaEdit changed at a time; the text behind C; bfloat16."""
    grids: dict[str, dict[str, tuple[Any, ...]]] = {
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
    """The value of a setting as part of a label."""
    if isinstance(value, list):
        return "".join(_short(part) for part in value) or "none"
    return f"{value:g}"


def instrument() -> Iterator[StudyRun]:
    """A thousand edits by four methods, with everything measured that can be: what the instrument
    shows.
    """
    for name in ("memit", "memit_seq", "alphaedit", "grace"):
        yield StudyRun(
            name,
            name,
            n_edits=1000,
            batch_size=50,
            evaluate_every=4,
            measures=("attribute", "negated", "neighborhood_plus"),
            wild=True,
        )


TEN = (
    *("memit", "memit_seq", "alphaedit", "rome"),
    *("mend", "rledit", "rledit_released"),
    *("ft_m", "grace", "in_context"),
)
"""Methods that have to write ten facts at once."""


def pilot() -> Iterator[StudyRun]:
    """Short runs before long ones: do methods edit ten facts at once, and how much do two of them
    differ between orders and requests?
    """
    for seed in SEEDS:
        for name in TEN:
            yield StudyRun(f"{name}-ten", name, n_edits=10, batch_size=10, seed=seed)
        for name in ("memit_seq", "alphaedit"):
            yield StudyRun(name, name, n_edits=200, batch_size=50, seed=seed)
