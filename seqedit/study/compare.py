"""Compares records: means over seeds with their intervals, differences paired by seed, published
numbers.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from ..algebra.diagnostics import condition_number, drift, spectrum
from ..base.paths import DATA, MODEL, RESULTS, WORLD
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.weights import read_weight
from ..moments.cache import cached_moments
from ..runs.records import Record
from .run_study import load_study

ACCURACY = {
    "edits.efficacy_accuracy": "edits",
    "edits.paraphrase_accuracy": "paraphrases",
    "edits.neighborhood_accuracy": "neighbourhood",
    "unrelated_facts": "unrelated facts",
    "tasks": "tasks",
}
"""Columns of evaluations → titles, for exact match and what else the model can do."""

SUCCESS = {
    "edits.score": "score",
    "edits.efficacy": "efficacy",
    "edits.paraphrase": "paraphrase",
    "edits.neighborhood": "neighbourhood",
}
"""Columns of evaluations → titles: exact match and what else the model can do; success as the
papers count it.
"""


def evaluations(study: str, results: Path = RESULTS) -> pd.DataFrame:
    """Every evaluation of every run of a study: the records' scores with label, method and seed.

    Shares are in percent. `tasks` is the mean of the six general tasks, `skills` the mean of those
    that ask for no fact, all but open questions; of a pretrained model both are NaN, since its
    records have no tasks. Columns that are no shares (perplexity, hidden_shift …) stay as they are.

    Raises:
        ValueError: a run of the study is missing.
    """
    frames = [
        record.scores.assign(label=label, method=record.run["method"], seed=record.run["seed"])
        for label, records in load_study(study, results).items()
        for record in records
    ]
    found = pd.concat(frames, ignore_index=True)
    names = [str(name) for name in found]
    abilities = [name for name in names if name.startswith("abilities.")]
    asked = [
        name
        for name in names
        if name.startswith(("edits.", "wild.")) and name not in ("edits.n", "wild.n")
    ]
    kept = [name for name in names if name in ("unrelated_facts", "kept_facts")]
    shares = [*abilities, *asked, *kept]
    found[shares] = 100 * found[shares].astype(float)
    skills = [name for name in abilities if name != "abilities.questions"]
    return found.assign(tasks=found[abilities].mean(axis=1), skills=found[skills].mean(axis=1))


def ends(study: str, results: Path = RESULTS) -> pd.DataFrame:
    """The last evaluation of every run of a study, with the columns of `evaluations`."""
    last = evaluations(study, results).groupby(["label", "seed"], sort=False).tail(1)
    return last.reset_index(drop=True)


def written_and_kept(frame: pd.DataFrame) -> pd.DataFrame:
    """What is still written and what is kept, at every evaluation of every run, in percent.

    * fresh: edits of the newest round that are right;
    * first: edits that the first evaluation saw, followed through the run, that are right.

    Args:
        frame: as `evaluations` returns it.

    Returns:
        One row per evaluation: label, method, seed, edits and the two.
    """
    first_edits = frame.groupby(["label", "seed"])["edits"].transform("min")
    found = []
    for early, (_, row) in zip(first_edits, frame.iterrows(), strict=True):
        ages = pd.DataFrame(row["retention"])
        rounds = ages["age"].max() + 1
        first = ages[ages["age"] >= rounds - round(rounds * early / row["edits"])]
        found.append(
            {name: row[name] for name in ("label", "method", "seed", "edits")}
            | {
                "fresh": 100 * ages.loc[ages["age"] == 0, "accuracy"].item(),
                "first": 100 * np.average(first["accuracy"], weights=first["n"]),
            }
        )
    return pd.DataFrame(found)


def rounds(study: str, results: Path = RESULTS) -> pd.DataFrame:
    """Every round and edited layer of every run of a study, relative to the unedited model.

    The rows are the records' rounds with label, method, seed, `edits` written and the columns
    below. They are about the weights that rounds write to; a restraint of the total (PRUNE) is not
    in them.

    * clamped: targets of the round that ended at their clamp, in percent;
    * disturbance: root of the drift, relative to that of the unedited layer's output, so that 1 is
      a change as large as the output;
    * norm: ‖W − W₀‖ / ‖W₀‖;
    * sigma: σ₁(W) / σ₁(W₀);
    * kappa, kappa_read: condition number over that of W₀, of the whole matrix and of what the next
      LayerNorm reads.

    Raises:
        ValueError: a run of the study is missing.
    """
    lm = load_model(MODEL, device="cpu")
    unedited: dict[int, dict[str, float]] = {}
    frames = []
    for label, records in load_study(study, results).items():
        for record in records:
            if record.rounds.empty:  # codebooks change no matrix
                continue
            for layer in set(record.rounds["layer"]) - unedited.keys():
                unedited[layer] = _measure_unedited(lm, int(layer))
            frames.append(_relative_rounds(label, record, unedited))
    return pd.concat(frames, ignore_index=True)


def _relative_rounds(
    label: str, record: Record, unedited: Mapping[int, dict[str, float]]
) -> pd.DataFrame:
    """The rounds of one record with the columns that `rounds` adds.

    Args:
        unedited: layer → `_measure_unedited`.
    """
    own = record.rounds
    start = pd.DataFrame([unedited[layer] for layer in own["layer"]], index=own.index)
    clamped = record.outcomes.groupby("round")["clamped"].mean()
    written = record.outcomes.groupby("round").size().cumsum()
    return own.assign(
        label=label,
        method=record.run["method"],
        seed=record.run["seed"],
        edits=own["round"].map(written),
        clamped=100 * own["round"].map(clamped),
        norm=own["total_norm"] / start["norm"],
        disturbance=(own["drift"] / start["drift"]) ** 0.5,
        sigma=own["sigma_max"] / start["sigma"],
        kappa=own["condition_number"] / start["kappa"],
        kappa_read=own["condition_number_read"] / start["kappa_read"],
    )


def _measure_unedited(lm: LanguageModel, layer: int) -> dict[str, float]:
    """What the columns of `rounds` are relative to, of one layer."""
    W = read_weight(lm, layer).double()
    return {
        "norm": W.norm().item(),
        "drift": drift(W, cached_moments(lm, WORLD / "corpus.txt", layer)),
        "sigma": spectrum(W)[0].item(),
        "kappa": condition_number(W),
        "kappa_read": condition_number(W, True),
    }


def interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of Student's confidence interval for it; NaN for the half-width of a
    single value.

    The values are of several seeds. With three of them the half-width is 2.5 standard deviations.
    """
    x = np.asarray([*values], dtype=float)
    if len(x) < 2:
        return float(x.mean()), float("nan")
    factor = student.ppf((1 + level) / 2, len(x) - 1)
    return float(x.mean()), float(factor * x.std(ddof=1) / len(x) ** 0.5)


