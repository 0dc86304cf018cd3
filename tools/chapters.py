"""Chapters: text (.md, edited by hand) -> executed notebook (.ipynb, generated and committed).

    python tools/chapters.py build [NAMES]    the book's parameters, write chapters/NAME.ipynb
    python tools/chapters.py smoke [NAMES]    those of chapters/smoke.yml,
                                              write _build/smoke/NAME.ipynb; without names,
                                              chapters that have smaller ones than the book's
    python tools/chapters.py check            fail if a notebook was not made from its text

The direction is always .md -> .ipynb. What differs from run to run (times, paths, random cell ids)
is removed, so that a notebook changes only when its text or its results do.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import papermill
import yaml

ROOT = Path(__file__).resolve().parents[1]
KERNEL = "python3"


class ChapterError(ValueError):
    """A chapter that cannot be built as asked; the message names the chapter and the cure."""


def sources(folder: Path, names: Iterable[str] = ()) -> list[Path]:
    """The chapters with code cells in `folder`, or those of them that are named.

    The header of such a chapter says `format_name: myst`.
    """
    found = {
        p.stem: p
        for p in sorted(folder.glob("*.md"))
        if "format_name: myst" in p.read_text(encoding="utf-8")[:400]
    }
    unknown = sorted(set(names) - set(found))
    if unknown:
        raise ChapterError(
            f"no chapter named {', '.join(unknown)}; there are {', '.join(found) or 'none'}"
        )
    return [found[name] for name in (names or found)]


def read_text(path: Path) -> nbformat.NotebookNode:
    """The notebook that a chapter's text describes, without outputs.

    The ids of its cells come from position and source.
    """
    notebook = jupytext.read(path)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = {
        "kernelspec": {"name": KERNEL, "display_name": "Python 3", "language": "python"}
    }
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"c{i:02d}-" + hashlib.sha256(cell.source.encode()).hexdigest()[:8]
    return notebook


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove times, paths and versions; join what one stream printed in several pieces."""
    notebook.metadata = {
        k: v for k, v in notebook.metadata.items() if k in ("kernelspec", "language_info")
    }
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            cell.metadata.pop("tags")
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    return notebook


def merge_streams(outputs: list) -> list:
    """Consecutive pieces of one stream as one output: where a stream is cut depends on timing."""
    merged: list = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def execute(source: Path, target: Path, parameters: dict, work: Path) -> float:
    """Run one chapter in its own folder, write the normalised notebook to `target`.

    Returns the seconds that it took.

    Raises:
        ChapterError: a parameter that the chapter does not have (papermill alone would ignore it).
        papermill.PapermillExecutionError: a cell failed; `target` is untouched, and the notebook
            is kept in `work` as far as it came.
    """
    work.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    plain, running = work / f"{source.stem}.source.ipynb", work / f"{source.stem}.failed.ipynb"
    start = time.perf_counter()
    nbformat.write(read_text(source), plain)
    try:
        known = papermill.inspect_notebook(str(plain))
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            raise ChapterError(
                f"{source.stem} has no parameter {', '.join(unknown)}; "
                f"it has {', '.join(known) or 'none'}"
            )
        papermill.execute_notebook(
            str(plain),
            str(running),
            parameters=parameters,
            kernel_name=KERNEL,
            cwd=str(source.parent),
            progress_bar=False,
            start_timeout=180,
            extra_arguments=["--log-level=ERROR"],
        )
    finally:
        plain.unlink()
    part = target.with_suffix(".part")
    nbformat.write(normalise(nbformat.read(running, 4)), part)
    os.replace(part, target)
    running.unlink()
    return time.perf_counter() - start


def twin_problem(source: Path) -> str | None:
    """Why the committed notebook does not stand for its text; None when it does."""
    path = source.with_suffix(".ipynb")
    if not path.exists():
        return f"{path.name} is missing: run 'make chapters'"
    made, text = nbformat.read(path, 4), read_text(source)
    if [(c.cell_type, c.source) for c in made.cells] != [
        (c.cell_type, c.source) for c in text.cells
    ]:
        return f"{path.name} was not made from {source.name}: run 'make chapters'"
    code = [c for c in made.cells if c.cell_type == "code"]
    if any(c.execution_count is None for c in code if c.source):
        return f"{path.name} has a cell that was never run: run 'make chapters'"
    if any(o.output_type == "error" for c in code for o in c.outputs):
        return f"{path.name} holds a cell that failed: run 'make chapters'"
    return None


def check(folder: Path) -> list[str]:
    """All problems of the notebooks in `folder`.

    A notebook may differ from its text, or have none.
    """
    texts = sources(folder)
    strays = sorted({p.stem for p in folder.glob("*.ipynb")} - {p.stem for p in texts})
    problems = [problem for problem in map(twin_problem, texts) if problem]
    return problems + [
        f"{name}.ipynb has no {name}.md: chapters are written as text" for name in strays
    ]


def small_parameters(folder: Path) -> dict[str, dict]:
    """`smoke.yml`: for every chapter the parameters that make it quick.

    Every chapter must be listed.
    """
    small = yaml.safe_load((folder / "smoke.yml").read_text(encoding="utf-8")) or {}
    wrong = sorted(set(small) ^ {p.stem for p in sources(folder)})
    if wrong:
        raise ChapterError(
            f"smoke.yml and the chapters disagree on {', '.join(wrong)}; list every chapter"
        )
    return small


def run_all(
    todo: list[Path], target_of, parameters: dict[str, dict], jobs: int, work: Path
) -> bool:
    """Execute chapters, `jobs` at a time, telling how each went; True when all went well."""
    good = True
    with ThreadPoolExecutor(jobs) as pool:
        runs = [
            (s, pool.submit(execute, s, target_of(s), parameters.get(s.stem, {}), work))
            for s in todo
        ]
        for source, run in runs:
            try:
                print(f"{source.stem}: {run.result():.1f} s", flush=True)
            except ChapterError as error:
                good = False
                print(error, file=sys.stderr)
            except papermill.PapermillExecutionError as error:
                good = False
                print(
                    f"{source.stem} FAILED in code cell {error.exec_count}: "
                    f"{error.ename}: {error.evalue}\n"
                    f"  the notebook as far as it came: {work / source.stem}.failed.ipynb",
                    file=sys.stderr,
                )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["build", "smoke", "check"])
    parser.add_argument("names", nargs="*", help="chapters, without suffix; all when none is named")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="chapters at a time")
    args = parser.parse_args()
    folder, build = ROOT / "chapters", ROOT / "_build"
    try:
        if args.command == "check":
            problems = check(folder)
            print("\n".join(problems) or f"{len(sources(folder))} chapters match their text")
            return bool(problems)
        small = small_parameters(folder) if args.command == "smoke" else {}
        names = args.names or [name for name, parameters in small.items() if parameters]
        out = build / "smoke" if args.command == "smoke" else folder
        return not run_all(
            sources(folder, names),
            lambda s: out / f"{s.stem}.ipynb",
            small,
            args.jobs,
            build / f"work-{args.command}",
        )
    except ChapterError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
