"""The uncentred second moment of keys: accumulated in batches and merged."""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 16_384
"""Number of keys in one float32 product; an ordinary batch fits into it.

Its round-off is 1.4e-7 of ‖C‖. With 4,096 keys it is 4e-8, at a quarter of the memory (4·d_ff bytes
per key) and 7 % more time (measured at d_ff = 1,536 on one CPU core).
"""


class SecondMoment:
    """Running sum of k kᵀ over the keys of one layer, in float64, and their number.

    Args:
        size: d_ff, the length of a key.
        device: where the sum is kept.

    Attributes:
        count: number of keys seen.
        sum: Σ k kᵀ, (d_ff, d_ff).
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.sum = torch.zeros(size, size, dtype=torch.float64, device=device)

    def update(self, keys: Float[Tensor, "n d_ff"], chunk: int = CHUNK) -> None:
        """Add keys; products of `chunk` keys run in float32, the sum in float64."""
        for part in keys.split(chunk):
            self.sum += _gram(part)
        self.count += len(keys)

    def merge(self, other: "SecondMoment") -> None:
        """Add the keys that another accumulator has seen."""
        self.sum += other.sum
        self.count += other.count

    @property
    def mean(self) -> Float[Tensor, "d_ff d_ff"]:
        """C = Σ k kᵀ / count, the mean over keys.

        Raises:
            ValueError: no keys were seen.
        """
        if not self.count:
            raise ValueError("no keys were seen: C = sum / count needs at least one")
        return self.sum / self.count


def _gram(keys: Float[Tensor, "n d_ff"]) -> Float[Tensor, "d_ff d_ff"]:
    """Σ k kᵀ in float32.

    A GPU multiplies keys in half precision an order of magnitude faster without widening them
    first. Products of two such numbers are exact in float32, in which they are summed either way;
    the sum is then right to a few 1e-6 (`tests/test_gpu.py`).
    """
    if keys.is_cuda and keys.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(keys.T, keys, out_dtype=torch.float32)
    keys = keys.float()
    return keys.T @ keys


def top_eigenvalues(C: Float[Tensor, "d_ff d_ff"], k: int = 10, sweeps: int = 20) -> list[float]:
    """Estimate the k largest eigenvalues of C, descending, by subspace iteration.

    A few products with C replace an eigendecomposition. The estimates are Rayleigh quotients, so
    none exceeds the eigenvalue it stands for; the slower the spectrum decays, the further below it
    lies.

    Args:
        C: symmetric positive semi-definite.
        k: number of eigenvalues; the iteration uses 3k vectors.
        sweeps: number of products with C.
    """
    width = min(3 * k, len(C))
    start = torch.randn(
        len(C), width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    C, basis = C.double(), start.to(C.device)
    for _ in range(sweeps):
        basis = torch.linalg.qr(C @ basis)[0]  # (d_ff, 3k)
    return torch.linalg.eigvalsh(basis.T @ C @ basis).flip(0)[:k].tolist()
