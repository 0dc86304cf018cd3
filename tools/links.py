"""Fail on dead links in the built book, and on pages that load from the network.

A link, an anchor or a picture can be dead.

python tools/links.py _build/html
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

LOADS = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}


class Page(HTMLParser):
    """The anchors of a page, and what it points to.

    Each reference is (line, address, whether the browser loads it).
    """

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[tuple[int, str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for key, value in values.items():
            if value is None:
                continue
            if key in ("id", "name"):
                self.anchors.add(value)
            elif key in ("href", "src"):
                shown = (tag, key) in LOADS and values.get("rel") not in ("canonical", "alternate")
                self.references.append((self.getpos()[0], value, shown))


def dead_links(root: Path) -> tuple[list[str], int, int]:
    """What is wrong in the book under `root`, the number of pages, the number of inner links."""
    root = root.resolve()
    pages: dict[Path, Page] = {}
    for file in sorted(root.rglob("*.html")):
        if "_static" not in file.relative_to(root).parts:
            pages[file] = page = Page()
            page.feed(file.read_text(encoding="utf-8"))
    problems, inner = [], 0
    for file, page in pages.items():
        for line, address, loads in page.references:
            where = f"{file.relative_to(root)}:{line}"
            url, anchor = urldefrag(address)
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                if loads and parts.scheme != "data":
                    problems.append(f"{where}: loads {address} from the network")
                continue
            inner += 1
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                problems.append(f"{where}: no file {address}")
            elif anchor and target in pages and unquote(anchor) not in pages[target].anchors:
                problems.append(f"{where}: no anchor {address}")
    return problems, len(pages), inner


def main(root: str) -> int:
    problems, pages, inner = dead_links(Path(root))
    if not pages:
        problems.append(f"{root} holds no page: build the book first")
    print("\n".join([*problems, f"{pages} pages, {inner} inner links, {len(problems)} problems"]))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
