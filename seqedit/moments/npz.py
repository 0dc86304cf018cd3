"""Reads second moments as ROME's and MEMIT's authors release them, one .npz file a layer."""

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

NUMBERED = re.compile(r"(?:^|[._])(?:layers|h|blocks|layer)[._](\d+)[._]")
"""Where a module's name, with which the file's begins, has its layer."""


def read_npz(path: Path) -> tuple[int, Float[Tensor, "d_ff d_ff"], int]:
    """Layer, C and number of tokens of a released file.

    The file holds Σ k kᵀ, not its mean: C is the sum divided by the count of the file.

    Raises:
        ValueError: the file's name does not say its layer, or it holds no sum with its count.

    Source:
        The released statistics of ROME (2202.05262) and MEMIT (2210.07229), `mom2.mom2` and
        `mom2.count` of names such as transformer.h.3.mlp.c_proj_float32_mom2_100000.npz.
    """
    found = NUMBERED.search(path.name)
    if not found:
        raise ValueError(
            f"moments: {path}: the name does not say the layer; keep the released one, such as "
            "transformer.h.3.mlp.c_proj_float32_mom2_100000.npz"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("mom2.mom2", "mom2.count") if name not in file]
            if missing:
                raise ValueError(f"it has no {' and no '.join(missing)}, but {', '.join(file)}")
            total, count = file["mom2.mom2"], file["mom2.count"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"moments: {path} cannot be read as released moments: {error}") from error
    number = count.dtype.kind in "iuf" and count.size == 1
    if not number or not np.isfinite(count).all() or int(count.item()) < 1:
        raise ValueError(
            f"moments: {path}: mom2.count is {count}, but the sum of some keys is meant"
        )
    if total.dtype.kind != "f":
        raise ValueError(f"moments: {path}: mom2.mom2 is of type {total.dtype}, no sum of keys")
    tokens = int(count.item())
    return int(found[1]), torch.from_numpy(total.astype(np.float32)) / tokens, tokens
