"""The plain way to rate continuations: every text by itself, padded in batches.

It is the yardstick of tests and benchmarks and never measures an edit.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import log_softmax

from ..evaluation.continuations import Ratings
from ..lm.hooks import observe
from ..lm.model import LanguageModel
from ..lm.tokens import ContinuationRow, chunks, continuation_rows, padded


@torch.no_grad()
def rate_plainly(
    lm: LanguageModel,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    batch_tokens: int = 16_384,
) -> Ratings:
    """Rate continuations like `rate`, without sharing the beginnings of texts.

    Texts are sorted by length and batched. Two continuations of one token share the pass over
    their prompt, because their own token is never read.

    Args:
        lm: the model.
        prompts: n prompts.
        continuations: n continuations, without the space.
        batch_tokens: number of tokens that run together, padding included.
    """
    texts = continuation_rows(lm, prompts, continuations)
    sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)  # tokens that are read → rows
    for row, text in enumerate(texts):
        sharing[tuple(text.ids)].append(row)
    read = sorted(sharing, key=len)
    nll, correct = np.zeros(len(prompts)), np.zeros(len(prompts), dtype=bool)
    top, share = np.zeros(len(prompts), dtype=np.int64), np.zeros(len(prompts))
    best: list[tuple[int, ...]] = [()] * len(prompts)
    for part in chunks([len(ids) for ids in read], batch_tokens):
        rows = [row for ids in read[part] for row in sharing[ids]]
        sequences = [i for i, ids in enumerate(read[part]) for _ in sharing[ids]]
        found = _rate_batch(lm, read[part], sequences, [texts[row] for row in rows])
        nll[rows], correct[rows] = found.nll, found.correct
        top[rows], share[rows] = found.top, found.share
        for row, tokens_of_row in zip(rows, found.best, strict=True):
            best[row] = tokens_of_row
    return Ratings(nll, correct, top, share, best)


def _rate_batch(
    lm: LanguageModel,
    read: Sequence[tuple[int, ...]],
    sequences: Sequence[int],
    texts: Sequence[ContinuationRow],
) -> Ratings:
    """Rate continuations of sequences that run together.

    Args:
        lm: the model.
        read: the tokens that are read, one sequence each.
        sequences: for each continuation, the index in `read` of what it continues.
        texts: for each continuation, its tokens and the positions that predict them.
    """
    places = []  # continuation, sequence, place and token, one row per token of a continuation
    for n, (i, text) in enumerate(zip(sequences, texts, strict=True)):
        predicted = zip(text.positions, text.continuation, strict=True)
        places += [(n, i, position, token) for position, token in predicted]
    n_of, sequence, position, token = torch.tensor(places, device=lm.device).unbind(1)
    last = lm.n_layers - 1
    seen = observe(lm, padded(lm, read), {last: lm.block(last)}, last=last)
    hidden = seen[last].hidden.to(lm.device)  # (sequences, tokens, d_model)
    log_p = log_softmax(lm.logits(hidden[sequence, position]), dim=-1)  # (places, vocabulary)
    best = log_p.argmax(dim=-1)
    counts = torch.bincount(n_of, minlength=len(texts))
    of_target = log_p.gather(1, token[:, None])[:, 0].double()
    total = torch.bincount(n_of, weights=of_target, minlength=len(texts))
    missed = torch.bincount(n_of, weights=(best != token).double(), minlength=len(texts))
    return Ratings(
        nll=(-total / counts).cpu().numpy(),
        correct=(missed == 0).cpu().numpy(),
        top=best[counts.cumsum(0) - counts].cpu().numpy(),
        share=(1 - missed / counts).cpu().numpy(),
        best=[tuple(own.tolist()) for own in best.split(counts.tolist())],
    )
