"""General abilities by lm-evaluation-harness, on a model in memory: the papers' tasks, and the embedded world's."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import transformers
from datasets import disable_progress_bars

from .. import __version__
from ..base.paths import DATA
from ..lm.model import LanguageModel

PAPERS = ("gsm8k", "rte", "nq_open", "sst2", "mrpc", "cola", "mmlu")
"""The harness's own names of the tasks that the papers use; `longbench_samsum` holds SAMSum's dialogues."""
WORLD_TASKS = tuple(
    f"world_{task}"
    for task in ("arithmetic", "inference", "questions", "summary", "sentiment", "acceptability")
)
"""The embedded world's tasks, the files of `data/harness`."""


def measure(
    lm: LanguageModel, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 16
) -> dict[str, Any]:
    """Results of tasks on the model as it is.

    Args:
        tasks: names of tasks, groups or tags of the harness, or of data/harness.
        limit: items of each task; None takes all.

    Returns:
        `results`: task → its metrics with their standard errors; `items`: task → how many were asked; the harness's
        versions of tasks, and what else the figures depend on.

    Raises:
        ValueError: the harness is not installed, there is no such task, or its data cannot be had.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(
            "abilities: needs lm-evaluation-harness; pip install -c constraints.txt -e '.[harness]'"
        ) from error
    disable_progress_bars()
    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    start = time.perf_counter()
    manager = TaskManager(include_path=str(DATA / "harness"))
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise ValueError(
            f"tasks: the harness knows no {unknown[0]!r}; `lm_eval ls tasks` lists its own, and "
            f"{DATA / 'harness'} adds {', '.join(WORLD_TASKS)}"
        )
    wrapped = HFLM(
        pretrained=lm.model,
        tokenizer=lm.tokenizer,
        backend="causal",
        batch_size=batch_size,
        max_length=lm.max_positions,
    )
    try:
        found = lm_eval.simple_evaluate(
            wrapped,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
            log_samples=False,
        )
    except (ConnectionError, FileNotFoundError) as error:
        raise ValueError(
            f"tasks: the data of {', '.join(tasks)} cannot be had: {str(error).splitlines()[0]}. Fetch it "
            "once where there is a network, or ask for the tasks of the embedded world"
        ) from error
    return {
        "results": {task: _numbers(values) for task, values in found["results"].items()},
        "items": {task: counts["effective"] for task, counts in found["n-samples"].items()},
        "tasks": found["versions"],
        "limit": limit,
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {
            "seqedit": __version__,
            "lm_eval": lm_eval.__version__,
            "transformers": transformers.__version__,
        },
    }


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """The metrics of a task, "acc" for "acc,none"."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and name != "sample_len"
    }


def table(report: dict[str, Any]) -> str:
    """The results as text, a line for each metric of each task."""
    return "\n".join(
        f"{task:<24}{name:<34}{value:>8.4f}   n = {report['items'].get(task, '–')}"
        for task, values in report["results"].items()
        for name, value in values.items()
        if "stderr" not in name
    )
