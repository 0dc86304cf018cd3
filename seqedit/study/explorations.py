"""Pictures of the theory that a reader can change: a projection in the plane, PRUNE's restraint."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML

from ..algebra.restrain import restrain_spectrum
from .interactive import Trace, axis, choice, interactive, slider

LENGTHS = (1.3, 0.12)
"""Standard deviations of the preserved keys along and across the line on which they almost lie."""
TILT = math.radians(20)
THRESHOLDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
DIRECTIONS = (0, 15, 30, 45, 60, 75, 90)
BASES = (1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 2.72, 5.0, 10.0)
BLUE, ORANGE = "#0173b2", "#c96f00"


def preserved_keys(n: int = 250) -> np.ndarray:
    """Points (2, n) on and beside a line through 0."""
    cos, sin = math.cos(TILT), math.sin(TILT)
    spread = np.diag(LENGTHS) @ np.random.default_rng(1).standard_normal((2, n))
    return np.array([[cos, -sin], [sin, cos]]) @ spread


class Projected(NamedTuple):
    """A row in the plane and its projection.

    Attributes:
        key: of the edit.
        row: answers the key by 1.
        kept: the row's projection.
        written: what `kept` says at the key.
        disturbed: root mean square of what it says at preserved keys.
        bound: √τ·‖kept‖, which that does not exceed.
    """

    key: np.ndarray
    row: np.ndarray
    kept: np.ndarray
    written: float
    disturbed: float
    bound: float


def projected_row(direction: float, threshold: float) -> Projected:
    """A row that answers a key by 1, projected onto the directions whose eigenvalue is below a
    threshold.

    Args:
        direction: of the key of length 1.2, in degrees from the line of the preserved keys.
        threshold: τ.
    """
    turn = TILT + math.radians(direction)
    key = 1.2 * np.array([math.cos(turn), math.sin(turn)])
    row = key / (key @ key)
    axes = np.array([[math.cos(TILT), math.sin(TILT)], [-math.sin(TILT), math.cos(TILT)]])
    kept, disturbed = np.zeros(2), 0.0
    for unit, length in zip(axes, LENGTHS, strict=True):
        if length**2 < threshold:
            kept = kept + (row @ unit) * unit
            disturbed += ((row @ unit) * length) ** 2
    bound = math.sqrt(threshold) * float(np.linalg.norm(kept))
    return Projected(key, row, kept, float(kept @ key), math.sqrt(disturbed), bound)


def explore_projection(figure: str) -> HTML:
    """Two sliders: where the key of the edit lies, and τ.

    Args:
        figure: as for `interactive`.
    """
    x, y = preserved_keys()
    traces: list[Trace] = [
        {
            "name": "preserved keys",
            "mode": "markers",
            "x": x.tolist(),
            "y": y.tolist(),
            "marker": {"size": 4, "color": "#8a8a8a"},
            "hoverinfo": "skip",
        }
    ]
    rows = []
    for direction in DIRECTIONS:
        for threshold in THRESHOLDS:
            found = projected_row(direction, threshold)
            when = {"key, degrees from the line": f"{direction:g}", "τ": f"{threshold:g}"}
            says = (
                f"writes {found.written:.2f} of 1 at the key<br>preserved keys: "
                f"{found.disturbed:.2f} (bound {found.bound:.2f})"
            )
            traces += [
                _arrow("row of Δ", found.row, ORANGE) | {"when": when},
                _arrow("row of ΔP", found.kept, BLUE) | {"when": when},
                _star(found.key) | {"when": when},
                {"mode": "text", "x": [-2.8], "y": [1.75], "text": [says], "when": when}
                | {"textposition": "bottom right", "showlegend": False, "hoverinfo": "skip"},
            ]
            numbers = {
                "written": round(found.written, 3),
                "disturbed": round(found.disturbed, 3),
                "bound": round(found.bound, 3),
            }
            rows.append(when | numbers)
    plain = {"showticklabels": False, "zeroline": False}
    return interactive(
        figure,
        traces,
        [
            slider("key, degrees from the line", DIRECTIONS, 45),
            slider("τ", THRESHOLDS, 0.1),
        ],
        pd.DataFrame(rows),
        label="A cloud of preserved keys, a row of an update and its projection",
        layout={
            "xaxis": axis("", range=[-2.9, 2.9], **plain),
            "yaxis": axis("", range=[-1.6, 1.8], scaleanchor="x", **plain),
        },
    )


def _arrow(name: str, tip: np.ndarray, colour: str) -> Trace:
    return {
        "name": name,
        "mode": "lines+markers",
        "x": [0, float(tip[0])],
        "y": [0, float(tip[1])],
        "line": {"color": colour, "width": 3},
        "marker": {"size": [0, 12], "symbol": "arrow", "angleref": "previous", "color": colour},
    }


def _star(key: np.ndarray) -> Trace:
    return {
        "name": "key of the edit",
        "mode": "markers",
        "x": [float(key[0])],
        "y": [float(key[1])],
        "marker": {"symbol": "star", "size": 14, "color": "#000000"},
    }


def explore_restraint(figure: str, scales: Sequence[tuple[str, float]]) -> HTML:
    """PRUNE's F with a slider for its base, at several scales of the matrix.

    Args:
        figure: as for `interactive`.
        scales: name and largest singular value s of the matrix, for each scale.
    """
    traces: list[Trace] = []
    rows = []
    for name, s in scales:
        values = torch.linspace(0, 3 * s, 61, dtype=torch.float64)
        traces.append(
            {"name": "unchanged", "x": [0, 3 * s], "y": [0, 3 * s], "when": {"matrix": name}}
            | {"mode": "lines", "line": {"color": "#6f6f6f", "dash": "dash"}, "hoverinfo": "skip"}
        )
        for base in BASES:
            made = restrain_spectrum(values, s, base)
            traces.append(
                {
                    "name": "F(σ)",
                    "x": values.tolist(),
                    "y": made.tolist(),
                    "line": {"color": BLUE, "width": 3},
                    "mode": "lines",
                    "when": {"matrix": name, "α": f"{base:g}"},
                }
            )
            found = {f"F({k}·s) / s": round(made[20 * k].item() / s, 3) for k in (1, 2, 3)}
            rows.append({"matrix": name, "α": f"{base:g}"} | found)
    return interactive(
        figure,
        traces,
        [choice("matrix", [name for name, _ in scales]), slider("α", BASES, 1.2)],
        pd.DataFrame(rows),
        label="PRUNE's restraint of a singular value, above or below the diagonal",
        layout={
            "titles": "matrix",
            "xaxis": axis("σ", rangemode="tozero"),
            "yaxis": axis("F(σ)", rangemode="tozero"),
        },
    )
