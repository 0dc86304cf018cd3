"""The one measurement behind every metric: how a model rates given continuations of given prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import log_softmax
from tqdm import tqdm

from ..lm.hooks import observe
from ..lm.load import LanguageModel
from ..lm.tokens import chunks, padded, tokenise


@dataclass(frozen=True)
class Ratings:
    """One entry per (prompt, continuation).

    Attributes:
        nll: mean over the continuation's tokens of −log p, teacher forced, in nats.
        correct: whether every token of the continuation is the most probable one (greedy exact match).
        top: most probable token after the prompt.
    """

    nll: np.ndarray
    correct: np.ndarray
    top: np.ndarray


@torch.no_grad()
def rate(lm: LanguageModel, prompts: Sequence[str], continuations: Sequence[str], *, batch_tokens: int = 16_384,
         progress: bool = False) -> Ratings:
    """Rate each continuation after its prompt, a space between them.

    Prompt and continuation are tokenised as one text with the tokenizer's own special tokens, so a BOS appears
    exactly once, and the continuation's tokens are those that reach beyond the prompt's characters. Sequences are
    sorted by length and batched; logits are computed at the continuations' positions only.
    """
    tokens = tokenise(lm, [f"{p} {c}" for p, c in zip(prompts, continuations, strict=True)])
    starts = [tokens.first_after(row, len(prompt)) for row, prompt in enumerate(prompts)]
    order = sorted(range(len(prompts)), key=lambda row: len(tokens.ids[row]))
    nll, correct = np.zeros(len(prompts)), np.zeros(len(prompts), dtype=bool)
    top = np.zeros(len(prompts), dtype=np.int64)
    last = ("block", lm.n_layers - 1)
    bar = tqdm(total=len(prompts), unit="text", disable=None if progress else True, leave=False, desc="evaluate")
    for part in chunks([len(tokens.ids[row]) for row in order], batch_tokens):
        rows = order[part]
        ids = padded(lm, [tokens.ids[row] for row in rows])
        hidden = observe(lm, ids, {last: lm.block(lm.n_layers - 1)}, last=last)[last].hidden
        at = [(i, p) for i, row in enumerate(rows) for p in range(starts[row], len(tokens.ids[row]))]
        i, position = (torch.tensor(column, device=lm.device) for column in zip(*at, strict=True))
        log_p = log_softmax(lm.logits(hidden[i, position - 1]), dim=-1)       # (tokens, vocabulary)
        told = log_p.gather(1, ids[i, position][:, None])[:, 0]
        best = log_p.argmax(dim=-1)
        counts = torch.bincount(i, minlength=len(rows))
        missed = torch.bincount(i, weights=(best != ids[i, position]).double(), minlength=len(rows))
        nll[rows] = (-torch.bincount(i, weights=told.double(), minlength=len(rows)) / counts).cpu().numpy()
        correct[rows] = (missed == 0).cpu().numpy()
        top[rows] = best[counts.cumsum(0) - counts].cpu().numpy()
        bar.update(len(rows))
    bar.close()
    return Ratings(nll, correct, top)


def exact_match(lm: LanguageModel, prompts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """Whether greedy decoding of each prompt begins with its target, all tokens of it; bool, (n,)."""
    return rate(lm, prompts, targets).correct