def interval_ends(values: Iterable[float]) -> tuple[float, float]:
    """Lower and upper end of the interval, as seaborn's `errorbar` takes them."""
    mean, half = interval(values)
    return mean - half, mean + half


def values_by_seed(frame: pd.DataFrame, label: str, column: str) -> pd.Series:
    """A column of the rows with a label, indexed by seed.

    Raises:
        ValueError: there is no such label.
    """
    own = frame[frame["label"] == label]
    if own.empty:
        raise ValueError(f"label: {label!r}; there are {', '.join(frame['label'].unique())}")
    return own.set_index("seed")[column].astype(float)


def paired_change(frame: pd.DataFrame, label: str, base: str, column: str) -> tuple[float, float]:
    """Mean and half-width of the difference `label` − `base`, paired by seed.

    Runs of one seed share their facts, order and contexts.
    """
    difference = values_by_seed(frame, label, column) - values_by_seed(frame, base, column)
    return interval(difference.dropna())


def plus_minus(value: tuple[float, float], digits: int = 1, signed: bool = False) -> str:
    """Mean ± half-width as text that does not break; the mean alone without a half-width.

    Args:
        value: as `interval` returns it.
        signed: write a plus before a positive mean.
    """
    mean, half = value
    mean = round(mean, digits) or 0.0  # no −0.0
    text = f"{mean:{'+' if signed and mean else ''}.{digits}f}".replace("-", "−")
    return (
        text if np.isnan(half) else f"{text}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{half:.{digits}f}"
    )


def means_table(
    frame: pd.DataFrame,
    rows: Mapping[str, str],
    columns: Mapping[str, str] = ACCURACY,
    *,
    base: str | None = None,
    digits: int = 1,
) -> pd.DataFrame:
    """Means with intervals as text, one row per label.

    Args:
        frame: as `ends` returns it.
        rows: label → name shown.
        columns: column of `frame` → title.
        base: a label; all other rows then show their paired difference to it.
    """
    found = []
    for label, shown in rows.items():
        entry = {"": shown}
        for column, title in columns.items():
            if base is None or label == base:
                entry[title] = plus_minus(interval(values_by_seed(frame, label, column)), digits)
            else:
                change = paired_change(frame, label, base, column)
                entry[title] = plus_minus(change, digits, signed=True)
        found.append(entry)
    return pd.DataFrame(found)


def published_numbers(**wanted: str | int) -> pd.DataFrame:
    """Numbers of papers and replications from data/published.json, each with its source and status.

    Args:
        wanted: values that the rows must have, by column, such as model="Llama 3 8B".
    """
    frame = pd.DataFrame(json.loads((DATA / "published.json").read_text(encoding="utf-8")))
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame.reset_index(drop=True)


def restraint_record(model: str, method: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What restraints keep of a finished run, from `data/restraints`, as `seqedit restrain` writes
    it.

    Returns:
        The rows, indexed by restraint ("averaged", "prune") and setting, in rising order; and the
        whole record.
    """
    file = DATA / "restraints" / f"{model}-{method}.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    rows = pd.DataFrame(record["restraints"]).set_index(["restraint", "setting"]).sort_index()
    return rows, record
