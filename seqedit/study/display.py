"""How a figure enters a notebook: as SVG where that stays small, else as PNG.

A wide figure of several panels cannot be read on a phone. The places of its panels and legends are
therefore written into the picture, from which the book shows them one below the other there
(`tools/panels.py`).
"""

from base64 import b64encode
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.transforms import Bbox

LARGEST_SVG = 250_000
"""Characters; a figure of thousands of points becomes a PNG."""
PNG_DPI = 200
WIDE = 6.5
"""Inches; a narrower figure is read on a phone as it is."""
SHORT = 5
"""Letters of a tick's label that may be repeated at every panel."""
PHONE = 3.5
"""Inches; a wider legend is read on a phone in parts."""
_PAD = 0.08  # inches


def show_figures_as_svg(shell: InteractiveShell) -> None:
    """Let the figures of a notebook be shown by `picture`, instead of IPython's own way."""
    shell.run_line_magic("matplotlib", "inline")  # its formatters, which then give way to these
    assert shell.display_formatter is not None  # a notebook has one
    formatters = shell.display_formatter.formatters
    made: dict[Figure, tuple[str | None, str | None]] = {}  # both ask, SVG first

    def svg(figure: Figure) -> str | None:
        made[figure] = picture(figure)
        return made[figure][0]

    def png(figure: Figure) -> str | None:
        return (made.pop(figure, None) or picture(figure))[1]

    formatters["image/svg+xml"].for_type(Figure, svg)
    formatters["image/png"].for_type(Figure, png)


def picture(figure: Figure) -> tuple[str | None, str | None]:
    """A figure as SVG and as PNG in base64, one of them None.

    Both are transparent and say in their metadata where the panels are: "panels: x y w h; ..." in
    parts of the picture, from its upper left corner.
    """
    _name_scales(figure)
    figure.canvas.draw()
    whole = figure.get_tightbbox().padded(_PAD)
    panels = "panels: " + "; ".join(
        " ".join(f"{part:.4f}" for part in _part(box, whole)) for box in panel_boxes(figure)
    )
    how: dict[str, Any] = {"bbox_inches": whole, "transparent": True}
    found = BytesIO()
    figure.savefig(found, format="svg", metadata={"Date": None, "Description": panels}, **how)
    if found.tell() <= LARGEST_SVG:
        return found.getvalue().decode(), None
    found = BytesIO()
    figure.savefig(
        found, format="png", dpi=PNG_DPI, metadata={"Description": panels, "Software": None}, **how
    )
    return None, b64encode(found.getvalue()).decode()


def panel_boxes(figure: Figure) -> list[Bbox]:
    """Where a figure's panels are, in inches, in their own order; none if it is narrow, is a single
    panel with its legend inside, or has a panel whose scale is written beside another one.

    A colour bar belongs to the panel on its left, a second axis to the first of its place. Legends
    outside their panel come first, wide ones in parts.
    """
    axes = [ax for ax in figure.axes if ax.get_visible() and ax.axison]
    outside = [*figure.legends, *filter(None, map(_outside_legend, axes))]
    if figure.get_figwidth() < WIDE or (_columns(figure) < 2 and not outside):
        return []
    if not all(map(_names_its_scale, axes)):
        return []
    dpi = figure.dpi
    found: list[Bbox] = []
    for ax in axes:
        box = _box(ax)
        bar = ax.get_label() == "<colorbar>"
        twin = any(ax.bbox.bounds == other.bbox.bounds for other in axes[: axes.index(ax)])
        if box is None:
            continue
        if found and (bar or twin):
            found[-1] = Bbox.union([found[-1], box])
        else:
            found.append(box)
    parts = [part for legend in outside for part in _legend_parts(legend, PHONE * dpi, dpi)]
    if len(found) + len(parts) < 2:
        return []
    return [Bbox(box.get_points() / dpi).padded(_PAD / 2) for box in [*parts, *found]]


