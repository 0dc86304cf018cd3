"""Figures of the book: each function takes tidy rows and returns the figure that it drew."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.pyplot import subplots
from matplotlib.ticker import LogLocator, NullFormatter

from ..methods.catalogue import CATALOGUE, base_entry, make_method
from .compare import interval_ends
from .labels import free_places, path_points

FAMILIES = {
    "least squares": ("memit", "memit_seq", "encore", "nse", "rome"),
    "null space": ("alphaedit", "evoedit"),
    "restrained": (
        "memit_rect",
        "memit_prune",
        "memit_rect+with_history+compensated",
        "memit_seq+prune_rounds+compensated",
    ),
    "learned, tuned, stored": ("ultraedit", "rledit", "mend", "ft_m", "grace"),
}
"""Title of a panel → the methods of the lifelong study that it shows."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h")
"""Methods that follow each other in the catalogue are akin and have similar colours, so their
markers differ."""


def markers(names: Iterable[str]) -> dict[str, str]:
    """method → its marker, the same in all figures; a composed name takes that of its base."""
    order = [*CATALOGUE]
    return {
        name: MARKERS[order.index(name if name in order else base_entry(name).name) % len(MARKERS)]
        for name in names
    }


def limit_percent(ax: Axes) -> None:
    """Keep a vertical axis in percent within 0 to 100: intervals of Student's t reach beyond."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -3), min(high, 103))


def colours(names: Iterable[str]) -> dict[str, str]:
    """method → its colour in the catalogue, the same in all figures.

    A name that the catalogue does not have takes the colour of the method before its first "+".
    """
    return {name: (CATALOGUE.get(name) or base_entry(name)).colour for name in names}


def short_name(method: str) -> str:
    """The name of a method in figures and tables."""
    entry = CATALOGUE.get(method)
    return (entry.label if entry else None) or make_method(method).name


def curves(
    frame: pd.DataFrame,
    panels: Mapping[str, str],
    *,
    x: str = "edits",
    hue: str = "method",
    xlabel: str = "edits written",
    columns: int = 3,
    height: float = 2.7,
) -> sns.FacetGrid:
    """Draw one panel per measured column, with one line per method.

    Args:
        frame: one row per method and evaluation.
        panels: column of `frame` → title of its panel.
        x: column of the horizontal axis.
        hue: column that tells the methods apart.
        xlabel: title of the horizontal axis.
        columns: panels in a row.
        height: of a panel, in inches.
    """
    long = frame.melt([x, hue], list(panels), var_name="panel", value_name="value")
    long["panel"] = long["panel"].map(panels)
    order = sorted(long[hue].unique(), key=[*CATALOGUE].index)
    long["value"] = long["value"].astype(float)
    grid = sns.relplot(
        long,
        x=x,
        y="value",
        hue=hue,
        style=hue,
        hue_order=order,
        style_order=order,
        palette=colours(order),
        markers=markers(order),
        col="panel",
        col_wrap=min(columns, len(panels)),
        kind="line",
        dashes=False,
        height=height,
        aspect=1.15,
        facet_kws={"sharey": False, "sharex": False},
    )
    grid.set_titles("{col_name}").set_axis_labels(xlabel, "")
    sns.move_legend(
        grid, "upper center", bbox_to_anchor=(0.45, 1.08), ncol=long[hue].nunique(), title=None
    )
    for text in grid.legend.get_texts():
        text.set_text(short_name(text.get_text()))
    return grid


def families(
    frame: pd.DataFrame,
    column: str,
    ylabel: str,
    *,
    x: str = "edits",
    xlabel: str = "edits written",
    log: bool = False,
    ylim: tuple[float | None, float | None] | None = None,
) -> Figure:
    """Draw one panel per family of methods: its lines in colour, named at their ends, all others in
    grey.

    Lines are means over seeds, bands their 95 % intervals.

    Args:
        frame: rows with `x`, `column`, "method" and "seed", as `seqedit.study.compare.evaluations`
            returns them.
        column: what is drawn.
        ylabel: its title.
        x: column of the horizontal axis.
        xlabel: its title.
        log: whether the vertical axis is logarithmic.
        ylim: its ends; None leaves one to the data.
    """
    every = [name for names in FAMILIES.values() for name in names]
    shown = frame[frame["method"].isin(every)]
    shown = shown.assign(**{column: shown[column].astype(float)})
    figure, axes = subplots(2, 2, figsize=(9, 6.6), sharex=True, sharey=True, layout="constrained")
    for ax, (title, names) in zip(axes.flat, FAMILIES.items(), strict=True):
        for _, other in shown[~shown["method"].isin(names)].groupby("method"):
            mean = other.groupby(x)[column].mean()
            ax.plot(mean.index, mean, color="0.86", lw=1, zorder=1)
        own = shown[shown["method"].isin(names)]
        sns.lineplot(
            own,
            x=x,
            y=column,
            hue="method",
            style="method",
            hue_order=names,
            style_order=names,
            palette=colours(names),
            markers=markers(names),
            dashes=False,
            markersize=5,
            errorbar=interval_ends,
            err_kws={"alpha": 0.18, "lw": 0},
            ax=ax,
            legend=False,
            lw=2,
            zorder=3,
        )
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if log:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
        if ylim:
            ax.set_ylim(*ylim)
        elif ylabel.endswith("%"):
            limit_percent(ax)
    # only now do all panels know their limits
    for ax, names in zip(axes.flat, FAMILIES.values(), strict=True):
        _name_lines(ax, shown[shown["method"].isin(names)], x, column)
    return figure


def _name_lines(ax: Axes, frame: pd.DataFrame, x: str, column: str) -> None:
    """Write the name of each line to the right of its end, pushed apart where two would overlap."""
    ends = frame[frame[x] == frame[x].max()].groupby("method")[column].mean().sort_values()
    to_axes = (ax.transScale + ax.transLimits).transform
    gap = 0.085  # between two names, as a part of the panel's height
    height = [min(max(to_axes((0, value))[1], 0), 1) for value in ends]
    for i in range(1, len(height)):
        height[i] = max(height[i], height[i - 1] + gap)
    top = 1 + gap
    for i in reversed(range(len(height))):
        top = height[i] = min(height[i], top - gap)
    palette = colours(ends.index)
    for y, method in zip(height, ends.index, strict=True):
        ax.text(
            1.02,
            y,
            short_name(method),
            transform=ax.transAxes,
            color=palette[method],
            va="center",
            fontsize=10,
        )


def paths(
    frame: pd.DataFrame,
    x: str,
    y: str,
    xlabel: str,
    ylabel: str,
    *,
    dashed: pd.DataFrame | None = None,
    dashed_as: str = "",
) -> Figure:
    """Draw what is kept of two things while edits are added: one path per method from its first
    evaluation to its last, which is named.

    Args:
        frame: rows with "method", "edits", `x` and `y`, as `seqedit.study.compare.evaluations`
            returns them, of one seed.
        x, y: columns in percent.
        xlabel, ylabel: their titles.
        dashed: rows of other runs of the same methods, drawn with dashed lines and hollow marks.
        dashed_as: what follows the names of these.
    """
    figure, ax = subplots(figsize=(5.4, 4.2), layout="constrained")
    order = sorted(frame["method"].unique(), key=[*CATALOGUE].index)
    palette, signs = colours(order), markers(order)
    names: list[tuple[float, float, str, str]] = []  # of the ends: x, y, text, colour
    for rows, after in ((frame, ""), (dashed, dashed_as)):
        if rows is None:
            continue
        hollow = rows is dashed
        for method in order:
            own, colour = rows[rows["method"] == method].sort_values("edits"), palette[method]
            ax.plot(own[x], own[y], color=colour, lw=1.6, ls="--" if hollow else "-", zorder=2)
            ax.scatter(
                own[x],
                own[y],
                s=20 + 70 * own["edits"] / own["edits"].max(),
                color="white" if hollow else colour,
                marker=signs[method],
                edgecolor=colour if hollow else "white",
                lw=1.2 if hollow else 0.6,
                zorder=3,
            )
            names.append((*own.iloc[-1][[x, y]], short_name(method) + after, colour))
    names.sort()
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 103), ylim=(0, 103))
    figure.draw_without_rendering()  # only now are sizes of texts known
    drawn = np.concatenate([path_points(np.asarray(line.get_xydata())) for line in ax.lines])
    texts = [
        ax.text(left, top, name, va="center", color=colour, fontweight="bold")
        for left, top, name, colour in names
    ]
    boxes = [text.get_window_extent().transformed(ax.transData.inverted()) for text in texts]
    line = max(box.height for box in boxes)
    ends = [(left, top, box.width) for (left, top, *_), box in zip(names, boxes, strict=True)]
    for text, place in zip(texts, free_places(ends, line, drawn), strict=True):
        text.set_position(place)
    return figure
