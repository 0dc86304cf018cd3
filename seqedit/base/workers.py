"""Processes that do a part of the work and end when the one that started them ends."""

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """A pool of fresh processes with one thread each for their arithmetic.

    Each ends soon after the process that made the pool, however that one ended.

    Args:
        jobs: number of processes.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    return ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
    )


def _end_with(parent: int) -> None:
    """End this process once its parent is another one, which tells that the first has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
