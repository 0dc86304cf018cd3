"""Puts the data that the package reads at run time into wheels, as `seqedit/data`.

Everything else about the package is in `pyproject.toml`. In a clone, an editable install included,
the package reads the clone's own `data` folder, see `seqedit/base/paths.py`.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = Path("data")
CARRIED = (
    "README.md",
    "abilities/*",
    "published.json",
    "editors/*.safetensors",
    "facts/*",
    "harness/*",
    "harness/*/*",
    "hyper/*.json",
    "hyper/*/*.json",
    "model/*",
    "world/*",
)
"""What a wheel carries; not the records of the studies, and not what only the book reads."""


def carried() -> list[Path]:
    """Return the files of `data` that a wheel carries."""
    found = [path for pattern in CARRIED for path in sorted(DATA.glob(pattern))]
    left_out = (".search.json", ".part", ".pyc")  # trials of settings, and leftovers
    return [path for path in found if path.is_file() and not path.name.endswith(left_out)]


class BuildWithData(build_py):
    """Builds the package with its data; an editable install needs no copy."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source in carried():
                target = Path(self.build_lib, "seqedit", source)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_source_files(self) -> list[str]:
        """Name the data as sources, so that a source archive holds it."""
        return [*super().get_source_files(), *map(str, carried())]


setup(cmdclass={"build_py": BuildWithData})
