"""The book's tools.

Notebooks match their texts, parameters exist, and links lead somewhere.
"""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tool(name: str):
    """A module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


chapters, links, docstrings = tool("chapters"), tool("links"), tool("docstrings")

CHAPTER = """---
jupytext:
  formats: ipynb,md:myst
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A minimal chapter

```{code-cell} ipython3
:tags: [parameters]

n: int = 3     # how many
```

```{code-cell} ipython3
import sys
for i in range(n):
    print(i)
    sys.stdout.flush()
n ** 2
```
"""


@pytest.fixture
def chapter(tmp_path: Path) -> Path:
    path = tmp_path / "chapters" / "minimal.md"
    path.parent.mkdir()
    path.write_text(CHAPTER)
    (path.parent / "plain.md").write_text("# A page without code\n")
    return path


def run(chapter: Path, name: str = "minimal.ipynb", **parameters) -> Path:
    target = chapter.parent / name
    chapters.execute(chapter, target, parameters, chapter.parent.parent / "work")
    return target


def test_execution_is_byte_identical_and_its_twin_matches(chapter: Path):
    first = run(chapter).read_bytes()
    assert chapters.check(chapter.parent) == []
    assert run(chapter).read_bytes() == first
    assert [p.name for p in chapter.parent.iterdir() if p.suffix not in (".md", ".ipynb")] == []


def test_twins_that_differ_are_found(chapter: Path):
    run(chapter)
    chapter.write_text(CHAPTER.replace("n ** 2", "n ** 3"))
    [problem] = chapters.check(chapter.parent)
    assert problem == "minimal.ipynb was not made from minimal.md: run 'make chapters'"


def test_missing_unexecuted_and_stray_notebooks_are_found(chapter: Path):
    assert "minimal.ipynb is missing" in chapters.check(chapter.parent)[0]
    for name in ("minimal.ipynb", "stray.ipynb"):
        chapters.nbformat.write(chapters.read_text(chapter), chapter.parent / name)
    never_run, stray = chapters.check(chapter.parent)
    assert "never run" in never_run and "stray.ipynb has no stray.md" in stray


def test_unknown_parameter_is_rejected_and_nothing_is_written(chapter: Path):
    with pytest.raises(chapters.ChapterError, match="minimal has no parameter m; it has n"):
        run(chapter, m=4)
    assert not (chapter.parent / "minimal.ipynb").exists()


def test_parameters_reach_the_chapter(chapter: Path):
    made = chapters.nbformat.read(run(chapter, "small.ipynb", n=2), 4)
    assert made.cells[-1].outputs[0].text == "0\n1\n"
    assert made.cells[-1].outputs[-1].data["text/plain"] == "4"


def test_failing_chapter_keeps_the_notebook_it_had(chapter: Path):
    before = run(chapter).read_bytes()
    chapter.write_text(CHAPTER.replace("n ** 2", "1 / 0"))
    with pytest.raises(chapters.papermill.PapermillExecutionError, match="division by zero"):
        run(chapter)
    assert (chapter.parent / "minimal.ipynb").read_bytes() == before
    assert (chapter.parent.parent / "work" / "minimal.failed.ipynb").exists()


def test_unknown_chapter_is_rejected(chapter: Path):
    with pytest.raises(chapters.ChapterError, match="no chapter named minimum; there are minimal"):
        chapters.sources(chapter.parent, ["minimum"])


def test_smoke_list_must_name_every_chapter(chapter: Path):
    (chapter.parent / "smoke.yml").write_text("other: {n: 1}\n")
    with pytest.raises(chapters.ChapterError, match="minimal, other"):
        chapters.small_parameters(chapter.parent)


def test_smoke_runs_what_has_small_parameters_and_what_is_named(chapter: Path, monkeypatch):
    """The others are quick, and are executed where their outputs are compared."""
    (chapter.parent / "other.md").write_text(CHAPTER)
    (chapter.parent / "smoke.yml").write_text("minimal: {n: 1}\nother: {}\n")
    ran = []
    monkeypatch.setattr(chapters, "ROOT", chapter.parent.parent)
    monkeypatch.setattr(
        chapters,
        "execute",
        lambda source, target, parameters, work: ran.append((source.stem, parameters)) or 0.0,
    )
    for names in ([], ["other"]):
        monkeypatch.setattr(sys, "argv", ["chapters.py", "smoke", *names])
        assert chapters.main() == 0
    assert ran == [("minimal", {"n": 1}), ("other", {})]


def test_streams_cut_differently_are_the_same():
    def piece(text):
        return chapters.nbformat.v4.new_output("stream", name="stdout", text=text)

    assert chapters.merge_streams([piece("a\n"), piece("b\n")]) == chapters.merge_streams(
        [piece("a\nb\n")]
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="b.html#there">x</a>', None),
        ('<a href="https://example.org/far">x</a>', None),
        ('<a href="c.html">x</a>', "no file c.html"),
        ('<a href="b.html#gone">x</a>', "no anchor b.html#gone"),
        ('<img src="gone.png">', "no file gone.png"),
        ('<script src="https://cdn.example.org/x.js"></script>', "from the network"),
    ],
)
def test_dead_links_are_found(tmp_path: Path, body: str, problem: str | None):
    (tmp_path / "a.html").write_text(f"<p>{body}</p>")
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    problems, pages, _ = links.dead_links(tmp_path)
    assert pages == 2
    assert (problem is None) == (problems == [])
    assert problem is None or problem in problems[0]
    assert links.main(str(tmp_path)) == len(problems)


def test_no_page_is_a_failure(tmp_path: Path):
    assert links.main(str(tmp_path)) == 1


def test_markdown_tables_in_docstrings():
    lines = ["Before.", "", "| a | b |", "|---|---|", "| |x| | 2 |", "", "After."]
    made = docstrings.markdown_tables(lines)
    assert "   * - a" in made and r"   * - \|x\|" in made and "     - 2" in made
    assert (made[0], made[-1]) == ("Before.", "After.")
    assert docstrings.markdown_tables(["a | b"]) == ["a | b"]


def test_reference_lists_every_module():
    """Each on the page of its room, all but the command line, which explains itself."""
    listed = set()
    for page in (ROOT / "chapters" / "api").glob("*.md"):
        modules = re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
        assert {module.split(".")[1] for module in modules} == {page.stem}
        listed |= {*modules}
    there = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in (ROOT / "seqedit").rglob("*.py")
        if not p.name.startswith("__") and p.parent.name != "cli"
    }
    assert listed == there
