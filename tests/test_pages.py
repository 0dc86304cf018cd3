"""Extensions of the book's builder: what a page loads, says of itself and leads to."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from pybtex.database import parse_string
from test_tools import ROOT, tool

pages, addresses, author_year = tool("pages"), tool("addresses"), tool("author_year")
docstrings = tool("docstrings")


def page(*paragraphs):
    section = nodes.section("", *(nodes.paragraph("", text) for text in paragraphs))
    document = nodes.document(SimpleNamespace(), SimpleNamespace())
    document += section
    return document


def test_description_is_the_first_paragraph_of_prose():
    prose = "A language model learns that a person plays polo, and tomorrow it should say judo."
    assert pages.description(page("Short.", prose)) == prose
    cut = pages.description(page(prose), limit=40)
    assert cut == "A language model learns that a person…" and len(cut) <= 40
    assert pages.description(page("Short.")) == ""


def test_metadata_is_escaped_and_says_nothing_without_a_description():
    made = pages.metadata('The "title"', "a < b", "card.png")
    assert (
        'content="The &quot;title&quot;"' in made
        and 'name="description" content="a &lt; b"' in made
    )
    assert "description" not in pages.metadata("x", "", "card.png")


@pytest.mark.parametrize("body, mathjax", [('<p class="math">', True), ("<p>none</p>", False)])
def test_scripts_that_a_page_has_no_use_for_are_dropped(body, mathjax):
    def script(name, text=""):
        return SimpleNamespace(filename=name, attributes={"body": text})

    files = [script("_static/doctools.js"), script("_static/sphinx-thebe.js")]
    files += [script("", "const THEBE_JS_URL = 1"), script("../mathjax/tex-chtml.js")]
    files += [script("", "window.MathJax = {}")]
    kept = [(one.filename, one.attributes["body"]) for one in pages.prune_scripts(files, body)]
    formulas = [("../mathjax/tex-chtml.js", ""), ("", "window.MathJax = {}")]
    assert kept == [("_static/doctools.js", ""), *(formulas if mathjax else [])]


def test_names_in_code_break_at_their_joints():
    made = pages.breakable('<p>a_b</p><span class="pre">rome+null_space</span>')
    assert made == '<p>a_b</p><span class="pre">rome+<wbr/>null_<wbr/>space</span>'


def test_arxiv_numbers_become_links():
    pieces = addresses.with_links("EvoEdit (arXiv 2510.13851) and 2605.26670; not 1234.56789.")
    links = [
        (piece.astext(), piece["refuri"])
        for piece in pieces
        if "refuri" in getattr(piece, "attributes", {})
    ]
    assert links == [
        ("arXiv 2510.13851", "https://arxiv.org/abs/2510.13851"),
        ("2605.26670", "https://arxiv.org/abs/2605.26670"),
    ]
    assert "".join(piece.astext() for piece in pieces).endswith("; not 1234.56789.")


def labels_of(*entries: tuple[str, str]) -> list[str]:
    """The labels of entries with authors and year."""
    text = "".join(
        f"@misc{{e{i}, author={{{who}}}, title={{T}}, year={{{year}}}}}"
        for i, (who, year) in enumerate(entries)
    )
    return [*author_year.Labels().format_labels([*parse_string(text, "bibtex").entries.values()])]


def test_labels_name_authors_and_year():
    of_a, of_others = "A, X and B, Y and C, Z", "A, X and D, Y and E, Z"
    assert labels_of(
        ("van Loan, C and Golub, G", "2025"), (of_a, "2025a"), (of_others, "2025b")
    ) == ["van Loan and Golub, 2025", "A et al., 2025a", "A et al., 2025b"]
    with pytest.raises(ValueError, match="two entries read 'A et al., 2025'.*letters"):
        labels_of((of_a, "2025"), (of_others, "2025"))


def test_signatures_name_no_folder_of_the_build():
    made = docstrings.without_root(f"(folder={Path(ROOT / 'data' / 'x')!r}, other=PosixPath('/y'))")
    assert made == "(folder=Path('data/x'), other=PosixPath('/y'))"
