"""Where the names of paths are written in a figure."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def path_points(path: NDArray) -> NDArray:
    """Points along a path, (n, 2), close enough together that no name fits between two."""
    steps = np.linspace(0, 1, 60)[:, None]
    parts = [a + steps * (b - a) for a, b in itertools.pairwise(path)]
    return np.concatenate([np.repeat(path, 20, axis=0), *parts])  # marks weigh more than lines


def free_places(
    ends: Sequence[tuple[float, float, float]], line: float, drawn: NDArray
) -> list[tuple[float, float]]:
    """Where the names of ends begin, x and y, near each end and as little as possible on paths,
    on other names and outside the axes; to the right if there is a choice.

    Args:
        ends: x and y of each, and the width of its name, in percent.
        line: height of a name, in percent.
        drawn: points of all paths, (n, 2).
    """
    placed: list[tuple[float, float, float]] = []
    for left, top, width in ends:
        found = []
        starts = (left + 3, left - width / 2, left - 3 - width)
        for (side, start), step in itertools.product(enumerate(starts), range(-8, 9)):
            y, stop = top + step * line / 2, start + width
            inside = (drawn[:, 0] > start - 1) & (drawn[:, 0] < stop + 1)
            inside &= abs(drawn[:, 1] - y) < 0.6 * line
            others = sum(
                abs(other - y) < 1.1 * line and start < end and begin < stop
                for begin, end, other in placed
            )
            beyond = start < 1 or stop > 103 or not line / 2 < y < 100
            bad = 100 * beyond + 50 * others + inside.sum() + 2 * (abs(step) + side)
            found.append((bad, start, y))
        _, start, y = min(found)
        placed.append((start, start + width, y))
    return [(start, y) for start, _, y in placed]
