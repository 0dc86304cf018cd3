"""General abilities: tasks, facts that are never edited, and the perplexity of ordinary text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch.nn.functional import cross_entropy

from ..base.jsonl import read_jsonl
from ..base.paths import WORLD
from ..lm.hooks import observe
from ..lm.model import LanguageModel
from ..lm.tokens import chunks, padded, tokenise
from ..requests.plain import is_text
from .continuations import exact_match

UNRELATED = WORLD / "unrelated.jsonl"
"""Facts of the fictional world that are never edited."""


def answer_tasks(lm: LanguageModel, world: Path = WORLD) -> dict[str, Bool[np.ndarray, "n"]]:
    """Ask the items of a world's tasks.

    Args:
        lm: the model.
        world: folder with tasks.jsonl.

    Returns:
        task → for each of its items whether the greedy continuation begins with the whole answer.
    """
    items = read_jsonl(world / "tasks.jsonl")
    right = exact_match(lm, [item["prompt"] for item in items], [item["answer"] for item in items])
    tasks = np.array([item["task"] for item in items])
    return {task: right[tasks == task] for task in dict.fromkeys(tasks.tolist())}


def score_abilities(lm: LanguageModel, world: Path = WORLD) -> dict[str, float]:
    """The share of right answers in each task, see `answer_tasks`."""
    return {task: float(right.mean()) for task, right in answer_tasks(lm, world).items()}


def answer_facts(lm: LanguageModel, path: Path = UNRELATED) -> Bool[np.ndarray, "n"]:
    """Whether the model knows each fact of a file, (n,).

    Args:
        lm: the model.
        path: JSON lines with `prompt` and `target`.

    Raises:
        ValueError: see `read_facts`.
    """
    prompts, targets = read_facts(path)
    return exact_match(lm, prompts, targets)


def read_facts(path: Path) -> tuple[list[str], list[str]]:
    """Prompts and targets of a file of facts, JSON lines with `prompt` and `target`.

    Raises:
        ValueError: it cannot be read, holds nothing, or a line lacks one of them.
    """
    try:
        rows = read_jsonl(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise ValueError(f"{path} holds no facts; give one a line, with prompt and target")
    for number, row in enumerate(rows, start=1):
        for name in ("prompt", "target"):
            if not is_text(row.get(name)):
                raise ValueError(
                    f"{path}, fact {number}: {name} has to be a text, found {row.get(name)!r}"
                )
    return [row["prompt"] for row in rows], [row["target"] for row in rows]


LOGITS = 2**27
"""Logits held at a time: half a gigabyte in float32, whatever the vocabulary."""


@torch.no_grad()
def perplexity(lm: LanguageModel, texts: Sequence[str], batch_tokens: int = 16_384) -> float:
    """Perplexity: exp of the mean −log p over all tokens but the first of each text.

    Args:
        lm: the model.
        texts: documents; a longer one has more weight, and one that is longer than the model's
            positions is read in pieces of that length.
        batch_tokens: number of tokens that run together, padding included.
    """
    size = lm.max_positions
    rows = (row for row in tokenise(lm, texts).ids if row)
    ids = sorted((row[i : i + size] for row in rows for i in range(0, len(row), size)), key=len)
    last = lm.n_layers - 1
    total, count = 0.0, 0
    for part in chunks([len(row) for row in ids], batch_tokens):
        batch = padded(lm, ids[part])
        hidden = observe(lm, batch, {last: lm.block(last)}, last=last)[last].hidden.to(lm.device)
        lengths = torch.tensor([[len(row)] for row in ids[part]])
        real = torch.arange(batch.shape[1] - 1) + 1 < lengths  # no padding, (rows, tokens − 1)
        real = real.to(batch.device)
        states, words = hidden[:, :-1][real], batch[:, 1:][real]
        together = max(LOGITS // lm.config.vocab_size, 1)
        for state, word in zip(states.split(together), words.split(together), strict=True):
            total += cross_entropy(lm.logits(state), word, reduction="sum").item()
        count += int(real.sum())
    return float(np.exp(total / count))
