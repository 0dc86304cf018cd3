"""Makes a file of second moments of released ones."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..algebra.second_moment import SecondMoment
from .files import check_finite, load_moments, save_moments


def import_released(paths: Sequence[Path], out: Path) -> dict[int, int]:
    """Write released second moments, one .npz file a layer, as one file of ours.

    Args:
        paths: see `read_npz`.
        out: the file to write.

    Returns:
        Layer → number of tokens.

    Raises:
        ValueError: a file is none of these, holds no second moment, or two are of one layer.
    """
    moments: dict[int, SecondMoment] = {}
    for path in paths:
        if path.suffix != ".npz":
            raise ValueError(f"moments: {path} is no .npz file; others are used as they are")
        loaded = load_moments(path)
        check_finite(path, loaded)
        ((layer, C),) = loaded.C.items()
        assert isinstance(C, Tensor)  # a released one is whole
        if layer in moments:
            raise ValueError(f"moments: {path} is the second file of layer {layer}; leave one out")
        moments[layer] = SecondMoment(len(C))
        moments[layer].count = loaded.counts[layer]
        moments[layer].sum = C.double() * loaded.counts[layer]
    save_moments(out, moments, about={"released": [path.name for path in paths]})
    return {layer: moment.count for layer, moment in moments.items()}
