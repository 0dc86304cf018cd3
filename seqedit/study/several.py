"""Makes several runs side by side, each in a folder of its own."""

from collections.abc import Iterator, Mapping
from concurrent.futures import as_completed
from pathlib import Path

from tqdm import tqdm

from ..base.workers import worker_pool
from ..runs.config import RunConfig
from ..runs.engine import run
from ..runs.records import Record, load_run


def run_several(
    runs: Mapping[Path, RunConfig], *, jobs: int, title: str
) -> Iterator[tuple[Path, Record]]:
    """Make the runs that are not there yet; those that were interrupted resume.

    Args:
        runs: folder → what is to be done in it.
        jobs: how many run at a time.
        title: of the progress bar.

    Yields:
        Each folder with its finished run, as they end. After an error no other run is begun.
    """
    bar = tqdm(total=len(runs), desc=title, unit="run", disable=None)
    with worker_pool(jobs) as pool:
        futures = {pool.submit(run, config, out): out for out, config in runs.items()}
        try:
            for done in as_completed(futures):
                done.result()
                bar.update()
                yield futures[done], load_run(futures[done])
        except BaseException:
            pool.shutdown(cancel_futures=True)  # those that have not begun
            raise
    bar.close()
