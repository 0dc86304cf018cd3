"""The type of a model's weights, where "auto" was asked for."""

from pathlib import Path

import torch

from ..base.paths import MODEL, find_model

NATIVE = ("avx512_bf16", "amx_bf16")
"""Instructions by which a CPU multiplies bfloat16; without them it converts, and loses time."""


def choose_dtype(asked: str, model: str | Path, device: str = "auto") -> str:
    """The name of a type of weights; "auto" becomes bfloat16 where that is faster, else float32.

    It is faster where the device multiplies it natively. The embedded model, which is small, stays
    in float32, as in all records of the book.

    Args:
        asked: "auto", or the name of a type, which is returned as it is.
        model: as `load_model` takes it.
        device: likewise.
    """
    if asked != "auto":
        return asked
    embedded = Path(find_model(model)).resolve() == MODEL.resolve()
    return "bfloat16" if not embedded and native_bfloat16(device) else "float32"


def native_bfloat16(device: str) -> bool:
    """Whether a device has instructions of its own for products in bfloat16.

    Args:
        device: as `load_model` takes it.
    """
    on_gpu = torch.cuda.is_available() if device in ("auto", "spread") else device != "cpu"
    if on_gpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(n) for n in NATIVE)
