"""What the model could do before: general tasks, facts never edited, and the probability of ordinary text."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ..base.paths import WORLD
from ..lm.hooks import observe
from ..lm.model import LanguageModel
from ..lm.tokens import chunks, padded, tokenise
from .continuations import exact_match


def read_rows(path: Path) -> list[dict]:
    """The objects of a .jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def score_abilities(lm: LanguageModel, world: Path = WORLD) -> dict[str, float]:
    """Share of items answered right (greedy, all tokens of the answer) for each task of `world`/tasks.jsonl."""
    items = read_rows(world / "tasks.jsonl")
    right = exact_match(lm, [item["prompt"] for item in items], [item["answer"] for item in items])
    tasks = np.array([item["task"] for item in items])
    return {task: float(right[tasks == task].mean()) for task in dict.fromkeys(tasks.tolist())}


def unrelated_facts(lm: LanguageModel, world: Path = WORLD) -> float:
    """Share of the never-edited facts of `world`/unrelated.jsonl that the model still knows (greedy exact match)."""
    rows = read_rows(world / "unrelated.jsonl")
    return float(exact_match(lm, [r["prompt"] for r in rows], [r["target"] for r in rows]).mean())


@torch.no_grad()
def perplexity(lm: LanguageModel, texts: Sequence[str], batch_tokens: int = 16_384) -> float:
    """exp of the mean −log p of every token but the first of each text; tokens weigh alike, texts do not."""
    ids = sorted(tokenise(lm, texts).ids, key=len)
    last = lm.n_layers - 1
    total, count = 0.0, 0
    for part in chunks([len(row) for row in ids], batch_tokens):
        batch = padded(lm, ids[part])
        hidden = observe(lm, batch, {last: lm.block(last)}, last=last)[last].hidden.to(lm.device)
        real = torch.arange(batch.shape[1] - 1) + 1 < torch.tensor(
            [[len(row)] for row in ids[part]]
        )
        real = real.to(batch.device)  # (rows, tokens − 1)
        total += cross_entropy(
            lm.logits(hidden[:, :-1][real]), batch[:, 1:][real], reduction="sum"
        ).item()
        count += int(real.sum())
    return float(np.exp(total / count))
