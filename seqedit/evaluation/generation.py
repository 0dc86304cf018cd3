"""Free text from the model, and how repetitive it is."""

import re
from collections import Counter
from collections.abc import Sequence

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
    """Continue each prompt by top-k sampling until it has `length` tokens, prompt included; returns the whole texts.

    A prompt that is as long already gets one token more; the model's positions end a text too. Otherwise texts never
    end early: the end token is suppressed, as CounterFact's protocol has it. Sampling is seeded by `generator` and
    leaves torch's global generator untouched.
    """
    tokenizer, texts = lm.tokenizer, []
    for start in range(0, len(prompts), batch):
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts[start : start + batch]]
        longest, shortest = max(map(len, ids)), min(map(len, ids))
        padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids], device=lm.device)
        mask = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=lm.device
        )
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
            torch.manual_seed(seed)
            new = min(max(length - shortest, 1), lm.max_positions - longest)
            out = lm.model.generate(
                input_ids=padded,
                attention_mask=mask,
                do_sample=True,
                top_k=top_k,
                top_p=1.0,
                temperature=1.0,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=tokenizer.eos_token_id,
            )
        for row, prompt in zip(out, ids, strict=True):
            text = row[longest - len(prompt) :]  # without its padding
            texts.append(
                tokenizer.decode(text[: max(length, len(prompt) + 1)], skip_special_tokens=True)
            )
    return texts


def ngram_entropy(texts: Sequence[str]) -> float:
    """Fluency: mean over texts of ½(⅔H₂ + ⁴⁄₃H₃), H_n the entropy of its n-grams of words, in bits.

    Repetitive text scores low. CounterFact's tables print it × 100. Words are runs of letters and digits or single
    other signs; the published scripts use NLTK's word tokenizer, which differs in contractions only.

    Source: Zhang et al. (2018) as used by ROME (2202.05262) §3.4; the published formula has a sign slip.
    """
    return float(
        np.mean([(2 / 3 * _entropy(text, 2) + 4 / 3 * _entropy(text, 3)) / 2 for text in texts])
    )


def _entropy(text: str, n: int) -> float:
    words = re.findall(r"\w+|[^\w\s]", text)
    counts = np.array(
        list(Counter(zip(*(words[i:] for i in range(n)), strict=False)).values()), dtype=float
    )
    if not len(counts):
        return 0.0
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())
