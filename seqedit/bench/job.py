"""What the measurements share: a timer and the run that they measure."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from ..base.paths import MODEL, WORLD
from ..runs.config import RunConfig
from ..runs.job import Job, prepare

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Call a function; return the seconds it took and its result."""
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_initialized():  # what was asked of a GPU runs on after the asking
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def embedded_job(n_edits: int, batch_size: int) -> Job:
    """AlphaEdit on the embedded model with its tuned settings, ready to run."""
    return prepare(
        RunConfig(
            model=str(MODEL),
            requests=WORLD / "records.json",
            method="alphaedit",
            settings={},
            n_edits=n_edits,
            batch_size=batch_size,
            shuffle=True,
        )
    )
