"""The rooms of the package keep to the table of the architecture page.

There is no circle, no import of a room further down, and no import outside the table.
"""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from seqedit.runs.code import imported_modules

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "seqedit"
MODULES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}


def imports() -> dict[str, set[str]]:
    """module → modules of the package that it imports, those inside functions included."""
    found = {}
    for module, path in MODULES.items():
        named = imported_modules(ast.parse(path.read_text(encoding="utf-8")), module)
        found[module] = {name for name in named if name in MODULES} - {module}
    return found


def table() -> dict[str, set[str]]:
    """room → rooms that it may import, from the table of the architecture page.

    The rows of the table read "| `room` | holds | may import |".
    """
    page = (ROOT / "chapters" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", page, re.M)
    return {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows}


def test_no_circle():
    tuple(TopologicalSorter(imports()).static_order())  # raises CycleError, which names the circle


def test_rooms_import_what_the_table_allows():
    """A room imports only rooms of its own row, all of which stand above it.

    Every room has a row.
    """
    allowed = table()
    assert set(allowed) == {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    order = [*allowed]
    for room, others in allowed.items():
        assert all(order.index(other) < order.index(room) for other in others), room
    for module, targets in imports().items():
        room = module.split(".")[0]
        if (
            room in allowed
        ):  # the package's own two files, the public names and the command, are of no room
            met = {target.split(".")[0] for target in targets} - {room, "__init__"}
            assert met <= allowed[room], f"{module} imports {met - allowed[room]}"


def test_rows_allow_nothing_that_is_not_used():
    """The table is what the code does, not what it might do."""
    used: dict[str, set[str]] = {room: set() for room in table()}
    for module, targets in imports().items():
        room = module.split(".")[0]
        if room in used:
            used[room] |= {target.split(".")[0] for target in targets} - {room, "__init__"}
    assert used == table()
