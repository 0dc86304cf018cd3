"""Detection: can edited facts be told from others by comparing the model with the unedited one?"""

import numpy as np

from .continuations import Ratings


def visibility(before: Ratings, after: Ratings) -> np.ndarray:
    """How far log p of each fact's true answer moved, up or down.

    Args:
        before: ratings of the true answers by the unedited model.
        after: ratings of the same answers by the edited one.

    Returns:
        Absolute differences of the mean over tokens, in nats; (n,).
    """
    return np.abs(after.nll - before.nll)


def detection(edited: np.ndarray, other: np.ndarray) -> float:
    """The probability that an edited fact moved further than another one; ties count half.

    It is the area under the ROC curve of a detector that compares models; ½ is chance.

    Args:
        edited: `visibility` of facts that were edited, (n,).
        other: `visibility` of other facts, (m,).
    """
    larger = (edited[:, None] > other[None]).mean() + (edited[:, None] == other[None]).mean() / 2
    return float(larger)
