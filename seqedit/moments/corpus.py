"""Texts to compute second moments from: a text file, or a dataset that is streamed."""

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
"""English Wikipedia of November 2023, pinned; `--dataset wikipedia`.

ROME and MEMIT used that of May 2020.
"""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A sequence of documents, from a file or from a dataset.

    Attributes:
        file: text file with one document per line; None for a dataset.
        dataset: id on the hub or local folder; or "wikipedia", which stands for `WIKIPEDIA` and
            makes the four fields below ineffective. None for a file.
        subset: configuration of the dataset, as in `datasets.load_dataset`.
        split: split of the dataset.
        column: column of the dataset that holds the text.
        revision: full commit hash of a dataset on the hub.
        part: (i, n) takes every n-th document from the i-th on, for n jobs whose results are
            merged.

    Raises:
        ValueError: file and dataset are both given or both missing, `part` is out of range, or a
            dataset on the hub has no full revision.
    """

    file: Path | None = None
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    part: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if (self.file is None) == (self.dataset is None):
            raise ValueError("corpus: give either a text file (--corpus) or a dataset (--dataset)")
        if not 0 <= self.part[0] < self.part[1]:
            raise ValueError(
                f"part {self.part[0]}/{self.part[1]}: expected i/n with i from 0 to n − 1"
            )
        revision = self._source["revision"] or ""
        on_hub = self.dataset is not None and not Path(self.dataset).exists()
        if on_hub and not re.fullmatch("[0-9a-f]{40}", revision):
            raise ValueError(
                f"revision: {self.dataset} is on the hub and may change; name the commit of 40 "
                "digits that its page shows under “Files” (--revision)"
            )

    @property
    def _source(self) -> dict[str, str | None]:
        """The dataset's id, subset, split, column and revision, with "wikipedia" resolved."""
        if self.dataset == "wikipedia":
            return dict(WIKIPEDIA)
        return {
            "dataset": self.dataset,
            "subset": self.subset,
            "split": self.split,
            "column": self.column,
            "revision": self.revision,
        }

    def describe(self) -> dict[str, Any]:
        """The origin of the text for records: a file's name and digest, or a dataset's source.

        Raises:
            ValueError: the file cannot be read.
        """
        if self.file is not None:
            try:
                return {"file": self.file.name, "digest": file_digest(self.file)}
            except OSError as error:
                raise ValueError(f"corpus: {self.file} cannot be read: {error}") from error
        return {name: value for name, value in self._source.items() if value is not None}

    def texts(self, start: int = 0) -> Iterator[str]:
        """Iterate over the documents of this part, from its `start`-th one on.

        Raises:
            ValueError: while iterating, if the file or the dataset cannot be read, or the dataset
                has no such column.
        """
        first, step = self.part
        documents = self._rows() if self.file is None else _lines(self.file)
        return islice(documents, first + start * step, None, step)

    def _rows(self) -> Iterator[str]:
        """The texts of the dataset, streamed."""
        from datasets import load_dataset

        source, column = self._source, self._source["column"]
        try:
            rows = load_dataset(
                source["dataset"],
                source["subset"],
                split=source["split"],
                revision=source["revision"],
                streaming=True,
            )
            for row in rows:
                if not isinstance(row.get(column), str):
                    raise ValueError(
                        f"there is no text in column {column!r}; columns are {', '.join(row)}"
                    )
                yield row[column]
        except (OSError, ValueError, ImportError, RuntimeError) as error:  # of a loading script
            raise ValueError(f"dataset: {self.dataset} cannot be read: {error}") from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, read one after the other."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line in file:
                yield from line.splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"corpus: {path} cannot be read: {error}") from error
