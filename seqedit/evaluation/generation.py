"""Generate text, by sampling or greedily up to a natural end, and measure how repetitive it is.

Nothing here depends on the `generation_config.json` of a model's folder.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase

from ..lm.model import LanguageModel
from ..lm.tokens import chunks


@torch.no_grad()
def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    generator: torch.Generator,
    *,
    length: int = 100,
    top_k: int = 5,
    batch: int = 100,
) -> list[str]:
    """Continue prompts by top-k sampling.

    Texts never end early: the end token is suppressed, as in CounterFact's protocol. Only the
    number of the model's positions can make a text shorter. The model's own generation settings,
    such as a repetition penalty, have no effect. Torch's global generator is unchanged afterwards.

    Args:
        lm: the model.
        prompts: the texts to continue, after what `LanguageModel.in_front` puts before them.
        generator: seeds the sampling.
        length: number of tokens of a text, prompt included; a longer prompt gets one token more.
        top_k: number of tokens that are sampled from.
        batch: number of prompts that run together.

    Returns:
        The whole texts, prompts included, without what was put before these.
    """
    fronts = lm.in_front(prompts)
    tokenizer: Any = lm.tokenizer
    model: Any = lm.model  # transformers declares `generate` of a type that cannot be called
    settings = {"do_sample": True, "top_k": top_k, "top_p": 1.0, "temperature": 1.0}
    end = tokenizer.eos_token_id
    texts: list[str] = []
    for start in range(0, len(prompts), batch):
        own = fronts[start : start + batch]
        asked = [f + p for f, p in zip(own, prompts[start : start + batch], strict=True)]
        ids = [tokenizer(prompt)["input_ids"] for prompt in asked]
        longest, shortest = max(map(len, ids)), min(map(len, ids))
        gaps = [longest - len(row) for row in ids]
        padded = [[0] * gap + row for gap, row in zip(gaps, ids, strict=True)]
        mask = [[0] * gap + [1] * len(row) for gap, row in zip(gaps, ids, strict=True)]
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
            torch.manual_seed(seed)
            new = min(max(length - shortest, 1), lm.max_positions - longest)
            sizes = {"min_new_tokens": new, "max_new_tokens": new}
            with _without_defaults(model):
                out = model.generate(
                    input_ids=torch.tensor(padded, device=lm.device),
                    attention_mask=torch.tensor(mask, device=lm.device),
                    generation_config=GenerationConfig(
                        eos_token_id=end, pad_token_id=end, **settings, **sizes
                    ),
                )
        for row, gap, prompt, front in zip(out, gaps, ids, own, strict=True):
            text = row[gap:][: max(length, len(prompt) + 1)]  # without padding
            texts.append(tokenizer.decode(text, skip_special_tokens=True).removeprefix(front))
    return texts


@contextmanager
def _without_defaults(model: Any) -> Iterator[None]:
    """Inside, the model has no generation settings of its own.

    `transformers` fills whatever a given GenerationConfig leaves open from the model's.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class Answer(NamedTuple):
    """What a model says after a prompt.

    Attributes:
        text: the new text, without its end and surrounding white space.
        ended: whether it ended by itself, rather than at a limit.
    """

    text: str
    ended: bool


