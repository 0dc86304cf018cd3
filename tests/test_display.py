"""How figures, tables and interactive pictures enter the notebooks and the pages of the book."""

import json
import math
import re
from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_methods import contrast_on_white
from test_tools import tool

from seqedit.methods.catalogue import CATALOGUE
from seqedit.study import display, plots
from seqedit.study.explorations import DIRECTIONS, THRESHOLDS, explore_restraint, projected_row
from seqedit.study.interactive import explore, interactive, several, slider
from seqedit.study.notebook import markdown_table, scientific

panels = tool("panels")


@pytest.fixture(autouse=True)
def figures():
    """Figures of the book's look, closed afterwards."""
    with plt.rc_context():
        display.set_style()
        yield
    plt.close("all")


def wide(count=2, **options):
    figure, axes = plt.subplots(1, count, figsize=(9, 3), layout="constrained", **options)
    for ax in axes:
        ax.plot([0, 1], [0, 1])
    return figure


def test_a_picture_is_the_same_each_time_and_says_where_its_panels_are(tmp_path):
    svg, png = display.picture(wide())
    assert png is None and svg == display.picture(wide())[0]
    (path := tmp_path / "a.svg").write_text(svg)
    width, height, found = panels.size_and_panels(path)
    assert abs(width - 9 * 96) < 60 and height < width  # cropped to what is drawn
    (x1, y1, w1, h1), (x2, _, w2, _) = found
    assert x1 + w1 <= x2 + 0.01 and x2 + w2 <= 1 and y1 + h1 <= 1 and min(w1, w2) > 0.4


def test_a_picture_of_many_points_is_a_png(tmp_path):
    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    ax.scatter(*np.random.default_rng(0).random((2, 20_000)))
    svg, png = display.picture(figure)
    assert svg is None
    (path := tmp_path / "a.png").write_bytes(b64decode(png))
    width, _, found = panels.size_and_panels(path)
    assert found == [] and abs(width - 7 * 96) < 60  # the same size, at more dots


def test_inner_panels_get_short_labels_and_keep_long_ones_outside():
    """Shared numbers are repeated at each panel; names of methods are not, and then no panel can
    stand alone."""
    figure = wide(sharey=True)
    display.picture(figure)
    assert len(display.panel_boxes(figure)) == 2
    figure = wide(sharey=True)
    figure.axes[0].set_yticks([0, 1], ["a long name", "another long name"])
    display.picture(figure)
    assert display.panel_boxes(figure) == []
    assert display.panel_boxes(plt.subplots(1, 2, figsize=(5, 3))[0]) == []  # narrow already


def test_legends_outside_their_panel_are_panels_of_their_own():
    """A wide one in parts, each whole in its entries; one inside stays with its panel."""
    figure = wide()
    inside = figure.axes[0]
    inside.plot([0, 1], [1, 0], label="falls")
    inside.legend(loc="center")
    lines = [inside.plot([0, 1], [0, i])[0] for i in range(6)]
    lines += [inside.scatter([0, 1], [1, 0]), inside.errorbar([0, 1], [0, 1], yerr=[0.1, 0.1])]
    names = [f"method {i}" for i in range(8)]
    legend = figure.legend(lines, names, ncols=8, loc="outside upper center")
    figure.canvas.draw()
    *parts, left, right = display.panel_boxes(figure)
    assert left.x1 < right.x0 and len(parts) > 2
    assert max(part.width for part in parts) < display.PHONE + 0.2
    assert max(part.height for part in parts) < 0.5 and left.y1 < min(part.y1 for part in parts)
    for text in legend.get_texts():  # in one part, from its first letter to its last
        box = text.get_window_extent().get_points() / figure.dpi
        assert sum(bool(part.contains(*box[0]) and part.contains(*box[1])) for part in parts) == 1
    figure, ax = plt.subplots(figsize=(9, 3), layout="constrained")
    ax.plot([0, 1], [0, 1], label="rises")
    display.picture(figure)
    assert display.panel_boxes(figure) == []  # a single panel
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    display.picture(figure)
    beside, panel = display.panel_boxes(figure)
    assert panel.x1 < beside.x0 + 0.2 and ax.get_legend().get_in_layout()


def test_a_picture_of_another_source_is_left_alone(tmp_path):
    (path := tmp_path / "a.svg").write_text("<svg width='9pt'/>")
    assert panels.size_and_panels(path) == (0, 0, [])


