"""Figures of the book; each function takes tidy rows and returns what it drew on."""

from collections.abc import Mapping

import pandas as pd
import seaborn as sns

from ..methods import METHODS


def curves(frame: pd.DataFrame, panels: Mapping[str, str], *, x: str = "edits", hue: str = "method",
           xlabel: str = "edits written", columns: int = 3, height: float = 2.7) -> sns.FacetGrid:
    """Small multiples: one panel per measured column, one line per method.

    Args:
        frame: one row per method and evaluation.
        panels: column of `frame` → title of its panel.
    """
    long = frame.melt([x, hue], list(panels), var_name="panel", value_name="value")
    long["panel"] = long["panel"].map(panels)
    order = sorted(long[hue].unique(), key=[*METHODS].index)                  # a method has one colour in all figures
    long["value"] = long["value"].astype(float)
    grid = sns.relplot(long, x=x, y="value", hue=hue, style=hue, hue_order=order, style_order=order,
                       col="panel", col_wrap=min(columns, len(panels)), kind="line", markers=True, dashes=False,
                       height=height, aspect=1.15, facet_kws={"sharey": False})
    grid.set_titles("{col_name}").set_axis_labels(xlabel, "")
    sns.move_legend(grid, "upper center", bbox_to_anchor=(0.45, 1.08), ncol=long[hue].nunique(), title=None)
    return grid
