"""Second moments of a model in a file: saved and loaded."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..algebra.compact import CompactMoment
from ..algebra.second_moment import SecondMoment, top_eigenvalues
from ..base.files import save_tensors


@dataclass(frozen=True)
class Moments:
    """Second moments of a model as loaded from a file.

    Attributes:
        C: layer → (d_ff, d_ff), or its compact form.
        fingerprint: of the model they were read from, None when the file does not say.
        counts: layer → number of tokens, empty when the file does not say.
        about: what else the file says of their origin: digests of "model" and "tokenizer", "corpus", "reading".
    """

    C: dict[int, Tensor | CompactMoment]
    fingerprint: str | None = None
    counts: dict[int, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def save_moments(
    path: Path,
    moments: dict[int, SecondMoment],
    *,
    fingerprint: str | None = None,
    dtype: torch.dtype = torch.float32,
    about: dict[str, Any] | None = None,
) -> None:
    """Write `C.<layer>` (means) atomically; counts, traces, largest eigenvalues and origin as metadata.

    Args:
        about: see `Moments`.
    """
    C = {layer: m.mean for layer, m in moments.items()}
    metadata = {
        "counts": json.dumps({layer: m.count for layer, m in moments.items()}),
        "traces": json.dumps({layer: mean.trace().item() for layer, mean in C.items()}),
        "top_eigenvalues": json.dumps({layer: top_eigenvalues(mean) for layer, mean in C.items()}),
    }
    _save(
        path,
        {f"C.{layer}": mean.to(dtype) for layer, mean in C.items()},
        metadata,
        fingerprint,
        about,
    )


def save_compact(
    path: Path,
    compact: dict[int, CompactMoment],
    source: Moments,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write compact moments, with the counts and the origin of those that they were made of."""
    tensors = {
        f"{name}.{layer}": tensor.to(dtype if name == "vectors" else torch.float64)
        for layer, m in compact.items()
        for name, tensor in m.tensors().items()
    }
    counts = {layer: n for layer, n in source.counts.items() if layer in compact}
    _save(path, tensors, {"counts": json.dumps(counts)}, source.fingerprint, source.about)


def _save(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    fingerprint: str | None,
    about: dict[str, Any] | None,
) -> None:
    metadata |= {"fingerprint": fingerprint} if fingerprint else {}
    metadata |= {"about": json.dumps(about)} if about else {}
    save_tensors(path, tensors, metadata)


def load_moments(path: Path) -> Moments:
    """Read a file of `C.<layer>` tensors, or of compact moments; metadata is optional.

    Raises:
        ValueError: not a safetensors file, or it holds neither.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            C: dict[int, Tensor | CompactMoment] = {
                int(name[2:]): file.get_tensor(name) for name in names if name.startswith("C.")
            }
            for name in names:
                if name.startswith("vectors."):
                    layer = int(name.removeprefix("vectors."))
                    C[layer] = CompactMoment(
                        **{
                            part: file.get_tensor(f"{part}.{layer}")
                            for part in ("values", "vectors", "rest", "floor")
                        }
                    )
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as second moments: {error}") from error
    if not C:
        raise ValueError(f"{path} holds no tensor named C.<layer>; make one with `seqedit moments`")
    counts = {int(layer): n for layer, n in json.loads(metadata.get("counts", "{}")).items()}
    return Moments(C, metadata.get("fingerprint"), counts, json.loads(metadata.get("about", "{}")))
