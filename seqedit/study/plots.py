"""Figures of the book; each function takes tidy rows and returns what it drew on."""

from collections.abc import Iterable, Mapping

import pandas as pd
import seaborn as sns

from ..methods import METHODS

_HUES = {"memit": 0, "memit_rect": 1, "alphaedit": 2, "rome": 3, "nse": 4, "nse_paper": 4, "r_rome": 5, "encore": 6,
         "ft_m": 7, "ft": 7, "ft_l": 7, "ultraedit": 8, "memit_seq": 9}


def colours(names: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """method → its colour, the same in all figures; methods named by their key, composed ones by their base.

    Ten colours that colour-blind readers can tell apart go to the methods that are drawn most often; the others take
    what is left over in the figure at hand.
    """
    palette, names = sns.color_palette("colorblind", 10), list(names)
    fixed = {name: _HUES[name] for name in names if name in _HUES}
    free = [i for i in range(10) if i not in fixed.values()]
    others = [name for name in names if name not in fixed]
    return {name: palette[fixed[name] if name in fixed else free[others.index(name) % len(free)]] for name in names}


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
                       palette=colours(order), col="panel", col_wrap=min(columns, len(panels)), kind="line",
                       markers=True, dashes=False, height=height, aspect=1.15, facet_kws={"sharey": False})
    grid.set_titles("{col_name}").set_axis_labels(xlabel, "")
    sns.move_legend(grid, "upper center", bbox_to_anchor=(0.45, 1.08), ncol=long[hue].nunique(), title=None)
    return grid
