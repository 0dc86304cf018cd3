"""Texts that second moments are read from: a file, or a dataset that is streamed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..base.files import file_digest

WIKIPEDIA = {
    "dataset": "wikimedia/wikipedia",
    "subset": "20231101.en",
    "split": "train",
    "column": "text",
    "revision": "b04c8d1ceb2f5cd4588862100d08de323dccfbaa",
}
"""English Wikipedia of November 2023, pinned; `--dataset wikipedia`. ROME and MEMIT read that of May 2020."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents, one after the other.

    Attributes:
        file: text, one document a line; None where there is a dataset.
        dataset: hub id or local folder, with subset, split, column and revision as `datasets` calls them.
        part: (i, n) takes every n-th document from the i-th on, for n jobs whose results are merged.
    """

    file: Path | None = None
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    part: tuple[int, int] = (0, 1)

    def __post_init__(self):
        if (self.file is None) == (self.dataset is None):
            raise ValueError("corpus: give either a text file (--corpus) or a dataset (--dataset)")
        if self.dataset == "wikipedia":
            for name, value in WIKIPEDIA.items():
                object.__setattr__(self, name, value)
        if not 0 <= self.part[0] < self.part[1]:
            raise ValueError(
                f"part {self.part[0]}/{self.part[1]}: expected i/n with i from 0 to n − 1"
            )
        if (
            self.dataset
            and not Path(self.dataset).exists()
            and not re.fullmatch("[0-9a-f]{40}", self.revision or "")
        ):
            raise ValueError(
                f"revision: {self.dataset} is on the hub and may change; name the commit of 40 digits "
                "that its page shows under “Files” (--revision)"
            )

    def describe(self) -> dict[str, Any]:
        """What is known of the text, for the record: names, and the digest of a file or the revision of a dataset."""
        if self.file is not None:
            try:
                return {"file": self.file.name, "digest": file_digest(self.file)}
            except OSError as error:
                raise ValueError(f"corpus: {self.file} cannot be read: {error}") from error
        return {name: getattr(self, name) for name in WIKIPEDIA if getattr(self, name) is not None}

    def texts(self, start: int = 0) -> Iterator[str]:
        """The documents of this part, from the `start`-th of them on.

        Raises:
            ValueError: the file or the dataset cannot be read, or has no such column.
        """
        first, step = self.part
        return islice(
            self._lines() if self.file else self._rows(), first + start * step, None, step
        )

    def _lines(self) -> Iterator[str]:
        try:
            with open(self.file, encoding="utf-8") as file:
                for line in file:
                    yield from line.splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"corpus: {self.file} cannot be read: {error}") from error

    def _rows(self) -> Iterator[str]:
        from datasets import load_dataset

        try:
            rows = load_dataset(
                self.dataset, self.subset, split=self.split, revision=self.revision, streaming=True
            )
            for row in rows:
                if not isinstance(row.get(self.column), str):
                    raise ValueError(
                        f"there is no text in column {self.column!r}; columns are {', '.join(row)}"
                    )
                yield row[self.column]
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"dataset: {self.dataset} cannot be read: {error}") from error