def _outside_legend(ax: Axes) -> Legend | None:
    """The legend of a panel, if it stands beside it."""
    legend = ax.get_legend()
    if legend is None:
        return None
    box = legend.get_window_extent()
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return None if ax.bbox.contains(x, y) else legend


def _box(ax: Axes) -> Bbox | None:
    """What a panel covers, in pixels, but for a legend that stands beside it."""
    legend = _outside_legend(ax)
    if legend is None:
        return ax.get_tightbbox()
    legend.set_in_layout(False)
    box = ax.get_tightbbox()
    legend.set_in_layout(True)
    return box


def _legend_parts(legend: Legend, width: float, dpi: float) -> list[Bbox]:
    """Where a legend is, in pixels: its columns, as many together as are not wider than `width`."""
    whole = legend.get_window_extent()
    if whole.width <= width:
        return [whole]
    columns: dict[int, list[Bbox]] = {}
    for text in legend.get_texts():  # what not every kind of handle says is where it stands
        box, size = text.get_window_extent(), float(text.get_fontsize()) * dpi / 72
        left = box.x0 - (legend.handlelength + legend.handletextpad) * size
        entry = Bbox.from_extents(left, box.y0 - size / 4, box.x1, box.y1 + size / 4)
        columns.setdefault(round(box.x0), []).append(entry)
    parts: list[Bbox] = []
    for _, boxes in sorted(columns.items()):
        column = Bbox.union(boxes)
        joined = Bbox.union([parts[-1], column]) if parts else column
        if parts and joined.width <= width:
            parts[-1] = joined
        else:
            parts.append(column)
    if legend.get_title().get_text():
        parts.insert(0, legend.get_title().get_window_extent())
    return parts


def _name_scales(figure: Figure) -> None:
    """Label the ticks of inner panels, which sharing an axis hides, where the labels are short."""
    if not isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        return
    if figure.get_figwidth() < WIDE or _columns(figure) < 2:
        return
    figure.canvas.draw()
    for ax in figure.axes:
        if ax.get_subplotspec() is None:
            continue
        shares_x = ax.get_shared_x_axes().get_siblings(ax)
        shares_y = ax.get_shared_y_axes().get_siblings(ax)
        x_labels = [text.get_text() for one in shares_x for text in one.get_xticklabels()]
        y_labels = [text.get_text() for one in shares_y for text in one.get_yticklabels()]
        if len(shares_x) > 1 and max(map(len, x_labels), default=0) <= SHORT:
            ax.tick_params(axis="x", labelbottom=True)
        if len(shares_y) > 1 and max(map(len, y_labels), default=0) <= SHORT:
            ax.tick_params(axis="y", labelleft=True)


def _columns(figure: Figure) -> int:
    """How many panels stand side by side, colour bars apart."""
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    places = [spec for ax in panels if (spec := ax.get_subplotspec()) is not None]
    return len({place.colspan.start for place in places})


def _names_its_scale(ax: Axes) -> bool:
    """Whether the ticks of both axes are labelled at this panel, or it has none."""
    return all(
        not len(axis.get_majorticklocs())
        or any(text.get_text() and text.get_visible() for text in axis.get_ticklabels())
        for axis in (ax.xaxis, ax.yaxis)
        if axis.get_visible()
    )


def _part(box: Bbox, whole: Bbox) -> tuple[float, float, float, float]:
    x, y = (box.x0 - whole.x0) / whole.width, (whole.y1 - box.y1) / whole.height
    x, y = max(x, 0.0), max(y, 0.0)
    return x, y, min(box.width / whole.width, 1 - x), min(box.height / whole.height, 1 - y)


def set_style() -> None:
    """The look of the book's figures: transparent, without a frame."""
    sns.set_theme(
        style="whitegrid",
        palette="colorblind",
        context="notebook",
        rc={
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "figure.figsize": (6.4, 3.6),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "svg.hashsalt": "seqedit",
        },
    )
    plt.rcParams["figure.dpi"] = 110
