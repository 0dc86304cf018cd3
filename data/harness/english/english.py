"""The items of the tasks in plain English, for lm-evaluation-harness: a file each in ../../abilities."""

from functools import partial
from pathlib import Path

from datasets import DatasetDict, load_dataset

FOLDER = Path(__file__).resolve().parents[2] / "abilities"


def items(task: str, **_) -> DatasetDict:
    return load_dataset("json", data_files={"test": str(FOLDER / f"{task}.jsonl")})


acceptability = partial(items, "acceptability")
sentiment = partial(items, "sentiment")
entailment = partial(items, "entailment")
last_word = partial(items, "last_word")
arithmetic = partial(items, "arithmetic")
questions = partial(items, "questions")
