"""Sphinx extension: on a phone, a wide figure is shown panel by panel, one below the other.

`seqedit.study.display` writes into each picture where its panels are. A panel is a window onto the
whole picture, so nothing is drawn or loaded twice. A wide picture without panels is one window,
which scrolls where letters would otherwise be too small to read.
"""

from __future__ import annotations

import html
import posixpath
import re
import struct
from pathlib import Path
from urllib.parse import quote

from docutils import nodes

WIDE = 600
"""Pixels; a narrower picture is shown as it is."""


class windows(nodes.General, nodes.Element):
    """Windows onto the picture in front of it."""


def size_and_panels(path: Path) -> tuple[float, float, list[tuple[float, ...]]]:
    """Width and height of an SVG or PNG in CSS pixels, and its panels.

    A panel is (x, y, width, height) in parts of the picture. (0, 0, []) for a picture of another
    source.
    """
    head = path.read_bytes()[:4000]
    found = re.search(rb"panels: ([\d.; ]*)", head)
    if not found:
        return 0, 0, []
    panels = [tuple(map(float, one.split())) for one in found[1].decode().split(";") if one.strip()]
    if path.suffix == ".svg":
        size = re.search(
            rb'width="([\d.]+)pt" height="([\d.]+)pt"|height="([\d.]+)pt"[^>]*width="([\d.]+)pt"',
            head,
        )
        w, h = (size[1], size[2]) if size[1] else (size[4], size[3])
        return float(w) * 96 / 72, float(h) * 96 / 72, panels
    width, height = struct.unpack(">II", head[16:24])
    density = re.search(rb"pHYs(.{4})", head, re.DOTALL)
    per_metre = struct.unpack(">I", density[1])[0] if density else 96 / 0.0254
    scale = 96 / (per_metre * 0.0254)
    return width * scale, height * scale, panels


def window(source: str, panel: tuple[float, ...], width: float, height: float) -> str:
    """HTML of one window."""
    x, y, w, h = panel
    return (
        f'<span style="--natural:{w * width:.0f}px;aspect-ratio:{w * width:.1f}/{h * height:.1f}">'
        f'<img src="{source}" alt="" loading="lazy" style="width:{100 / w:.3f}%;'
        f'left:{-100 * x / w:.3f}%;top:{-100 * y / h:.3f}%"/></span>'
    )


def _insert(app, doctree, docname) -> None:
    for image in [*doctree.findall(nodes.image)]:
        path = Path(app.srcdir, image["uri"])
        if path.suffix not in (".svg", ".png") or not path.exists():
            continue
        width, height, panels = size_and_panels(path)
        if width >= WIDE:
            image.parent.insert(
                image.parent.index(image) + 1,
                windows(
                    uri=image["uri"],
                    alt=image.get("alt", ""),
                    size=(width, height),
                    panels=panels or [(0.0, 0.0, 1.0, 1.0)],
                ),
            )


def _visit(self, node) -> None:
    source = posixpath.join(self.builder.imgpath, quote(self.builder.images[node["uri"]]))
    inside = "".join(window(source, panel, *node["size"]) for panel in node["panels"])
    label = html.escape(node["alt"])
    self.body.append(f'<div class="windows" role="img" aria-label="{label}">{inside}</div>')
    raise nodes.SkipNode


def _skip(self, node) -> None:
    raise nodes.SkipNode


def setup(app) -> dict:
    app.add_node(windows, html=(_visit, None), latex=(_skip, None), text=(_skip, None))
    app.connect("doctree-resolved", _insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
