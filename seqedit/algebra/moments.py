"""The uncentred second moment of keys, streamed, merged, saved and loaded."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import save_tensors
from .compact import CompactMoment

CHUNK = 16_384
"""Keys of one float32 product, the whole of an ordinary batch. Its round-off is 1.4e-7 of ‖C‖; with 4,096 keys it is
4e-8, at a quarter of the memory (4·d_ff bytes a key) and 7 % more time (measured at d_ff = 1,536, one CPU core)."""


class SecondMoment:
    """Running Σ k kᵀ and count of the keys of one layer, in float64.

    Attributes:
        count: number of keys seen.
        sum: Σ k kᵀ, (d_ff, d_ff).
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.sum = torch.zeros(size, size, dtype=torch.float64, device=device)

    def update(self, keys: Tensor, chunk: int = CHUNK) -> None:
        """Add keys (n, d_ff); products run in float32 on `chunk` keys, the sum in float64."""
        for part in keys.split(chunk):
            part = part.float()
            self.sum += part.T @ part
        self.count += len(keys)

    def merge(self, other: "SecondMoment") -> None:
        """Add what another accumulator has seen, as if it had been seen here."""
        self.sum += other.sum
        self.count += other.count

    @property
    def mean(self) -> Tensor:
        """C = Σ k kᵀ / count, (d_ff, d_ff); the mean per token, not the sum."""
        if not self.count:
            raise ValueError("no keys were seen: C = sum / count needs at least one")
        return self.sum / self.count


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


def top_eigenvalues(C: Float[Tensor, "d_ff d_ff"], k: int = 10, sweeps: int = 20) -> list[float]:
    """The largest eigenvalues, descending, by subspace iteration: a few products instead of a decomposition.

    They are Rayleigh quotients, so never too large, and small by as much as the spectrum hesitates to decay.
    """
    width = min(3 * k, len(C))
    start = torch.randn(len(C), width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    C, basis = C.double(), start.to(C.device)
    for _ in range(sweeps):
        basis = torch.linalg.qr(C @ basis)[0]
    return torch.linalg.eigvalsh(basis.T @ C @ basis).flip(0)[:k].tolist()


def save_moments(path: Path, moments: dict[int, SecondMoment], *, fingerprint: str | None = None,
                 dtype: torch.dtype = torch.float32, about: dict[str, Any] | None = None) -> None:
    """Write `C.<layer>` (means) atomically; counts, traces, largest eigenvalues and origin as metadata.

    Args:
        about: see `Moments`.
    """
    C = {layer: m.mean for layer, m in moments.items()}
    metadata = {"counts": json.dumps({layer: m.count for layer, m in moments.items()}),
                "traces": json.dumps({layer: mean.trace().item() for layer, mean in C.items()}),
                "top_eigenvalues": json.dumps({layer: top_eigenvalues(mean) for layer, mean in C.items()})}
    _save(path, {f"C.{layer}": mean.to(dtype) for layer, mean in C.items()}, metadata, fingerprint, about)


def save_compact(path: Path, compact: dict[int, CompactMoment], source: Moments,
                 dtype: torch.dtype = torch.float32) -> None:
    """Write compact moments, with the counts and the origin of those that they were made of."""
    tensors = {f"{name}.{layer}": tensor.to(dtype if name == "vectors" else torch.float64)
               for layer, m in compact.items() for name, tensor in m.tensors().items()}
    counts = {layer: n for layer, n in source.counts.items() if layer in compact}
    _save(path, tensors, {"counts": json.dumps(counts)}, source.fingerprint, source.about)


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], fingerprint: str | None,
          about: dict[str, Any] | None) -> None:
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
                int(name[2:]): file.get_tensor(name) for name in names if name.startswith("C.")}
            for name in names:
                if name.startswith("vectors."):
                    layer = int(name.removeprefix("vectors."))
                    C[layer] = CompactMoment(**{part: file.get_tensor(f"{part}.{layer}")
                                                for part in ("values", "vectors", "rest", "floor")})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as second moments: {error}") from error
    if not C:
        raise ValueError(f"{path} holds no tensor named C.<layer>; make one with `seqedit moments`")
    counts = {int(layer): n for layer, n in json.loads(metadata.get("counts", "{}")).items()}
    return Moments(C, metadata.get("fingerprint"), counts, json.loads(metadata.get("about", "{}")))
