"""The package from outside: its public names, what importing it costs, and the README's program."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

import seqedit

ROOT = Path(__file__).resolve().parents[1]
INIT = ROOT / "seqedit" / "__init__.py"


@pytest.fixture(scope="module")
def check_package():
    path = ROOT / "tools" / "check_package.py"
    spec = importlib.util.spec_from_file_location("check_package", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported_for_types() -> dict[str, str]:
    """Public name → its home as `seqedit._HOMES` writes it, from the block for type checkers."""
    (block,) = [node for node in ast.parse(INIT.read_text()).body if isinstance(node, ast.If)]
    homes = {}
    for line in block.body:
        for alias in line.names:
            there = f":{alias.name}" if alias.asname else ""
            homes[alias.asname or alias.name] = line.module + there
    return homes


def test_public_names_are_the_same_everywhere():
    """For type checkers, at run time, for `import *` and `dir`; each exists and is documented."""
    assert imported_for_types() == seqedit._HOMES
    assert sorted(seqedit._HOMES) == seqedit.__all__ and set(seqedit.__all__) <= set(dir(seqedit))
    for name in seqedit.__all__:
        assert getattr(seqedit, name).__doc__, name
        assert f"`{name}`" in seqedit.__doc__ or name == "EditRequest", name
    with pytest.raises(AttributeError, match="module 'seqedit' has no attribute 'nothing'"):
        seqedit.nothing  # noqa: B018


def test_importing_is_cheap():
    """No library is imported before a name is used; a name is looked up once."""
    code = """
import sys
import seqedit
assert not {"torch", "transformers", "pandas", "numpy"} & set(sys.modules)
assert seqedit.batched is seqedit.batched and "batched" in vars(seqedit)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_readme_program(check_package, tmp_path, monkeypatch, capsys):
    """It runs as it stands: most facts are written, and the exported folder is an edited model."""
    monkeypatch.chdir(tmp_path)
    program = check_package.quickstart()
    assert len(program.splitlines()) <= 17
    names: dict = {}
    exec(program, names)
    shown = pd.DataFrame({"before": names["before"], "after": names["after"]})
    assert capsys.readouterr().out.endswith(f"{shown.round(2)}\n")
    assert shown.before["efficacy"] < 0.1 and shown.after["efficacy"] >= 0.9
    assert shown.after["n"] == 20 and shown.after["neighborhood"] > 0.9
    exported = seqedit.load_model("edited-model", device="cpu")
    assert seqedit.evaluate(exported, names["job"].requests)["edits"] == names["after"]


def test_readme_without_a_program(check_package, tmp_path):
    (tmp_path / "README.md").write_text("# Nothing\n\n    seqedit methods\n")
    with pytest.raises(check_package.PackageError, match="README.md holds no block of Python"):
        check_package.quickstart(tmp_path / "README.md")


def test_version_is_stated_once():
    """The citation and the newest released section of the changelog name the package's version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == seqedit.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = [line for line in changes.splitlines() if line.startswith("## [")]
    assert released[0] == "## [Unreleased]"
    assert released[1].startswith(f"## [{seqedit.__version__}]")


def test_citation():
    """The fields that Citation File Format 1.2.0 requires."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert citation["authors"] == [{"name": "The seqedit authors"}]


def test_hooks_are_local():
    """Pre-commit needs no network: every hook runs a tool of the environment."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    commands = [hook["entry"] for hook in hooks["repos"][0]["hooks"]]
    assert [command.split()[0] for command in commands] == ["ruff", "ruff", "mypy"]
