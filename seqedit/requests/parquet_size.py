"""A bound on the rows of Parquet files, whose size on disk says little about that in memory."""

from pathlib import Path

from .plain import RequestError

MOST_ROWS = 5_000_000
"""The largest published file of requests has two million."""


def check_rows(rows: int, path: Path) -> None:
    """Check the number of rows that a file claims, before they are read.

    Raises:
        RequestError: there are too many.
    """
    if rows > MOST_ROWS:
        raise RequestError(f"{path}: has {rows:,} rows; at most {MOST_ROWS:,} are read, split it")