def greedy_answers(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int = 32,
    batch_tokens: int = 4096,
) -> list[Answer]:
    """Let the model answer by its most probable tokens until it ends by itself.

    An answer ends at the first new token that

    * is a special token of the tokenizer: its end token, or one that ends a turn of a chat;
    * holds a newline; or
    * holds a full stop that no letter or digit of the same token follows. So "Paris" "." ends, and
      so does "3" "." "5" after its second token, while a token such as ".5" or "U.S" goes on.

    The end and what follows it in its token are cut off; an answer that begins with a newline is
    empty, as released. Answers are those of decoding each prompt alone, whatever else is in its
    batch, unless the two largest logits of a step are equal up to the round-off by which a batch
    differs from a single row: then either token may come. In float32 that is rare; in half
    precision exactly equal logits are not, and the one with the lower id comes first.

    Args:
        lm: the model.
        prompts: token ids of each prompt, at least one and fewer than the model has positions.
        new_tokens: largest number of tokens of an answer; the number of the model's positions
            limits it, too.
        batch_tokens: padded tokens that run together; bounds memory.

    Source:
        Evaluation in the wild (2502.11177), as released: there any full stop in a token ends the
        answer, ".5" and "U.S" included, and only "</s>" and GPT-2's end-of-text token count as an
        end.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    is_end = _end_of_answer(lm.tokenizer)
    answers: dict[int, Answer] = {}
    for part in chunks([len(prompts[i]) + new_tokens for i in order], batch_tokens):
        said = _greedy_tokens(lm, [prompts[i] for i in order[part]], new_tokens, is_end)
        for i, tokens in zip(order[part], said, strict=True):
            text = str(lm.tokenizer.decode(tokens, skip_special_tokens=True))
            text = _FULL_STOP.sub("", text.partition("\n")[0])
            answers[i] = Answer(text.strip(), is_end(tokens[-1]))
    return [answers[i] for i in range(len(prompts))]


_FULL_STOP = re.compile(r"\.[\W_]*$")


def _end_of_answer(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], bool]:
    """A function that tells whether an answer ends at a token, see `greedy_answers`."""
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(token for token, one in added if one.special)}

    @cache
    def is_end(token: int) -> bool:
        text = str(tokenizer.decode([token]))
        return token in special or "\n" in text or bool(_FULL_STOP.search(text))

    return is_end


@torch.no_grad()
def _greedy_tokens(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    is_end: Callable[[int], bool],
) -> list[list[int]]:
    """The most probable new tokens of each row of one batch, its end included."""
    longest = max(map(len, prompts))
    gaps = [longest - len(row) for row in prompts]
    padded = [[0] * gap + [*row] for gap, row in zip(gaps, prompts, strict=True)]
    seen = [[0] * gap + [1] * len(row) for gap, row in zip(gaps, prompts, strict=True)]
    ids = torch.tensor(padded, device=lm.device)  # (rows, longest), later (rows left, 1)
    mask = torch.tensor(seen, device=lm.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    past = DynamicCache(config=lm.model.config)
    said: list[list[int]] = [[] for _ in prompts]
    limits = [min(new_tokens, lm.max_positions - len(row)) for row in prompts]
    active = list(range(len(prompts)))  # rows that have not ended
    while True:
        logits = lm.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        for i, token in zip(active, logits.argmax(dim=-1).tolist(), strict=True):
            said[i].append(token)
        left = [
            n for n, i in enumerate(active) if not is_end(said[i][-1]) and len(said[i]) < limits[i]
        ]
        if not left:
            return said
        active, rows = [active[n] for n in left], torch.tensor(left)  # blocks may be on any device
        past.batch_select_indices(rows)
        ids = torch.tensor([said[i][-1:] for i in active], device=lm.device)
        mask = torch.cat([mask[rows], mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[rows, -1:] + 1


def ngram_entropy(texts: Sequence[str]) -> float:
    """Fluency: the mean over texts of ½(⅔H₂ + ⁴⁄₃H₃), in bits.

    H_n is the entropy of a text's n-grams of words. Repetitive text scores low. CounterFact's
    tables print the mean × 100. A word is a run of letters and digits, or a single other character.
    The published scripts use NLTK's word tokenizer, which differs only in contractions.

    Source:
        Zhang et al. (2018) as used by ROME (2202.05262) §3.4. The published formula has a wrong
        sign.
    """
    return float(np.mean([(2 / 3 * _entropy(t, 2) + 4 / 3 * _entropy(t, 3)) / 2 for t in texts]))


def _entropy(text: str, n: int) -> float:
    """H_n: the entropy of the n-grams of words of a text, in bits; 0 for a text without any."""
    words = re.findall(r"\w+|[^\w\s]", text)
    ngrams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    if not ngrams:
        return 0.0
    counts = np.array(list(ngrams.values()), dtype=float)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())
