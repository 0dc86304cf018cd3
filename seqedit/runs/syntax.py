"""Reads syntax trees: what a module imports from its package, and which definitions use which
others.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


def imported_names(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that the relative imports of a module bring in.

    Args:
        module: the importing module, relative to the package, as are the modules returned; "" is
            the package itself.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                yield _imported_module(node, module), alias.name


def imported_modules(tree: ast.Module, module: str) -> list[str]:
    """Names, relative to the package, that the relative imports of a module may mean: modules, or
    names in them.
    """
    names: list[str] = []
    for base, name in imported_names(tree, module):
        names += [base, f"{base}.{name}" if base else name]
    return [name for name in dict.fromkeys(names) if name]


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without string statements: docstrings of modules, classes and functions, and those
    of constants.
    """
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not _is_text(part)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def defined_names(tree: ast.Module) -> dict[str, ast.stmt]:
    """Name → statement at the top of a module that defines it: a function, a class or an
    assignment.
    """
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


@dataclass(frozen=True, order=True)
class Definition:
    """A definition at the top of a module.

    Attributes:
        module: its module, relative to the package.
        name: what it defines.
        syntax: its tree as text, without decorators; for an imported name, where it comes from.
    """

    module: str
    name: str
    syntax: str


class Definitions:
    """The definitions of a few modules, and which of them use which others.

    Args:
        trees: name of a module → its syntax tree.
        opaque: names that are not followed, such as those of registries, which name everything.
    """

    def __init__(self, trees: Mapping[str, ast.Module], opaque: Iterable[str] = ()):
        self.opaque = frozenset(opaque)
        self.defined = {module: defined_names(tree) for module, tree in trees.items()}
        self.imported = {module: _import_sources(tree, module) for module, tree in trees.items()}

    def modules_with(self, name: str) -> list[str]:
        """The modules that define a name."""
        return [module for module, names in self.defined.items() if name in names]

    def reachable(self, roots: Iterable[tuple[str, str]]) -> list[Definition]:
        """The definitions that some (module, name) use, directly or through others, sorted; roots
        included.

        Names that none of the modules defines are left out.
        """
        found: dict[tuple[str, str], Definition] = {}
        waiting = [*roots]
        while waiting:
            module, name = waiting.pop()
            module = self._known(module)
            if (module, name) in found or name in self.opaque or module not in self.defined:
                continue
            if name in self.defined[module]:
                node = _undecorated(self.defined[module][name])
                found[module, name] = Definition(module, name, ast.dump(node))
                waiting += self._used_by(node, module)
            elif name in self.imported[module]:
                source = ".".join(self.imported[module][name])
                found[module, name] = Definition(module, name, source)
                waiting.append(self.imported[module][name])
        return sorted(found.values())

    def _used_by(self, node: ast.AST, module: str) -> Iterator[tuple[str, str]]:
        """(module, name) of what a definition may use; names of its own are among them and lead
        nowhere.
        """
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                yield module, part.id
            elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                source = self.imported[module].get(part.value.id)
                if source:  # an attribute of an imported module
                    yield ".".join(source), part.attr

    def _known(self, module: str) -> str:
        """The name under which a module or a package is among the trees."""
        return module if module in self.defined else f"{module}.__init__"


def _import_sources(tree: ast.Module, module: str) -> dict[str, tuple[str, str]]:
    """Name in a module → (module, name) that it was imported from; of another package, too."""
    found: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            base = _imported_module(node, module) if node.level else node.module or ""
            found |= {alias.asname or alias.name: (base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return found


def _imported_module(node: ast.ImportFrom, module: str) -> str:
    """The module, relative to the package, that a relative import names."""
    outer = module.split(".")[: -node.level]
    return ".".join([*outer, *(node.module.split(".") if node.module else [])])


def _undecorated(node: ast.stmt) -> ast.stmt:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        node.decorator_list = []
    return node


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
