"""Rate given continuations of given prompts, the measurement behind every metric."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax
from tqdm import tqdm

from ..lm.hooks import observe
from ..lm.model import LanguageModel
from ..lm.tokens import ContinuationRow, chunks, continuation_rows, padded


@dataclass(frozen=True)
class Ratings:
    """Ratings of n continuations, each of one prompt.

    Attributes:
        nll: mean over the continuation's tokens of −log p, teacher forced, in nats.
        correct: whether every token of the continuation is the most probable one (greedy exact
            match).
        top: most probable token after the prompt.
        share: share of the continuation's tokens that are the most probable ones (token accuracy).
        best: the most probable token at each of the continuation's places, teacher forced.
    """

    nll: Float[np.ndarray, "n"]
    correct: Bool[np.ndarray, "n"]
    top: Int[np.ndarray, "n"]
    share: Float[np.ndarray, "n"]
    best: list[tuple[int, ...]]

    def rows(self, start: int, stop: int) -> "Ratings":
        """The ratings from row `start` up to and without row `stop`."""
        part = slice(start, stop)
        return Ratings(
            self.nll[part], self.correct[part], self.top[part], self.share[part], self.best[part]
        )


@torch.no_grad()
def rate(
    lm: LanguageModel,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    batch_tokens: int = 16_384,
    progress: bool = False,
) -> Ratings:
    """Rate each continuation after its prompt, with a space between them.

    Prompt and continuation are tokenised as one text with the tokenizer's own special tokens, so a
    BOS appears exactly once. The continuation's tokens are those that reach beyond the prompt's
    characters. Its last token is predicted but not read, so that two continuations of one token
    share the pass over their prompt. Texts are sorted by length and batched; logits are computed
    only at the places of the continuations.

    Args:
        lm: the model.
        prompts: n prompts.
        continuations: n continuations, without the space.
        batch_tokens: number of tokens that run together, padding included.
        progress: show a progress bar.

    Returns:
        Ratings in the order of the prompts.
    """
    texts = continuation_rows(lm, prompts, continuations)
    sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)  # tokens that are read → rows
    for row, text in enumerate(texts):
        sharing[tuple(text.ids)].append(row)
    read = sorted(sharing, key=len)
    nll, correct = np.zeros(len(prompts)), np.zeros(len(prompts), dtype=bool)
    top, share = np.zeros(len(prompts), dtype=np.int64), np.zeros(len(prompts))
    best: list[tuple[int, ...]] = [()] * len(prompts)
    bar = tqdm(
        total=len(read),
        unit="text",
        disable=None if progress else True,
        leave=False,
        desc="evaluate",
    )
    for part in chunks([len(ids) for ids in read], batch_tokens):
        rows = [row for ids in read[part] for row in sharing[ids]]
        sequences = [i for i, ids in enumerate(read[part]) for _ in sharing[ids]]
        found = _rate_batch(lm, read[part], sequences, [texts[row] for row in rows])
        nll[rows], correct[rows] = found.nll, found.correct
        top[rows], share[rows] = found.top, found.share
        for row, tokens_of_row in zip(rows, found.best, strict=True):
            best[row] = tokens_of_row
        bar.update(part.stop - part.start)
    bar.close()
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
    hidden = _last_hidden(lm, read)  # (sequences, tokens, d_model)
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


def _last_hidden(
    lm: LanguageModel, read: Sequence[tuple[int, ...]]
) -> Float[Tensor, "sequences tokens d_model"]:
    """Output of the last block at every token of padded sequences."""
    last = ("block", lm.n_layers - 1)
    seen = observe(lm, padded(lm, read), {last: lm.block(lm.n_layers - 1)}, last=last)
    return seen[last].hidden.to(lm.device)


def exact_match(
    lm: LanguageModel, prompts: Sequence[str], targets: Sequence[str]
) -> Bool[np.ndarray, "n"]:
    """Whether the greedy continuation of each prompt begins with its whole target, (n,)."""
    return rate(lm, prompts, targets).correct
