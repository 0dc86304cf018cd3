"""Who can see that a model was edited? A comparison with the unedited one, fact by fact."""

import numpy as np

from .continuations import Ratings


def visibility(before: Ratings, after: Ratings) -> np.ndarray:
    """How far log p of each fact's true answer moved, up or down; mean over tokens, in nats."""
    return np.abs(after.nll - before.nll)


def detection(edited: np.ndarray, other: np.ndarray) -> float:
    """Probability that an edited fact moved further than another one: area under a detector's curve; ½ is blind.

    Args:
        edited, other: `visibility` of facts that were edited, and of others.
    """
    larger = (edited[:, None] > other[None]).mean() + (edited[:, None] == other[None]).mean() / 2
    return float(larger)
