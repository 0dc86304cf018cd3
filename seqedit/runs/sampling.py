"""Draws the requests that an intermediate evaluation measures."""

import random
from collections.abc import Sequence

from ..requests.request import EditRequest


def sample_by_round(
    rounds: Sequence[Sequence[EditRequest]], size: int, seed: int
) -> list[EditRequest]:
    """Draw requests without replacement, of each round as many as its share.

    Requests are put in a row, round after round and shuffled within each, and every k-th is taken
    from a random start. So every request has the same chance, means estimate those of all requests
    without bias, and a round of m of N requests gives m · size / N, rounded up or down.

    Args:
        rounds: the requests edited so far, by round.
        size: how many to draw; all are returned, in order, if there are no more.
        seed: of the run; the draw also depends on the number of rounds.

    Returns:
        The drawn requests in the order in which they were edited.

    Source:
        Systematic sampling from an ordered population, Cochran, Sampling Techniques (1977), ch. 8.
    """
    everything = [request for batch in rounds for request in batch]
    if size >= len(everything):
        return everything
    generator = random.Random(f"{seed}, round {len(rounds)}")
    row: list[int] = []  # indices in `everything`
    for batch in rounds:
        row += generator.sample(range(len(row), len(row) + len(batch)), len(batch))
    start = generator.randrange(len(everything))
    drawn = sorted(row[(start + i * len(everything)) // size] for i in range(size))
    return [everything[i] for i in drawn]
