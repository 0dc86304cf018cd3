"""The one measurement behind every metric: how a model rates given continuations of given prompts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import log_softmax
from tqdm import tqdm

from ..lm.hooks import observe
from ..lm.model import LanguageModel
from ..lm.tokens import chunks, continuation_rows, padded


@dataclass(frozen=True)
class Ratings:
    """One entry per (prompt, continuation).

    Attributes:
        nll: mean over the continuation's tokens of −log p, teacher forced, in nats.
        correct: whether every token of the continuation is the most probable one (greedy exact match).
        top: most probable token after the prompt.
        share: share of the continuation's tokens that are the most probable ones (token accuracy).
        best: the most probable token at each of the continuation's places, teacher forced.
    """

    nll: np.ndarray
    correct: np.ndarray
    top: np.ndarray
    share: np.ndarray
    best: list[tuple[int, ...]]


@torch.no_grad()
def rate(
    lm: LanguageModel,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    batch_tokens: int = 16_384,
    progress: bool = False,
) -> Ratings:
    """Rate each continuation after its prompt, a space between them.

    Prompt and continuation are tokenised as one text with the tokenizer's own special tokens, so a BOS appears
    exactly once, and the continuation's tokens are those that reach beyond the prompt's characters. Its last token is
    only predicted, never read, so that two continuations of one token share the pass over their prompt. Sequences are
    sorted by length and batched; logits are computed at the continuations' positions only.
    """
    texts = continuation_rows(lm, prompts, continuations)
    sharing = defaultdict(list)  # what is read → the texts that begin so
    for row, text in enumerate(texts):
        sharing[tuple(text.ids)].append(row)
    read = sorted(sharing, key=len)
    nll, correct = np.zeros(len(prompts)), np.zeros(len(prompts), dtype=bool)
    top, share = np.zeros(len(prompts), dtype=np.int64), np.zeros(len(prompts))
    predicted: list[tuple[int, ...]] = [()] * len(prompts)
    last = ("block", lm.n_layers - 1)
    bar = tqdm(
        total=len(read),
        unit="text",
        disable=None if progress else True,
        leave=False,
        desc="evaluate",
    )
    for part in chunks([len(ids) for ids in read], batch_tokens):
        hidden = observe(lm, padded(lm, read[part]), {last: lm.block(lm.n_layers - 1)}, last=last)[
            last
        ].hidden
        hidden = hidden.to(lm.device)
        rows = [row for ids in read[part] for row in sharing[ids]]
        of = [i for i, ids in enumerate(read[part]) for _ in sharing[ids]]
        at = [
            (n, i, p, token)
            for n, (row, i) in enumerate(zip(rows, of, strict=True))
            for p, token in zip(texts[row].positions, texts[row].continuation, strict=True)
        ]
        n, i, position, told = (
            torch.tensor(column, device=lm.device) for column in zip(*at, strict=True)
        )
        log_p = log_softmax(lm.logits(hidden[i, position]), dim=-1)  # (tokens, vocabulary)
        best = log_p.argmax(dim=-1)
        counts = torch.bincount(n, minlength=len(rows))
        said = log_p.gather(1, told[:, None])[:, 0].double()
        missed = torch.bincount(n, weights=(best != told).double(), minlength=len(rows))
        nll[rows] = (-torch.bincount(n, weights=said, minlength=len(rows)) / counts).cpu().numpy()
        correct[rows] = (missed == 0).cpu().numpy()
        top[rows] = best[counts.cumsum(0) - counts].cpu().numpy()
        share[rows] = (1 - missed / counts).cpu().numpy()
        for row, tokens_of_row in zip(rows, best.split(counts.tolist()), strict=True):
            predicted[row] = tuple(tokens_of_row.tolist())
        bar.update(part.stop - part.start)
    bar.close()
    return Ratings(nll, correct, top, share, predicted)


def exact_match(lm: LanguageModel, prompts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """Whether greedy decoding of each prompt begins with its target, all tokens of it; bool, (n,)."""
    return rate(lm, prompts, targets).correct
