"""Sphinx extension: arXiv numbers lead to papers, files of the package to their source pages."""

from __future__ import annotations

import re

from docutils import nodes

ARXIV = re.compile(r"(?:arXiv[: ])?\b(\d\d(?:0[1-9]|1[0-2])\.\d{5})\b")
MODULE = re.compile(r"seqedit/([\w/]+)\.py\Z")
UNTOUCHED = (
    nodes.reference,
    nodes.literal,
    nodes.literal_block,
    nodes.title,
    nodes.raw,
    nodes.math,
)


def with_links(text: str) -> list[nodes.Node]:
    """A text in pieces, its arXiv numbers as references."""
    pieces: list[nodes.Node] = []
    end = 0
    for found in ARXIV.finditer(text):
        address = f"https://arxiv.org/abs/{found[1]}"
        pieces += [nodes.Text(text[end : found.start()])]
        pieces += [nodes.reference("", found[0], refuri=address, internal=False)]
        end = found.end()
    return [piece for piece in [*pieces, nodes.Text(text[end:])] if piece.astext()]


def _inside(node: nodes.Node, kinds: tuple) -> bool:
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


def _link(app, doctree, docname) -> None:
    for text in [*doctree.findall(nodes.Text)]:
        if ARXIV.search(text) and not _inside(text.parent, UNTOUCHED):
            text.parent.replace(text, with_links(text.astext()))
    shown = getattr(app.env, "_viewcode_modules", {})  # modules that have a source page
    for literal in [*doctree.findall(nodes.literal)]:
        found = MODULE.fullmatch(literal.astext())
        name = found and "seqedit." + found[1].replace("/", ".")
        if name and shown.get(name) and not _inside(literal.parent, (nodes.reference,)):
            page = f"_modules/{name.replace('.', '/')}"
            reference = nodes.reference("", "", internal=True)
            reference["refuri"] = app.builder.get_relative_uri(docname, page)
            literal.replace_self(reference)
            reference += literal


def setup(app) -> dict:
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
