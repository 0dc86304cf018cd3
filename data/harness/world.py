"""The items of the embedded world's tasks, for lm-evaluation-harness: one split each of ../world/tasks.jsonl."""

from functools import partial
from pathlib import Path

from datasets import DatasetDict, load_dataset

ITEMS = Path(__file__).resolve().parents[1] / "world" / "tasks.jsonl"


def items(task: str, **_) -> DatasetDict:
    rows = load_dataset("json", data_files={"test": str(ITEMS)})
    return rows.filter(lambda row: row["task"] == task)


arithmetic = partial(items, "arithmetic")
inference = partial(items, "inference")
summary = partial(items, "summary")
sentiment = partial(items, "sentiment")
acceptability = partial(items, "acceptability")
questions = partial(items, "questions")
