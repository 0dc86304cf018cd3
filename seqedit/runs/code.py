"""Which code made a result? A digest of the syntax of all modules that can decide one."""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ENTRY = "runs.engine"
"""The module that makes runs; whatever it imports, directly or not, can decide a result."""


@cache
def code_digest() -> str:
    """Identifies the code that decides results, in 16 hexadecimal digits.

    It is the digest of the syntax trees, without docstrings, of every module of the package that `runs.engine` imports
    directly or through others. Comments, docstrings and line breaks do not count. It is computed once per process, so
    that it says what runs even when files change meanwhile.
    """
    digest = hashlib.sha256()
    for module, tree in sorted(deciding_modules(PACKAGE).items()):
        digest.update(f"{module}\0{ast.dump(without_docstrings(tree))}\0".encode())
    return digest.hexdigest()[:16]


def deciding_modules(package: Path, entry: str = ENTRY) -> dict[str, ast.Module]:
    """Module name, relative to the package → syntax tree, of `entry` and all that it imports from the package."""
    found: dict[str, ast.Module] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        path = package.joinpath(*module.split(".")).with_suffix(".py")
        if module in found or not path.is_file():
            continue
        found[module] = ast.parse(path.read_text(encoding="utf-8"))
        waiting += imported_modules(found[module], module)
    return found


def imported_modules(tree: ast.Module, module: str) -> list[str]:
    """Names, relative to the package, that a module's relative imports may mean: the module, or a name in it."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = module.split(".")[: -node.level] + (
                node.module.split(".") if node.module else []
            )
            names += [".".join(base), *(".".join([*base, alias.name]) for alias in node.names)]
    return [name for name in names if name]


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without string statements: docstrings of modules, classes and functions, and those after constants."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not _is_text(part)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
