"""General abilities: tasks, facts that are never edited, and the perplexity of ordinary text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ..base.jsonl import read_jsonl
from ..base.paths import WORLD
from ..lm.hooks import observe
from ..lm.model import LanguageModel
from ..lm.tokens import chunks, padded, tokenise
from .continuations import exact_match


def score_abilities(lm: LanguageModel, world: Path = WORLD) -> dict[str, float]:
    """Score the tasks of a world.

    Args:
        lm: the model.
        world: folder with tasks.jsonl.

    Returns:
        task → share of its items whose greedy continuation begins with the whole answer.
    """
    items = read_jsonl(world / "tasks.jsonl")
    right = exact_match(lm, [item["prompt"] for item in items], [item["answer"] for item in items])
    tasks = np.array([item["task"] for item in items])
    return {task: float(right[tasks == task].mean()) for task in dict.fromkeys(tasks.tolist())}


def unrelated_facts(lm: LanguageModel, world: Path = WORLD) -> float:
    """Share of the never-edited facts of `world`/unrelated.jsonl that the model knows (greedy)."""
    rows = read_jsonl(world / "unrelated.jsonl")
    return float(exact_match(lm, [r["prompt"] for r in rows], [r["target"] for r in rows]).mean())


@torch.no_grad()
def perplexity(lm: LanguageModel, texts: Sequence[str], batch_tokens: int = 16_384) -> float:
    """Perplexity: exp of the mean −log p over all tokens but the first of each text.

    Args:
        lm: the model.
        texts: documents; a longer one has more weight.
        batch_tokens: number of tokens that run together, padding included.
    """
    ids = sorted(tokenise(lm, texts).ids, key=len)
    last = lm.n_layers - 1
    total, count = 0.0, 0
    for part in chunks([len(row) for row in ids], batch_tokens):
        batch = padded(lm, ids[part])
        hidden = observe(lm, batch, {last: lm.block(last)}, last=last)[last].hidden.to(lm.device)
        lengths = torch.tensor([[len(row)] for row in ids[part]])
        real = torch.arange(batch.shape[1] - 1) + 1 < lengths  # no padding, (rows, tokens − 1)
        real = real.to(batch.device)
        total += cross_entropy(
            lm.logits(hidden[:, :-1][real]), batch[:, 1:][real], reduction="sum"
        ).item()
        count += int(real.sum())
    return float(np.exp(total / count))
