"""Figures that a reader can change: traces and controls as data, which the page draws with Plotly.

Nothing is computed in the browser. A figure is a list of traces, and each says for which values of
the controls it is shown. Where no script runs (print, a notebook elsewhere) a picture and a table
stand in its place.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML

from . import compare, plots

Control = dict[str, Any]
Trace = dict[str, Any]
MEASURES = {
    "edits.efficacy_accuracy": "edits right, %",
    "edits.paraphrase_accuracy": "rephrased edits right, %",
    "unrelated_facts": "unrelated facts right, %",
    "tasks": "tasks right, %",
    "perplexity": "perplexity",
}
"""Column of `compare.evaluations` → its title in the explorer."""
SYMBOLS = dict(
    zip(
        plots.MARKERS,
        (
            "circle",
            "square",
            "triangle-up",
            "diamond",
            "triangle-down",
            "cross",
            "x",
            "triangle-left",
            "triangle-right",
            "pentagon",
            "star",
            "hexagon",
        ),
        strict=True,
    )
)
"""Marker of matplotlib → Plotly's name of it."""


def slider(name: str, values: Iterable[float], start: float) -> Control:
    """A slider over numbers."""
    return {
        "name": name,
        "kind": "slider",
        "values": [f"{value:g}" for value in values],
        "start": f"{start:g}",
    }


def choice(name: str, values: Sequence[str]) -> Control:
    """A list of which one is chosen, at first the first."""
    return {"name": name, "kind": "choice", "values": [*values], "start": values[0]}


def several(name: str, values: Sequence[str], start: Sequence[str]) -> Control:
    """Boxes of which any may be ticked."""
    return {"name": name, "kind": "several", "values": [*values], "start": [*start]}


def interactive(
    figure: str,
    traces: Sequence[Trace],
    controls: Sequence[Control],
    table: pd.DataFrame,
    *,
    label: str,
    layout: Mapping[str, Any] | None = None,
) -> HTML:
    """A figure with controls in the place of a picture.

    Args:
        figure: name of the picture's figure, which is shown where no script runs.
        traces: Plotly's, each with "when": name of a control → the value for which it is shown.
        controls: as `slider`, `choice` and `several` make them.
        table: the numbers, for readers who do not see the figure.
        label: what the figure shows, for screen readers.
        layout: Plotly's, added to the book's.
    """
    look = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "sans-serif", "size": 13, "color": "#262626"},
        "margin": {"l": 58, "r": 12, "t": 34, "b": 84},
        "dragmode": False,
        "hovermode": "closest",
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    }
    data = {
        "traces": traces,
        "controls": controls,
        "layout": look | dict(layout or {}),
        "label": label,
    }
    text = json.dumps(_short(data), ensure_ascii=False, separators=(",", ":"))
    numbers = table.to_html(index=False, border=0, classes="table", justify="left")
    text = text.replace("</", r"<\/")  # nothing in it may end the script
    return HTML(
        f'<div class="interactive" data-for="{html.escape(figure)}">'
        f'<script type="application/json">{text}</script>'
        f"<details><summary>The numbers as a table</summary>{numbers}</details></div>"
    )


def axis(title: str, **others: Any) -> dict[str, Any]:
    """An axis of the book's look."""
    return {
        "title": {"text": title},
        "gridcolor": "#d0d0d0",
        "zerolinecolor": "#b0b0b0",
        "fixedrange": True,
    } | others


def explore(figure: str, studies: Mapping[str, str], start: Sequence[str]) -> HTML:
    """The evaluations of studies: one curve per run label over the edits written, with intervals
    over seeds.

    Args:
        figure: as for `interactive`.
        studies: name → what it is called.
        start: methods that are shown at first.
    """
    traces: list[Trace] = []
    rows: list[dict[str, str]] = []
    names: dict[str, str] = {}
    for study, title in studies.items():
        frame = compare.evaluations(study)
        for label, own in frame.groupby("label", sort=False):
            method = own["method"].iloc[0]
            alone = frame.loc[frame["method"] == method, "label"].nunique() == 1
            names[name := plots.short_name(method) if alone else str(label)] = method
            for column, measure in MEASURES.items():
                if column not in own or own[column].isna().all():
                    continue
                points = own.astype({column: float}).groupby("edits")[column]
                ends = {int(str(edits)): compare.interval(values) for edits, values in points}
                texts = {f"{n} edits": compare.plus_minus(end) for n, end in ends.items()}
                rows.append({"study": title, "method": name, "measure": measure} | texts)
                when = {"study": title, "measure": measure, "methods": name}
                made_by = f"seqedit study {study}-{label}-s{own['seed'].iloc[0]}"
                traces.append(_curve(name, method, ends, made_by) | {"when": when})
    controls = [
        choice("study", [*studies.values()]),
        choice("measure", [*MEASURES.values()]),
        several("methods", [*names], [name for name in names if names[name] in start]),
    ]
    return interactive(
        figure,
        traces,
        controls,
        pd.DataFrame(rows).fillna(""),
        label="Curves of a measure over the number of edits, one per method",
        layout={
            "titles": "measure",
            "xaxis": axis("edits written"),
            "yaxis": axis("", rangemode="tozero"),
            "showlegend": True,
        },
    )


def _curve(name: str, method: str, ends: Mapping[int, tuple[float, float]], made_by: str) -> Trace:
    """A curve of means with their intervals, which says what made it."""
    return {
        "name": name,
        "x": [*ends],
        "y": [mean for mean, _ in ends.values()],
        "error_y": {
            "array": [0 if math.isnan(half) else half for _, half in ends.values()],
            "thickness": 1,
        },
        "line": {"color": plots.colours([method])[method], "width": 2},
        "marker": {"symbol": SYMBOLS[plots.markers([method])[method]], "size": 8},
        "hovertemplate": f"{name}: %{{y:.1f}} after %{{x}} edits<br>{made_by}<extra></extra>",
    }


def _short(value: Any) -> Any:
    """Numbers with four digits: more would only make the page heavier."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_short(inner) for inner in value]
    return value
