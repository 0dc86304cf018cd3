"""Every theorem of the book has its test, and every listed chapter has its text."""

import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LABELS = sorted(
    {
        label
        for chapter in (ROOT / "chapters").glob("*.md")
        for label in re.findall(
            r"^:{3,}\{prf:theorem\}[^\n]*\n(?::[^\n]*\n)*?:label: (\S+)$",
            chapter.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
)
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))


def test_theorems_are_labelled():
    """As many labels as theorems."""
    text = "\n".join(
        chapter.read_text(encoding="utf-8") for chapter in (ROOT / "chapters").glob("*.md")
    )
    assert len(LABELS) == len(re.findall(r"^:{3,}\{prf:theorem\}", text, re.MULTILINE)) > 3


@pytest.mark.parametrize("label", LABELS)
def test_theorem_is_tested(label):
    """thm-first-order is checked by test_thm_first_order."""
    assert re.search(rf"^def test_{label.replace('-', '_')}\(", TESTS, re.MULTILINE), (
        f"no test for {label}"
    )


def test_references_to_theorems_lead_somewhere():
    for chapter in (ROOT / "chapters").glob("*.md"):
        for label in re.findall(r"\{prf:ref\}`(thm-[^`]+)`", chapter.read_text(encoding="utf-8")):
            assert label in LABELS, f"{chapter.name}: {label}"


def test_contents():
    """Every listed file has its text, and every text of a chapter is listed."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in contents["parts"] for chapter in part["chapters"]]
    pages = [page for chapter in chapters for page in (chapter, *chapter.get("sections", ()))]
    listed = [contents["root"], *(page["file"] for page in pages)]
    texts = [ROOT / Path(file).with_suffix(".md") for file in listed]
    assert [path for path in texts if not path.exists()] == [] and len(set(listed)) == len(listed)
    assert {*texts} == {*(ROOT / "chapters").rglob("*.md")}


@pytest.fixture
def notebook(tmp_path) -> Path:
    """A chapter of three cells that takes `n` and `name`."""
    cells = [
        nbformat.v4.new_code_cell("n: int = 3\nname = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from seqedit.study.notebook import begin\nbegin('n', 'name')"),
        nbformat.v4.new_code_cell("n ** 2"),
    ]
    path = tmp_path / "tiny.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            },
        ),
        path,
    )
    return path


def execute(notebook: Path, **parameters):
    return papermill.execute_notebook(
        notebook,
        notebook.with_name("out.ipynb"),
        parameters=parameters,
        progress_bar=False,
        cwd=notebook.parent,
    )


def test_known_parameters_are_taken(notebook):
    done = execute(notebook, n=5)
    assert done.cells[-1].outputs[0].data["text/plain"] == "25"


def test_unknown_parameters_are_refused(notebook):
    """papermill itself would only log the name and run with the defaults."""
    with pytest.raises(papermill.PapermillExecutionError, match="n = 'abc': expected int, found"):
        execute(notebook, n="abc")
    with pytest.raises(
        papermill.PapermillExecutionError,
        match="this chapter has no parameter 'm'; it takes n, name",
    ):
        execute(notebook, m=5)


@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_no_output_names_a_folder_of_a_machine(notebook):
    """Nor a damaged cache or whatever else only the machine had that executed the chapter."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        found = re.findall(
            r"/(?:root|home|tmp|Users)/[^\s\"]*", json.dumps(cell.get("outputs", []))
        )
        assert not found, found
