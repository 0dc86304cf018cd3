"""Digests that tell models apart: by their weights, and by their vocabulary.

Each function reads the weights as they are at that moment, so an edit changes the digest. Records
carry the digest of the unedited model; callers therefore take it before the first edit, or, to
recognise what a model was edited from, with the original matrices put back. It is not cached on the
model, because a cached digest would outlive an edit. Of large parameters only 512 to 1,023 values
are read, so asking again costs little.
"""

import hashlib
from collections.abc import Iterator

import torch

from .model import LanguageModel


def fingerprint(lm: LanguageModel) -> str:
    """Return 16 hexadecimal digits that identify the model as it is now, and its tokenizer.

    They depend on name, shape and at least 512 evenly spaced values of each parameter, and on the
    vocabulary.
    """
    digest = hashlib.sha256()
    for part in _weights(lm, torch.float32):
        digest.update(part)
    digest.update(_vocabulary(lm))
    return digest.hexdigest()[:16]


def identity(lm: LanguageModel) -> dict[str, str]:
    """Return separate digests of "model" and "tokenizer".

    That of the model is the same for weights in float32 and in bfloat16. In float16 it may differ,
    because numbers are rounded twice.
    """
    model = hashlib.sha256()
    for part in _weights(lm, torch.bfloat16):
        model.update(part)
    return {
        "model": model.hexdigest()[:16],
        "tokenizer": hashlib.sha256(_vocabulary(lm)).hexdigest()[:16],
    }


def _weights(lm: LanguageModel, dtype: torch.dtype) -> Iterator[bytes]:
    """Name and shape of each parameter, then evenly spaced values of it, rounded to `dtype`."""
    for name, parameter in lm.model.named_parameters():
        flat = parameter.detach().flatten()
        spread = flat[:: max(1, len(flat) // 512)].to(dtype)
        yield f"{name}{tuple(parameter.shape)}".encode()
        yield spread.float().cpu().numpy().tobytes()


def _vocabulary(lm: LanguageModel) -> bytes:
    return "\n".join(sorted(lm.tokenizer.get_vocab())).encode()
