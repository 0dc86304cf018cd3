"""Which model is this? Digests of weights and vocabulary."""

import hashlib

import torch

from .model import LanguageModel


def fingerprint(lm: LanguageModel) -> str:
    """Identifies model and tokenizer: digest of each parameter's name, shape, 512 spread values, and the vocabulary."""
    digest = hashlib.sha256()
    _digest_weights(lm, digest, torch.float32)
    digest.update(_vocabulary(lm))
    return digest.hexdigest()[:16]


def identity(lm: LanguageModel) -> dict[str, str]:
    """Digests of "model" and "tokenizer" apart; that of the model is the same in float32 and in bfloat16.

    In float16 it may differ, because numbers are rounded twice.
    """
    model = hashlib.sha256()
    _digest_weights(lm, model, torch.bfloat16)
    return {
        "model": model.hexdigest()[:16],
        "tokenizer": hashlib.sha256(_vocabulary(lm)).hexdigest()[:16],
    }


def _digest_weights(lm: LanguageModel, digest, dtype: torch.dtype) -> None:
    for name, parameter in lm.model.named_parameters():
        flat = parameter.detach().flatten()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(flat[:: max(1, len(flat) // 512)].to(dtype).float().cpu().numpy().tobytes())


def _vocabulary(lm: LanguageModel) -> bytes:
    return "\n".join(sorted(lm.tokenizer.get_vocab())).encode()
