"""How well quantities read off the weights go with damage, pooled and within groups of editors."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from ..methods.catalogue import make_method
from ..methods.kinds.locate_then_edit import LocateThenEdit

QUANTITIES = {
    "sigma": "σ₁",
    "kappa": "κ",
    "kappa_read": "κ as read",
    "norm": "‖Δ‖",
    "disturbance": "relative drift",
    "hidden_shift": "hidden shift",
}
"""Columns of `damage_points` → titles."""

DAMAGE = ("unrelated facts lost", "skills lost")
"""Kinds of damage, columns of `damage_points` in points of percent."""

_OF_WEIGHTS = [name for name in QUANTITIES if name != "hidden_shift"]


def damage_points(evaluations: pd.DataFrame, rounds: pd.DataFrame) -> pd.DataFrame:
    """One row per evaluation of every run whose matrices are recorded: quantities beside damage.

    Layers are combined by their maximum. Methods that change no matrix are left out, and those that
    restrain the total (PRUNE), whose recorded matrices are those before the restraint.

    Args:
        evaluations: as `seqedit.study.compare.evaluations` returns it.
        rounds: of the same study, as `seqedit.study.compare.rounds` returns it.

    Returns:
        The rows of `evaluations` with the columns of `QUANTITIES` and `DAMAGE`, and `editors`, the
        group of comparable editors: kind and edited layers.
    """
    keys = ["label", "seed", "edits"]
    worst = rounds.groupby(keys)[_OF_WEIGHTS].max().reset_index()
    points = evaluations.merge(worst, on=keys)
    restrained = [name for name in points["method"].unique() if _restrains_total(name)]
    points = points[(points["norm"] > 0) & ~points["method"].isin(restrained)]
    lost = {
        title: 100 - points[column]
        for title, column in zip(DAMAGE, ("unrelated_facts", "skills"), strict=True)
    }
    groups = comparable_editors(rounds)
    return points.astype({"hidden_shift": float}).assign(
        **lost, editors=points["label"].map(groups)
    )


def comparable_editors(rounds: pd.DataFrame) -> dict[str, str]:
    """label → its group: how its updates come about, and the layers that it writes to.

    σ₁ and κ of one edited matrix say nothing about another number of matrices, nor a step along a
    gradient about a solution of least squares: only within a group do the quantities of weights
    measure the same thing.

    Args:
        rounds: as `seqedit.study.compare.rounds` returns it.
    """
    layers = rounds.groupby("label")["layer"].unique().map(sorted)
    methods = rounds.groupby("label")["method"].first()
    return {
        str(label): f"{_kind(method)}, layers {', '.join(str(int(i)) for i in own)}"
        for (label, own), method in zip(layers.items(), methods, strict=True)
    }


def _kind(method: str) -> str:
    """Whether a method solves for targets; other kinds are named as they are."""
    made = make_method(method)
    return "solvers" if isinstance(made, LocateThenEdit) else type(made).__name__


def _restrains_total(method: str) -> bool:
    return getattr(make_method(method), "restrain_total", None) is not None


def spearman(points: pd.DataFrame, quantity: str, damage: str) -> float:
    """Rank correlation of a quantity with a kind of damage."""
    return float(points[quantity].corr(points[damage], method="spearman"))


def spearman_interval(
    points: pd.DataFrame, quantity: str, damage: str, draws: int = 300
) -> tuple[float, float]:
    """95 % interval of the rank correlation from resampling editors, which are what a reader would
    like to exchange.
    """
    rng = np.random.default_rng(0)
    groups = [own for _, own in points.groupby("label")]
    found = [
        spearman(
            pd.concat([groups[i] for i in rng.integers(len(groups), size=len(groups))]),
            quantity,
            damage,
        )
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


def left_out_errors(
    points: pd.DataFrame, quantity: str | None, damage: str, relatives: Mapping[str, str]
) -> pd.Series:
    """Mean absolute error for each editor from a rising curve through the editors that are no
    relatives of it (isotonic regression).

    Args:
        points: as `damage_points` returns it, of all editors or of one group.
        quantity: what the curve rises with; None predicts the others' mean.
        damage: one of `DAMAGE`.
        relatives: label → family; members of one family never predict each other.

    Raises:
        ValueError: an editor is of no family, or all are of one, so that nobody is left to predict
            from.
    """
    if strange := sorted({*points["label"]} - {*relatives}):
        raise ValueError(f"relatives: {', '.join(map(repr, strange))} have no family; name theirs")
    families = points["label"].map(relatives)
    if families.nunique() < 2:
        raise ValueError(
            f"relatives: all editors are {', '.join(map(str, families.unique())) or 'missing'}; "
            "predictions need two families"
        )
    errors = {}
    for label, own in points.groupby("label"):
        others = points[families != relatives[str(label)]]
        if quantity is None:
            guessed = np.full(len(own), others[damage].mean())
        else:
            curve = IsotonicRegression(out_of_bounds="clip").fit(others[quantity], others[damage])
            guessed = curve.predict(own[quantity])
        errors[label] = float(np.abs(own[damage] - guessed).mean())
    return pd.Series(errors)


def end_means(points: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the last evaluations, one row per label."""
    last = points[points["edits"] == points["edits"].max()]
    return last.groupby("label")[[*QUANTITIES, *DAMAGE]].mean()


def compare_predictors(
    points: pd.DataFrame, groups: Mapping[str, Iterable[str]], relatives: Mapping[str, str]
) -> pd.DataFrame:
    """All quantities and kinds of damage, within each group of editors.

    Args:
        points: as `damage_points` returns it.
        groups: title → labels. A group of all labels is the pooled comparison.
        relatives: label → family, as in `left_out_errors`.

    Returns:
        One row per group, damage and quantity: `editors`, how many; Spearman over all points
        (`all_points`) and between means at the end (`end_means`); `error`, mean over editors of the
        left-out error; `change`, of that against `baseline`, the others' mean, for each editor a
        value in `changes`.
    """
    rows = []
    for title, labels in groups.items():
        own = points[points["label"].isin([*labels])]
        means = end_means(own)
        for damage in DAMAGE:
            baseline = left_out_errors(own, None, damage, relatives)
            for quantity in QUANTITIES:
                errors = left_out_errors(own, quantity, damage, relatives)
                rows.append(
                    {
                        "group": title,
                        "damage": damage,
                        "quantity": quantity,
                        "editors": len(means),
                        "all_points": spearman(own, quantity, damage),
                        "end_means": spearman(means, quantity, damage),
                        "error": errors.mean(),
                        "baseline": baseline.mean(),
                        "change": (errors - baseline).mean(),
                        "changes": (errors - baseline).to_dict(),
                    }
                )
    return pd.DataFrame(rows)