def test_windows_show_their_panel():
    """A panel of the right half: the picture is twice as wide as the window and moved left."""
    text = panels.window("a.svg", (0.5, 0.0, 0.5, 1.0), 800, 300)
    assert "width:200.000%" in text and "left:-100.000%" in text and "--natural:400px" in text


def on_dark(colour: str) -> float:
    """Contrast on the dark page (#14181e) after `invert(1) hue-rotate(180deg)`, as the style sheet
    has it."""
    rgb = np.array([1 - int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    luma = np.array([0.213, 0.715, 0.072])
    turned = np.clip(2 * luma @ rgb - rgb, 0, 1)  # a turn by 180° mirrors at the grey axis
    text = "#" + "".join(f"{round(255 * part):02x}" for part in turned)
    return contrast_on_white("#14181e") / contrast_on_white(text)


def test_methods_are_seen_on_both_pages_and_told_apart():
    """Contrast of 3 on white and on dark; one colour each, and neighbours differ in marker."""
    names = [*CATALOGUE]
    assert min(map(on_dark, plots.colours(names).values())) >= 3
    signs = [*plots.markers(names).values()]
    assert all(a != b for a, b in zip(signs, signs[1:], strict=False))
    assert (
        plots.markers(["memit+null_space"])["memit+null_space"] == plots.markers(["memit"])["memit"]
    )


def test_percent_stays_within_its_range():
    ax = plt.subplots()[1]
    ax.set_ylim(-40, 150)
    plots.limit_percent(ax)
    assert ax.get_ylim() == (-3, 103)
    ax.set_ylim(20, 60)
    plots.limit_percent(ax)
    assert ax.get_ylim() == (20, 60)


def test_tables_print_numbers_alike():
    frame = pd.DataFrame(
        {
            "": ["a-1", "b"],
            "x": [73.0, 73.5],
            "±": ["-3.7 ± 0.5", "12 ±\N{NO-BREAK SPACE}3"],
            "e": [7e-7, 0.5],
            "n": [1, 20],
            "gap": [math.nan, 1.5],
            "code": ["`axis=-1`", "text"],
        }
    )
    text = markdown_table(frame, "About", "tab-x").data
    rows = [[c.strip(" ") for c in line.strip("|").split("|")] for line in text.splitlines()[4:8]]
    assert rows[2] == ["a-1", "73.0", "−3.7\xa0±\xa00.5", "7·10⁻⁷", "1", "–", "`axis=-1`"]
    assert rows[3] == ["b", "73.5", "12\xa0±\xa03", "0.5", "20", "1.5", "text"]
    sides = [cell.endswith(":") for cell in rows[1]]
    assert sides == [False, True, True, True, True, True, False]
    assert (scientific(7e-7), scientific(1e-13)) == ("7·10⁻⁷", "10⁻¹³")


def data_of(shown):
    return json.loads(re.search(r"<script[^>]*>(.*?)</script>", shown.data, re.DOTALL)[1])


def test_interactive_figures_are_data():
    """Every trace names values that its controls have; nothing in the data ends the script."""
    controls = [slider("τ", (0.1, 1.0), 1.0), several("methods", ["a", "b"], ["b"])]
    trace = {"x": [1 / 3], "y": [0], "name": "</script>", "when": {"τ": "0.1", "methods": "a"}}
    found = data_of(interactive("fig", [trace], controls, pd.DataFrame({"x": [1]}), label="It"))
    assert found["traces"] == [trace | {"x": [0.3333]}]
    assert found["controls"][0] == {
        "name": "τ",
        "kind": "slider",
        "values": ["0.1", "1"],
        "start": "1",
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: explore_restraint("fig", [("large", 20.0), ("small", 2.0)]),
        lambda: explore("fig", {"instrument": "three methods"}, ["alphaedit"]),
    ],
)
def test_explorations_start_with_something_and_have_numbers(make):
    shown = make()
    found = data_of(shown)
    state = {one["name"]: [one["start"]] for one in found["controls"]}
    state |= {k: v[0] for k, v in state.items() if isinstance(v[0], list)}
    for one in found["controls"]:
        assert {*state[one["name"]]} <= {*one["values"]}
    drawn = [t for t in found["traces"] if all(v in state[k] for k, v in t["when"].items())]
    assert drawn and "<td>" in shown.data


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_projection_in_the_plane(direction):
    """The projected row says no more at preserved keys than the bound; without a projection the
    key is answered in full."""
    for threshold in THRESHOLDS:
        found = projected_row(direction, threshold)
        assert found.disturbed <= found.bound + 1e-12
    assert projected_row(direction, 3.0).written == pytest.approx(1)
    assert projected_row(direction, 0.003).written == 0
