"""The code digest: what changes it is what can change results, by method."""

import ast
import shutil

import pytest

from seqedit.methods.catalogue import CATALOGUE
from seqedit.runs.code import PACKAGE, PackageCode, code_digest
from seqedit.runs.syntax import Definitions
from seqedit.study.studies import STUDIES

PROBE = ("memit", "memit_seq", "rome", "memit_prune", "memit+prune")


class Package:
    """A copy of the package whose files are changed, one at a time."""

    def __init__(self, folder):
        self.folder = folder
        self.before = self.digests()

    def digests(self) -> dict[str, str]:
        found = PackageCode(self.folder)
        return {method: found.digest(method) for method in PROBE}

    def changed_by(self, name: str, edit) -> set[str]:
        """The methods whose digest an edit of a file changes."""
        path = self.folder / name
        text = path.read_text()
        assert edit(text) != text, name
        path.write_text(edit(text))
        after = self.digests()
        path.write_text(text)
        return {method for method in PROBE if after[method] != self.before[method]}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    package = Package(shutil.copytree(PACKAGE, tmp_path_factory.mktemp("copy") / "seqedit"))
    assert package.before["memit"] == code_digest("memit")  # wherever the package lies
    return package


@pytest.mark.parametrize(
    "name",
    [
        "editing/sequential.py",
        "algebra/solve.py",
        "lm/targets.py",
        "evaluation/edits.py",
        "base/precision.py",
        "requests/published.py",
        "runs/measure.py",
        "methods/combinators.py",
    ],
)
def test_what_decides_results(package, name):
    """Code of every method does; comments, docstrings and line breaks do not."""
    assert package.changed_by(name, lambda text: text + "\nMORE = 1\n") == {*PROBE}
    assert not package.changed_by(
        name, lambda text: text.replace('"""', '"""Other words. ', 1) + "\n\n# a remark\n"
    )


@pytest.mark.parametrize("name", ["cli/main.py", "study/plots.py", "runs/presets.py"])
def test_what_does_not(package, name):
    """The command line, figures, and published settings, which a record holds itself."""
    assert not package.changed_by(name, lambda text: text + "\nMORE = 1\n")


def test_other_methods_do_not_count(package):
    """A new method changes no digest; a change in one changes that one and those built on it."""
    memit = "methods/memit.py"
    new = """

@method(source="new", search={}, test={}, colour="#123456")
def newest(lam: float = 1.0) -> LocateThenEdit:
    return memit(lam)
"""
    assert not package.changed_by(memit, lambda text: text + new)
    assert not package.changed_by(memit, lambda text: text.replace('"#1f77b4"', '"#123456"'))
    assert package.changed_by(
        memit, lambda text: text.replace('name="MEMIT", ', 'name="MEMIT ", ')
    ) == {*PROBE} - {"rome"}
    assert package.changed_by(
        memit, lambda text: text.replace('name="MEMIT-seq"', 'name="MEMIT seq"')
    ) == {"memit_seq"}
    assert package.changed_by(
        "methods/rome.py", lambda text: text.replace('site="mlp"', 'site="block"')
    ) == {"rome"}
    assert not package.changed_by("methods/ranges.py", lambda text: text + "\nMORE = 1\n")
    assert package.changed_by(
        "methods/catalogue.py", lambda text: text.replace('SHORT = {"rect"', 'SHORT = {"r"')
    ) == {*PROBE}  # how a name is read is of all


def test_every_method_has_a_digest():
    """The code of each is found, and the catalogue's part of it holds the method's own function."""
    package = PackageCode(PACKAGE)
    for method in {
        *CATALOGUE,
        *(one.method for study in STUDIES.values() for one in study()),
    }:
        names = {one.name for one in package.definitions(method)}
        assert method.partition("+")[0] in names and len(names) < 20
    with pytest.raises(
        ValueError, match="memit.nosuch: no module that decides results defines 'no"
    ):
        code_digest("memit+nosuch")


def test_methods_may_be_declared_in_several_files():
    """Definitions are followed from file to file, through a package's own module and attributes of
    modules.
    """
    files = {
        "c.__init__": "from .a import memit\nfrom . import b\nALL = [memit, b.rome]\n"
        "def make(name):\n    return ALL[name], check(name)\n"
        "def check(name): ...\n",
        "c.a": "from ..kinds import Kind\n@method(grid=1)\ndef memit(lam=1): return Kind(lam)\n",
        "c.b": "from . import a\nfrom .a import memit as base\n"
        "@method()\ndef rome(): return a.memit\n@method()\ndef seq(): return base()\n",
    }
    definitions = Definitions({name: ast.parse(text) for name, text in files.items()}, ["ALL"])

    def used_by(module: str, name: str) -> set[str]:
        return {f"{one.module}.{one.name}" for one in definitions.reachable([(module, name)])}

    assert used_by("c", "memit") == {"c.__init__.memit", "c.a.memit", "c.a.Kind"}
    assert used_by("c.b", "rome") == {"c.b.rome", "c.b.a", "c.a.memit", "c.a.Kind"}
    assert used_by("c.b", "seq") == {"c.b.seq", "c.b.base", "c.a.memit", "c.a.Kind"}
    assert used_by("c", "make") == {"c.__init__.make", "c.__init__.check"}
    assert "method" not in "".join(one.syntax for one in definitions.reachable([("c.a", "memit")]))
    assert definitions.modules_with("rome") == ["c.b"]
