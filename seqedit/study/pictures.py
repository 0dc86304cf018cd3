"""Diagrams: where in a transformer an edit writes, and what each kind of method does to a matrix.

The second are computed, not sketched: key space has two axes, the output has one number, and each
update comes from the solver or the restraint that the methods use. The update of such a matrix is
one row g, an arrow in key space; the output at a key k changes by g·k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from ..algebra.restrain import restrain_spectrum
from ..algebra.solve import solve_update
from ..algebra.subspace import null_space

C = torch.tensor([[1.0, 0.55], [0.55, 0.45]])
"""Second moment of ordinary keys: they lie along one direction, mostly."""
NEW = torch.tensor([[0.9], [1.5]])
"""Key of the edit, one column."""
EARLIER = torch.tensor([[-1.6], [0.7]])
"""Key of an earlier edit."""
RESIDUAL = torch.tensor([[1.0]])
"""What is to be written at the new key."""
W = torch.tensor([[0.9, 0.25]])
"""The matrix before the update."""

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"

KEYS: dict[str, tuple[Tensor, dict[str, Any]]] = {
    "key of the edit": (NEW, {"marker": "o", "color": ORANGE, "ms": 9}),
    "key of an earlier edit": (EARLIER, {"marker": "s", "color": BLUE, "ms": 8}),
}
"""Name → key and how it is drawn."""

Row = Float[Tensor, "1 2"]


@dataclass(frozen=True)
class Panel:
    """What is drawn of a kind of method.

    Attributes:
        update: its update.
        about: in a few words, what it asks for.
        before: the update that a restraint was put on, if there is one.
    """

    update: Row
    about: str
    before: Row | None = None


def updates() -> dict[str, Panel]:
    """Kind of method → its update on the plane."""
    lam, quiet = 0.5 * C, null_space(C, 0.2).basis.float()
    history = EARLIER @ EARLIER.T
    free = solve_update(NEW, RESIDUAL, torch.eye(2), mu=0.5)
    memit = solve_update(NEW, RESIDUAL, lam)
    grown = 2.5 * memit  # as a sum of several updates is
    size = grown.norm().double()
    shorter = restrain_spectrum(size[None], memit.norm().item(), alpha=8.0)[0]
    relative = (memit / W).abs()
    return {
        "gradient step": Panel(free, "along the key itself"),
        "ROME": Panel(
            solve_update(NEW, RESIDUAL, C, mu=0.0), "written exactly, ordinary keys\nmoved least"
        ),
        "MEMIT": Panel(memit, "written nearly, ordinary keys\nmoved less"),
        "MEMIT-seq": Panel(
            solve_update(NEW, RESIDUAL, lam + 2 * history),
            "and the earlier edit's key\nhardly moved",
        ),
        "AlphaEdit": Panel(
            solve_update(NEW, RESIDUAL, 0.1 * torch.eye(2), basis=quiet),
            "only along directions that\nordinary keys hardly use",
        ),
        "NSE": Panel(
            solve_update(NEW, RESIDUAL, lam, basis=torch.tensor([[0.0], [1.0]])),
            "only the neurons that the\nkey uses most",
        ),
        "RECT": Panel(  # with two entries, the larger one
            torch.where(relative == relative.max(), memit, 0),
            "of MEMIT's, only the relatively\nlargest entries",
            memit,
        ),
        "PRUNE": Panel(
            grown * (shorter / size).float(), "a sum that grew too long\nis shortened", grown
        ),
    }


def draw_key_plane(ax: Axes, panel: Panel, title: str, reach: float = 2.3) -> None:
    """Draw an update on the plane of keys, with how much it changes the output at each."""
    x, y = np.meshgrid(np.linspace(-reach, reach, 121), np.linspace(-reach, reach, 121))
    g = panel.update[0].numpy()
    ax.contourf(x, y, g[0] * x + g[1] * y, levels=np.linspace(-1.8, 1.8, 13), cmap="PuOr_r",
                alpha=0.45, extend="both")  # fmt: skip
    along = np.array([-g[1], g[0]]) / np.hypot(*g) * 2 * reach
    ax.plot([-along[0], along[0]], [-along[1], along[1]], color="black", lw=1, ls="--")
    _draw_keys(ax)
    if panel.before is not None:
        _arrow(ax, (0, 0), (panel.before[0, 0].item(), panel.before[0, 1].item()), GREY)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 13, "lw": 2, "color": "black"}
    ax.add_patch(FancyArrowPatch((0, 0), (g[0], g[1]), shrinkA=0, shrinkB=0, **arrow))
    _frame(ax, title, panel.about, reach)


def draw_codebook(ax: Axes, title: str, about: str, reach: float = 2.3) -> None:
    """Draw what a codebook does: within a radius of the key the output is replaced."""
    center = (NEW[0].item(), NEW[1].item())
    ax.add_patch(Circle(center, 0.6, color="#b35806", alpha=0.45, lw=0))
    ax.add_patch(Circle(center, 0.6, fill=False, ls="--", lw=1))
    _draw_keys(ax)
    _frame(ax, title, about, reach)


def _draw_keys(ax: Axes) -> None:
    values, vectors = torch.linalg.eigh(C)
    angle = float(torch.rad2deg(torch.atan2(vectors[1, 1], vectors[0, 1])))
    for size in (1, 2):
        width, height = 2 * size * values[1].item() ** 0.5, 2 * size * values[0].item() ** 0.5
        ax.add_patch(Ellipse((0, 0), width, height, angle=angle, fill=False, color=GREY, lw=1))
    for key, style in KEYS.values():
        ax.plot(*key[:, 0].tolist(), ls="none", **style)


def _frame(ax: Axes, title: str, about: str, reach: float) -> None:
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    ax.set_title(title, fontsize=13, fontweight="bold", loc="left")
    ax.set_xlabel(about, fontsize=11)
    ax.grid(visible=False)


def draw_methods(columns: int = 3) -> Figure:
    """One panel for each kind of method, all for the same edit."""
    drawn = updates()
    rows = -(-(len(drawn) + 1) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(2.9 * columns, 3.7 * rows))
    for ax, (name, panel) in zip(axes.flat, drawn.items(), strict=False):
        draw_key_plane(ax, panel, name)
    draw_codebook(axes.flat[len(drawn)], "GRACE", "no weight changes; near the key\nanother output")
    for ax in axes.flat[len(drawn) + 1 :]:
        ax.set_axis_off()
    lines = [Line2D([], [], ls="none", label=name, **style) for name, (_, style) in KEYS.items()]
    lines += [
        Line2D([], [], color=GREY, label="ordinary keys"),
        Line2D([], [], color="black", ls="--", label="output unchanged"),
    ]
    fig.legend(handles=lines, loc="lower center", ncols=2, frameon=False)
    fig.tight_layout(rect=(0, 0.06, 1, 1), h_pad=1.5)
    return fig


def effects() -> dict[str, dict[str, float]]:
    """Kind of method → what its update changes at the new key, at the earlier one, and at ordinary
    keys (root of the mean square).
    """
    return {
        name: {
            "key of the edit": (panel.update @ NEW).item(),
            "key of the earlier edit": (panel.update @ EARLIER).item(),
            "ordinary keys": (panel.update @ C @ panel.update.T).item() ** 0.5,
        }
        for name, panel in updates().items()
    }


def draw_transformer(
    tokens: Sequence[str], last: int, layers: int, edited: Sequence[int]
) -> Figure:
    """A transformer as a grid of blocks over tokens, with the edited matrices marked.

    Args:
        tokens: of the prompt.
        last: index of the subject's last token.
        layers: number of blocks.
        edited: layers whose matrix is edited.
    """
    fig, ax = plt.subplots(figsize=(6.2, 0.7 * layers + 1.8))
    for i, token in enumerate(tokens):
        subject = i == last
        ax.text(i, -0.75, token, ha="center", va="top", fontsize=11, rotation=35,
                color=ORANGE if subject else "black")  # fmt: skip
        for layer in range(layers):
            written = subject and layer in edited
            box = FancyBboxPatch((i - 0.3, layer - 0.22), 0.6, 0.44, boxstyle="round,pad=0.02",
                                 fc=ORANGE if written else "#eeeeee",
                                 ec="black" if written else "#bbbbbb")  # fmt: skip
            ax.add_patch(box)
            if written:
                ax.text(i, layer, "W", ha="center", va="center", fontsize=9, color="white")
            _arrow(ax, (i, layer + 0.25), (i, layer + 0.75), GREY)
        _arrow(ax, (i, -0.6), (i, -0.27), GREY)
    for layer in range(max(edited) + 1, layers):  # attention carries it to the last token
        _arrow(ax, (last + 0.3, layer - 0.9), (len(tokens) - 1.32, layer - 0.1), ORANGE, 0.6)
    ax.text(last - 0.45, max(edited) + 0.5, "+ δ", ha="right", fontsize=12, color=ORANGE)
    ax.text(len(tokens) - 1, layers - 0.15, "next token", ha="center", va="bottom", fontsize=11)
    for layer in range(layers):
        ax.text(-0.75, layer, f"block {layer}", ha="right", va="center", fontsize=10, color=GREY)
    ax.set(xlim=(-1.7, len(tokens) - 0.4), ylim=(-1.9, layers + 0.35))
    ax.set_axis_off()
    fig.tight_layout()
    return fig


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    alpha: float = 1.0,
) -> None:
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 9,
        "lw": 1.2,
        "color": colour,
        "alpha": alpha,
    }
    ax.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))
