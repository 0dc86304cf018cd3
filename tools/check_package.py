"""Builds the package, installs it into fresh environments, and uses it there, away from the clone.

    python tools/check_package.py

The dependencies are not installed again: each environment sees those of the interpreter that runs
this tool, so that the check needs no network. The package itself, with the embedded model and its
data, must come from the wheel or from the source archive alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHERE = """
import sys
from pathlib import Path
import seqedit
from seqedit.base.paths import DATA, RESULTS
for path in (Path(seqedit.__file__), DATA):
    inside = path.resolve().is_relative_to(Path(sys.prefix).resolve())
    assert inside, f"{path}: not that of the installed package"
assert not RESULTS.is_absolute(), f"{RESULTS}: records would go into the package"
"""


class PackageError(Exception):
    """A package that does not build, install or work; the message says what failed."""


def quickstart(readme: Path = ROOT / "README.md") -> str:
    """Return the program of the README: its first block of Python."""
    blocks = re.findall(r"^```python\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.M | re.S)
    if not blocks:
        raise PackageError(f"{readme.name} holds no block of Python")
    return blocks[0]


def main() -> None:
    """Build a wheel and a source archive; install and use each in an environment of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "dist", ROOT)
        (wheel,) = (work / "dist").glob("*.whl")  # made from the source archive
        (archive,) = (work / "dist").glob("*.tar.gz")
        for file in (wheel, archive):
            print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
        python = environment(work / "wheel", wheel)
        before = content(python)
        check_commands(python, work / "elsewhere")
        check_quickstart(python, work / "elsewhere")
        if content(python) != before:
            raise PackageError("the installed package has been written to")
        python = environment(work / "archive", archive)
        if content(python) != before:
            raise PackageError("the source archive installs other files than the wheel")
        check_commands(python, work / "elsewhere")
    print(f"the package builds, installs and works ({time.perf_counter() - started:.0f} s)")


def environment(folder: Path, package: Path) -> Path:
    """Make a virtual environment with the package; return its interpreter.

    Args:
        folder: where the environment goes.
        package: wheel or source archive.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    paths = {"base": str(folder), "platbase": str(folder)}
    there = Path(sysconfig.get_path("purelib", vars=paths))
    (there / "dependencies.pth").write_text("\n".join(sorted(here)) + "\n")
    install = ["install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    run(sys.executable, "-m", "pip", "--python", python, *install, "--ignore-installed", package)
    return python


def check_commands(python: Path, folder: Path) -> None:
    """Check that package and data are the installed ones, and that the command line works."""
    folder.mkdir(exist_ok=True)
    run(python, "-c", WHERE, cwd=folder)
    listed = run(python.with_name("seqedit"), "methods", cwd=folder)
    if "alphaedit" not in listed:
        raise PackageError(f"`seqedit methods` does not list the methods:\n{listed}")


def check_quickstart(python: Path, folder: Path) -> None:
    """Run the README's program, and check that it wrote a model."""
    started = time.perf_counter()
    print(run(python, "-c", quickstart(), cwd=folder), end="")
    print(f"quickstart, second moments included: {time.perf_counter() - started:.0f} s")
    if not (folder / "edited-model" / "model.safetensors").exists():
        raise PackageError("the quickstart exported no model")


def content(python: Path) -> dict[str, bytes]:
    """Return name and content of the package's files, without compiled modules."""
    (package,) = python.parents[1].glob("lib/python*/site-packages/seqedit")
    return {
        str(path.relative_to(package)): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a command away from this clone's package; return what it printed.

    Raises:
        PackageError: it failed; the message holds its output.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SEQEDIT_ROOT")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=kept | {"SEQEDIT_CACHE": str(cwd / "cache"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        shown = " ".join(map(str, words[:4]))
        raise PackageError(f"{shown} … failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        main()
    except PackageError as error:
        sys.exit(f"error: {error}")
