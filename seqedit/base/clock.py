"""A clock that adds up seconds by stage."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up the seconds spent in named stages, and the seconds since the clock was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the `with` block to stage `name`, even if it raises."""
        start = time.perf_counter()
        try:
            yield
            if torch.cuda.is_initialized():  # what was asked of a GPU runs on after the asking
                torch.cuda.synchronize()
        finally:
            self._spent[name] += time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage so far, and under "total" those since the start."""
        return dict(self._spent) | {"total": time.perf_counter() - self._started}
