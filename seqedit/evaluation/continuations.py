"""Rate given continuations of given prompts, the measurement behind every metric."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax
from tqdm import tqdm

from ..lm.model import LanguageModel
from ..lm.tokens import chunks, continuation_rows
from .packing import PackedRow, apart, pack
from .tree_attention import own_masks, packed_hidden, plain_hidden, runs_packed

ROW_TOKENS = 128
"""Tokens that are packed in a row.

More share more; but attention looks at all pairs of tokens in a row.
"""


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

    def take(self, rows: Sequence[int]) -> "Ratings":
        """The ratings of some rows, in the given order."""
        of = [*rows]
        return Ratings(
            self.nll[of], self.correct[of], self.top[of], self.share[of], [self.best[i] for i in of]
        )


@torch.no_grad()
def rate(
    lm: LanguageModel,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    separators: Sequence[str] | None = None,
    batch_tokens: int = 4_096,
    progress: bool = False,
) -> Ratings:
    """Rate each continuation after its prompt, joined by `seqedit.requests.joining.join`.

    Prompt and continuation are tokenised as one text with the tokenizer's own special tokens, so a
    BOS appears exactly once. The continuation's tokens are those that reach beyond the prompt's
    characters. Its last token is predicted but not read.

    What texts have in common at their beginnings is read once: the prompt that several
    continuations follow, and the words with which several prompts begin. To this end texts are
    packed into rows as trees, whose branches attention keeps apart. This changes results by
    round-off only. A model that does not mix tokens by attention with a mask (see `runs_packed`)
    reads every text by itself. Logits are computed only where a continuation's token is predicted.

    Args:
        lm: the model.
        prompts: n prompts.
        continuations: n continuations, without the separator.
        separators: what stands between each prompt and its continuation; None for a space.
        batch_tokens: number of tokens that run together, padding included; also the most that are
            packed in a row.
        progress: show a progress bar.

    Returns:
        Ratings in the order of the prompts.

    Raises:
        ValueError: a prompt with its continuation is longer than the model's positions.
    """
    texts = continuation_rows(lm, prompts, continuations, separators=separators)
    for prompt, text in zip(prompts, texts, strict=True):
        if len(text.ids) > lm.max_positions:
            raise ValueError(
                f"{prompt[:60]!r} has {len(text.ids)} tokens with its continuation, and the model "
                f"{lm.max_positions} positions; shorten it"
            )
    sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)  # tokens that are read → rows
    for row, text in enumerate(texts):
        sharing[tuple(text.ids)].append(row)
    nll, correct = np.zeros(len(prompts)), np.zeros(len(prompts), dtype=bool)
    top, share = np.zeros(len(prompts), dtype=np.int64), np.zeros(len(prompts))
    best: list[tuple[int, ...]] = [()] * len(prompts)
    bar = tqdm(
        total=len(sharing),
        unit="text",
        disable=None if progress else True,
        leave=False,
        desc="evaluate",
    )
    owners = [*sharing.values()]
    for batch, hidden in _passes(lm, [*sharing], batch_tokens):
        rows = [row for packed in batch for i in packed.paths for row in owners[i]]
        places = [
            [(r, path[position]) for position in texts[row].positions]
            for r, packed in enumerate(batch)
            for i, path in packed.paths.items()
            for row in owners[i]
        ]
        found = _rate_batch(lm, hidden, places, [texts[row].continuation for row in rows])
        nll[rows], correct[rows] = found.nll, found.correct
        top[rows], share[rows] = found.top, found.share
        for row, tokens_of_row in zip(rows, found.best, strict=True):
            best[row] = tokens_of_row
        bar.update(sum(len(packed.paths) for packed in batch))
    bar.close()
    return Ratings(nll, correct, top, share, best)


def _passes(
    lm: LanguageModel, sequences: Sequence[tuple[int, ...]], batch_tokens: int
) -> Iterator[tuple[list[PackedRow], Float[Tensor, "rows longest d_model"]]]:
    """Run the model over all sequences, batch by batch.

    Yields:
        The rows of a batch, and the last block's output at their tokens.
    """
    packed = runs_packed(lm)
    masks = own_masks(lm, max(sequences, key=len)) if packed else []
    room = min(ROW_TOKENS, batch_tokens, lm.max_positions)
    rows = sorted(pack(sequences, room) if packed else apart(sequences), key=len)
    for part in chunks([len(row) for row in rows], batch_tokens):
        batch = rows[part]
        yield batch, packed_hidden(lm, batch, masks) if packed else plain_hidden(lm, batch)


def _rate_batch(
    lm: LanguageModel,
    hidden: Float[Tensor, "rows longest d_model"],
    places: Sequence[Sequence[tuple[int, int]]],
    continuations: Sequence[Sequence[int]],
) -> Ratings:
    """Rate continuations by the hidden states of a batch.

    Args:
        lm: the model.
        hidden: the last block's output.
        places: for each continuation the row and column at which each of its tokens is predicted.
        continuations: tokens of each.
    """
    number = {place: i for i, place in enumerate(dict.fromkeys(chain.from_iterable(places)))}
    row, column = torch.tensor([*number], device=lm.device).unbind(1)
    log_p = log_softmax(lm.logits(hidden[row, column]), dim=-1)  # (places, vocabulary)
    predicted_at = [number[place] for place in chain.from_iterable(places)]
    at = torch.tensor(predicted_at, device=lm.device)  # one for each token of a continuation
    token = torch.tensor([*chain.from_iterable(continuations)], device=lm.device)
    counts = torch.tensor([len(own) for own in continuations], device=lm.device)
    n_of = torch.arange(len(counts), device=lm.device).repeat_interleave(counts)
    of_target = log_p[at, token].double()
    best = log_p.argmax(dim=-1)[at]
    total = torch.bincount(n_of, weights=of_target, minlength=len(counts))
    missed = torch.bincount(n_of, weights=(best != token).double(), minlength=len(counts))
    return Ratings(
        nll=(-total / counts).cpu().numpy(),
        correct=(missed == 0).cpu().numpy(),
        top=best[counts.cumsum(0) - counts].cpu().numpy(),
        share=(1 - missed / counts).cpu().numpy(),
        best=[tuple(own.tolist()) for own in best.split(counts.tolist())],
    )


def exact_match(
    lm: LanguageModel,
    prompts: Sequence[str],
    targets: Sequence[str],
    separators: Sequence[str] | None = None,
) -> Bool[np.ndarray, "n"]:
    """Whether the greedy continuation of each prompt begins with its whole target, (n,)."""
    return rate(lm, prompts, targets, separators=separators).correct
