"""Seconds by stage."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up the seconds of named stages, and the total since it was made."""

    def __init__(self):
        self._started = time.perf_counter()
        self._spent: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside towards `name`, also when it ends in an exception."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] += time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, and "total"."""
        return dict(self._spent) | {"total": time.perf_counter() - self._started}
