"""Second moments of keys over a text, one pass for all layers."""

import hashlib
from collections.abc import Sequence

import torch
from tqdm import tqdm

from ..algebra.moments import SecondMoment
from .hooks import observe
from .load import LanguageModel
from .tokens import chunks, padded, tokenise


def collect_second_moments(lm: LanguageModel, texts: Sequence[str], layers: Sequence[int], *,
                           batch_tokens: int = 16_384, progress: bool = True) -> dict[int, SecondMoment]:
    """Σ k kᵀ and count of the keys of every token of `texts`, for each layer.

    Texts are cut to the model's positions and batched by length; padding is not counted. The model's own special
    tokens are, as in the released statistics.

    Source: ROME (2202.05262) appendix E, MEMIT (2210.07229) appendix; the mean per token is `SecondMoment.mean`.
    """
    ids = sorted((row[:lm.max_positions] for row in tokenise(lm, texts).ids if row), key=len)
    moments: dict[int, SecondMoment] = {}
    modules = {layer: lm.down_proj(layer) for layer in layers}
    bar = tqdm(total=len(ids), unit="text", desc="second moments", disable=None if progress else True, leave=False)
    for part in chunks([len(row) for row in ids], batch_tokens):
        rows = ids[part]
        calls = observe(lm, padded(lm, rows), modules, last=max(layers))
        real = torch.arange(len(rows[-1]))[None] < torch.tensor([[len(row)] for row in rows])
        for layer in layers:
            keys = calls[layer].input[real.to(lm.device)]                             # (tokens, d_ff)
            moments.setdefault(layer, SecondMoment(keys.shape[1], keys.device)).update(keys)
        bar.update(len(rows))
    bar.close()
    return moments


def fingerprint(lm: LanguageModel) -> str:
    """Identifies model and tokenizer: digest of each parameter's name, shape, 512 spread values, and the vocabulary."""
    digest = hashlib.sha256()
    for name, parameter in lm.model.named_parameters():
        flat = parameter.detach().flatten()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(flat[:: max(1, len(flat) // 512)].float().cpu().numpy().tobytes())
    digest.update("\n".join(sorted(lm.tokenizer.get_vocab())).encode())
    return digest.hexdigest()[:16]
