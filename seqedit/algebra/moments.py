"""The uncentred second moment of keys, streamed, merged, saved and loaded."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import save_tensors


class SecondMoment:
    """Running Σ k kᵀ and count of the keys of one layer, in float64.

    Attributes:
        count: number of keys seen.
        sum: Σ k kᵀ, (d_ff, d_ff).
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.sum = torch.zeros(size, size, dtype=torch.float64, device=device)

    def update(self, keys: Tensor) -> None:
        """Add keys (n, d_ff); the product runs in float32 on the batch, the sum in float64."""
        keys = keys.float()
        self.sum += (keys.T @ keys).double()
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
        C: layer → (d_ff, d_ff).
        fingerprint: of the model they were read from, None when the file does not say.
        counts: layer → number of tokens, empty when the file does not say.
    """

    C: dict[int, Tensor]
    fingerprint: str | None = None
    counts: dict[int, int] = field(default_factory=dict)


def save_moments(path: Path, moments: dict[int, SecondMoment], *, fingerprint: str | None = None,
                 dtype: torch.dtype = torch.float32) -> None:
    """Write `C.<layer>` (means) with counts and the model's fingerprint as metadata, atomically."""
    metadata = {"counts": json.dumps({layer: m.count for layer, m in moments.items()})}
    if fingerprint:
        metadata["fingerprint"] = fingerprint
    save_tensors(path, {f"C.{layer}": m.mean.to(dtype).cpu() for layer, m in moments.items()}, metadata)


def load_moments(path: Path) -> Moments:
    """Read a file of `C.<layer>` tensors; metadata is optional.

    Raises:
        ValueError: not a safetensors file, or it has no `C.<layer>`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            C = {int(name[2:]): file.get_tensor(name) for name in file.keys() if name.startswith("C.")}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as second moments: {error}") from error
    if not C:
        raise ValueError(f"{path} holds no tensor named C.<layer>; make one with `seqedit moments`")
    counts = {int(layer): n for layer, n in json.loads(metadata.get("counts", "{}")).items()}
    return Moments(C, metadata.get("fingerprint"), counts)
