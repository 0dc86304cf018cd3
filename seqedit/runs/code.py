"""The code digest of a record: which code decided the results of a run."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from ..methods.catalogue import canonical
from .syntax import (
    Definition,
    Definitions,
    defined_names,
    imported_modules,
    imported_names,
    without_docstrings,
)

PACKAGE = Path(__file__).resolve().parents[1]
ENTRY = "runs.engine"
"""The module that makes runs; whatever it imports, directly or through others, can decide a
result.
"""

METHODS_ROOM, DECORATOR = "methods", "method"
"""A module of this room with functions under this decorator declares methods. A run uses no more
of it than its own method needs.
"""

CHOOSES_SETTINGS = ("runs.presets", "methods.ranges")
"""Modules that only choose settings. A record holds the settings themselves, so this code does not
count.
"""


def code_digest(method: str) -> str:
    """Identify the code that decides the results of a method, in 16 hexadecimal digits.

    The files are read once per process, so that the digest tells what runs even if they change
    meanwhile.

    Args:
        method: name of a method, combinators after "+".

    Raises:
        ValueError: the method or one of its combinators is defined nowhere.
    """
    return _running_code().digest(method)


class PackageCode:
    """The code of a package that decides results.

    It is read as syntax trees without docstrings: those of every module that `runs.engine` imports,
    directly or through others, and of those definitions of the catalogue that a method uses. So
    comments, docstrings, line breaks and other methods do not count.
    """

    def __init__(self, package: Path):
        trees = deciding_modules(package)
        declaring = {name: tree for name, tree in trees.items() if declares_methods(name, tree)}
        others = {name: tree for name, tree in trees.items() if name not in declaring}
        self.declared = Definitions(declaring)
        self.imported = [p for name, tree in others.items() for p in imported_names(tree, name)]
        self.defined_elsewhere = {one for tree in others.values() for one in defined_names(tree)}
        shared = hashlib.sha256()
        for module, tree in sorted(others.items()):
            if module not in CHOOSES_SETTINGS:
                shared.update(f"{module}\0{ast.dump(tree)}\0".encode())
        self.shared = shared.hexdigest()

    def digest(self, method: str) -> str:
        """The code digest of a method, see `code_digest`."""
        digest = hashlib.sha256(self.shared.encode())
        for one in self.definitions(method):
            digest.update(f"{one.module}\0{one.name}\0{one.syntax}\0".encode())
        return digest.hexdigest()[:16]

    def definitions(self, method: str) -> list[Definition]:
        """What a run by a method uses of the modules that declare methods.

        These are the constructors of the method and of its combinators, whatever other modules
        import from there, and all that these use in turn.

        Raises:
            ValueError: the method or one of its combinators is defined nowhere.
        """
        roots = [*self.imported]
        for part in canonical(method).split("+"):
            found = self.declared.modules_with(part)
            if not found and part not in self.defined_elsewhere:
                raise ValueError(f"{method}: no module that decides results defines {part!r}")
            roots += [(module, part) for module in found]
        return self.declared.reachable(roots)


@cache
def _running_code() -> PackageCode:
    return PackageCode(PACKAGE)


def declares_methods(module: str, tree: ast.Module) -> bool:
    """Whether a module, named relative to the package, enters methods into the catalogue."""
    if module.split(".")[0] != METHODS_ROOM:
        return False
    decorators = [
        decorator.func
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
    ]
    return any(isinstance(name, ast.Name) and name.id == DECORATOR for name in decorators)


def deciding_modules(package: Path, entry: str = ENTRY) -> dict[str, ast.Module]:
    """Syntax trees, without docstrings, of a module and of all that it imports from its package.

    Returns:
        name of the module, relative to the package → its tree; a package's own module is
        "NAME.__init__".
    """
    found: dict[str, ast.Module] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        for module in (name, f"{name}.__init__"):
            path = package.joinpath(*module.split(".")).with_suffix(".py")
            if module not in found and path.is_file():
                tree = ast.parse(path.read_text(encoding="utf-8"))
                waiting += imported_modules(tree, module)
                found[module] = without_docstrings(tree)
    return found
