"""Measure general abilities of a model in memory with lm-evaluation-harness."""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import transformers
from datasets import disable_progress_bars

from .. import __version__
from ..base.paths import DATA
from ..lm.model import LanguageModel

PAPERS = ("gsm8k", "rte", "nq_open", "sst2", "mrpc", "cola", "mmlu")
"""The harness's names of the tasks that the papers use; `--tasks papers`.

SAMSum's dialogues are in its `longbench_samsum`, which is not among them.
"""
WORLD_TASKS = tuple(
    f"world_{task}"
    for task in ("arithmetic", "inference", "questions", "summary", "sentiment", "acceptability")
)
"""The tasks of the embedded world, which the files of `data/harness` define."""
ENGLISH = "english"
"""Our tasks in plain English, for pretrained models: the harness's tag of those that
`data/harness/english` defines. Their items are in `data/abilities`.
"""
DRAWS = 1000
"""Bootstrap samples, for the standard errors of metrics that are no means."""


def choose_tasks(asked: str | None, *, embedded: bool) -> list[str]:
    """The names that are asked for, with "papers" resolved; without any, those that suit the model.

    Args:
        asked: names separated by commas.
        embedded: whether the unedited model is the embedded one, which knows only its own world.
    """
    if not asked:
        return list(WORLD_TASKS) if embedded else [ENGLISH]
    names = [name.strip() for name in asked.split(",")]
    return [task for name in names for task in (PAPERS if name == "papers" else (name,))]


def run_harness(
    lm: LanguageModel, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 16
) -> dict[str, Any]:
    """Evaluate a model on tasks of the harness.

    Args:
        lm: the model, edited or not.
        tasks: names of tasks, groups or tags of the harness, or of `data/harness`.
        limit: number of items of each task; None takes all.
        batch_size: number of items that run together.

    Returns:
        `results`: task → its metrics with their standard errors; `items`: task → number of items;
        `tasks`: the harness's versions of the tasks; and `limit`, `seconds` and `versions` of the
        packages.

    Raises:
        ValueError: the harness is not installed, a task is unknown, or its data cannot be loaded.
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
            f"{DATA / 'harness'} adds {', '.join(WORLD_TASKS)} and the group {ENGLISH}"
        )
    wrapped = HFLM(
        pretrained=lm.model,
        tokenizer=lm.tokenizer,
        backend="causal",
        batch_size=batch_size,
        max_length=lm.max_positions,
    )
    try:
        with redirect_stdout(sys.stderr):  # the harness prints while it draws samples
            found = lm_eval.simple_evaluate(
                wrapped,
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=DRAWS,
                log_samples=False,
            )
    except (ConnectionError, FileNotFoundError) as error:
        raise ValueError(
            f"tasks: the data of {', '.join(tasks)} cannot be loaded: "
            f"{str(error).splitlines()[0]}. Fetch it once where there is a network, or ask for "
            f"{ENGLISH}, which comes along"
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
    """The numeric metrics of a task, named "acc" for "acc,none", "acc_stderr" for its error."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and name != "sample_len"
    }


def harness_text(report: dict[str, Any]) -> str:
    """Format the report of `run_harness` as text: a line for each metric, ± its standard error."""
    lines = []
    for task, values in report["results"].items():
        count = report["items"].get(task, "–")
        for name, value in values.items():
            if "stderr" not in name:
                metric, comma, filtered = name.partition(",")
                error = values.get(f"{metric}_stderr{comma}{filtered}")
                spread = "" if error is None else f" ± {error:.4f}"
                lines.append(f"{task:<24}{name:<34}{value:>8.4f}{spread}   n = {count}")
    return "\n".join(lines)
