"""Generate text, and measure how repetitive it is."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..lm.model import LanguageModel


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
    number of the model's positions can make a text shorter. Torch's global generator is unchanged
    afterwards.

    Args:
        lm: the model.
        prompts: the texts to continue.
        generator: seeds the sampling.
        length: number of tokens of a text, prompt included; a longer prompt gets one token more.
        top_k: number of tokens that are sampled from.
        batch: number of prompts that run together.

    Returns:
        The whole texts, prompts included.
    """
    tokenizer: Any = lm.tokenizer
    model: Any = lm.model  # transformers declares `generate` of a type that cannot be called
    texts: list[str] = []
    for start in range(0, len(prompts), batch):
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts[start : start + batch]]
        longest, shortest = max(map(len, ids)), min(map(len, ids))
        gaps = [longest - len(row) for row in ids]
        padded = [[0] * gap + row for gap, row in zip(gaps, ids, strict=True)]
        mask = [[0] * gap + [1] * len(row) for gap, row in zip(gaps, ids, strict=True)]
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
            torch.manual_seed(seed)
            new = min(max(length - shortest, 1), lm.max_positions - longest)
            out = model.generate(
                input_ids=torch.tensor(padded, device=lm.device),
                attention_mask=torch.tensor(mask, device=lm.device),
                do_sample=True,
                top_k=top_k,
                top_p=1.0,
                temperature=1.0,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=tokenizer.eos_token_id,
            )
        for row, gap, prompt in zip(out, gaps, ids, strict=True):
            text = row[gap:][: max(length, len(prompt) + 1)]  # without padding
            texts.append(tokenizer.decode(text, skip_special_tokens=True))
    return texts


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
