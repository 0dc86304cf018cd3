"""Figures of the book; each function takes tidy rows and returns what it drew on."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns


def curves(frame: pd.DataFrame, panels: Mapping[str, str], *, x: str = "edits", hue: str = "method",
           xlabel: str = "edits written", columns: int = 3, height: float = 2.7) -> sns.FacetGrid:
    """Small multiples: one panel per measured column, one line per method.

    Args:
        frame: one row per method and evaluation.
        panels: column of `frame` → title of its panel.
    """
    long = frame.melt([x, hue], list(panels), var_name="panel", value_name="value")
    long["panel"] = long["panel"].map(panels)
    long["value"] = long["value"].astype(float)
    grid = sns.relplot(long, x=x, y="value", hue=hue, style=hue, col="panel", col_wrap=min(columns, len(panels)),
                       kind="line", markers=True, dashes=False, height=height, aspect=1.15,
                       facet_kws={"sharey": False})
    grid.set_titles("{col_name}").set_axis_labels(xlabel, "")
    sns.move_legend(grid, "upper center", bbox_to_anchor=(0.45, 1.08), ncol=long[hue].nunique(), title=None)
    return grid


def before_after(frame: pd.DataFrame, *, x: str, y: str, hue: str, xlabel: str, ylabel: str) -> plt.Axes:
    """Bars side by side, one group per value of `x`."""
    _, ax = plt.subplots(figsize=(7, 3.4))
    sns.barplot(frame, x=x, y=y, hue=hue, ax=ax, errorbar=None)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(title=None, frameon=False, loc="upper right")
    plt.tight_layout()
    return ax


def heat(frame: pd.DataFrame, *, xlabel: str, ylabel: str, label: str) -> plt.Axes:
    """A matrix of shares in [0, 1]: rows and columns as in `frame`."""
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    sns.heatmap(frame, vmin=0, vmax=1, cmap="viridis", ax=ax, cbar_kws={"label": label})
    ax.set(xlabel=xlabel, ylabel=ylabel)
    plt.tight_layout()
    return ax
