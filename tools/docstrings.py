"""Sphinx extension: docstrings may hold Markdown tables; signatures name no folder of the build.

Tables in Markdown read well in the source and in the book.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _cells(line: str) -> list[str]:
    cells = line.strip().removeprefix("|").removesuffix("|").split(" | ")
    return [cell.strip().replace("|", r"\|") for cell in cells]


def _is_rule(line: str) -> bool:
    return line.strip().startswith("|") and set(line.strip()) <= set("|-: ")


def markdown_tables(lines: list[str]) -> list[str]:
    """`lines` with each Markdown table written as reStructuredText's list-table."""
    out: list[str] = []
    i = 0
    while i < len(lines):
        if i + 1 < len(lines) and lines[i].lstrip().startswith("|") and _is_rule(lines[i + 1]):
            pad = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
            rows = [_cells(lines[i])]
            i += 2
            while i < len(lines) and lines[i].lstrip().startswith("|"):
                rows.append(_cells(lines[i]))
                i += 1
            out += ["", f"{pad}.. list-table::", f"{pad}   :header-rows: 1", ""]
            for row in rows:
                out += [
                    f"{pad}   {'* -' if k == 0 else '  -'} {cell}" for k, cell in enumerate(row)
                ]
            out.append("")
        else:
            out.append(lines[i])
            i += 1
    return out


def without_root(signature: str) -> str:
    """A signature whose paths begin at the root of the repository."""
    return re.sub(rf"PosixPath\('{re.escape(str(ROOT))}/?([^']*)'\)", r"Path('\1')", signature)


def setup(app) -> dict:
    def process(app, what, name, obj, options, lines):
        lines[:] = markdown_tables(lines)

    def shorten(app, what, name, obj, options, signature, returned):
        return (signature and without_root(signature), returned)

    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True}
