"""Sphinx extension: each page of the book loads what it uses, and says what it is about.

Drops scripts that a page has no use for, adds the description that search engines and previews of
links show, and writes a sitemap where `html_baseurl` is set.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from urllib.parse import urljoin

from docutils import nodes

CARD = "_static/card.png"
UNUSED = ("*.map", "fontawesome.js*")
"""Files of the theme's scripts and styles that no page loads."""
THEBE = re.compile(r"sphinx-thebe\.(?:js|css)|THEBE_JS_URL")


def description(doctree: nodes.document, limit: int = 160) -> str:
    """The first paragraph of a page that is prose, cut after a word to `limit` characters."""
    for paragraph in doctree.findall(nodes.paragraph):
        if not isinstance(paragraph.parent, nodes.section):
            continue
        if paragraph.next_node(nodes.math) or len(paragraph.astext()) < 40:
            continue
        text = " ".join(paragraph.astext().split())
        return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + "…"
    return ""


def metadata(title: str, about: str, picture: str) -> str:
    """Elements of a page's head: its description, and what a preview of a link shows."""
    names = {"description": about}
    properties = {
        "og:type": "article",
        "og:title": title,
        "og:description": about,
        "og:image": picture,
    }
    return "".join(
        f'\n    <meta {kind}="{name}" content="{html.escape(value)}" />'
        for kind, values in (("name", names), ("property", properties))
        for name, value in values.items()
        if value
    )


def breakable(body: str) -> str:
    """A page whose long names in code may go on in a next line, behind "+", "_", "/" and "="."""
    return re.sub(
        r'(?<=<span class="pre">)[^<]+',
        lambda name: re.sub(r"([+_/=]+)", r"\1<wbr/>", name[0]),
        body,
    )


def prune_scripts(files: list, body: str) -> list:
    """Scripts or styles of a page without those that start kernels, and without MathJax where no
    formula is.
    """
    formulas = 'class="math' in body
    return [
        file
        for file in files
        if not THEBE.search(f"{getattr(file, 'filename', file)} {_inline(file)}")
        and (formulas or "mathjax" not in f"{file} {_inline(file)}".lower())
    ]


def _inline(file) -> str:
    return getattr(file, "attributes", {}).get("body", "") or ""


def _forget_sources(app) -> None:
    """Source pages are written again: viewcode keeps them although the theme or anchors changed."""
    shutil.rmtree(Path(app.outdir, "_modules"), ignore_errors=True)


def _page(app, pagename, templatename, context, doctree) -> None:
    body = context.get("body", "")
    for key in ("script_files", "css_files"):
        context[key] = prune_scripts(context[key], body)
    # roles that HTML does not know or that do not fit what is in the list
    for role in (' role="doc-biblioentry"', ' role="list"'):
        body = body.replace(role, "")
    context["body"] = breakable(body)
    if doctree is not None:
        depth = pagename.count("/")
        picture = (
            urljoin(app.config.html_baseurl, CARD)
            if app.config.html_baseurl
            else "../" * depth + CARD
        )
        title = re.sub(r"<[^>]*>", "", context.get("title", ""))
        context["metatags"] += metadata(html.unescape(title), description(doctree), picture)


def _finish(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for pattern in UNUSED:
        for file in (out / "_static").rglob(pattern):
            file.unlink()
    if base := app.config.html_baseurl:
        pages = sorted(app.env.found_docs)
        urls = "".join(
            f"<url><loc>{html.escape(urljoin(base, page))}.html</loc></url>" for page in pages
        )
        (out / "sitemap.xml").write_text(
            f'<?xml version="1.0" encoding="UTF-8"?>'
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>\n',
            encoding="utf-8",
        )


def setup(app) -> dict:
    app.connect("builder-inited", _forget_sources)
    app.connect("html-page-context", _page, priority=900)  # after the extensions that add scripts
    app.connect("build-finished", _finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
