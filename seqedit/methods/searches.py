"""Combinators that change what targets are searched for: neighbour-assisted, one per subject."""

from ..editing.contract import EditMethod
from .composing import changed, needs


def neighbour_assisted(base: EditMethod, neighbours: int = 2) -> EditMethod:
    """`base` with targets under which neighbours of the subject keep their object (2503.11895).

    Args:
        neighbours: how many neighbours of each request enter its loss.

    Source: 2503.11895, see `neighbour_rows` for the departures.

    Raises:
        ValueError: `base` finds no targets, or finds them for subjects instead of requests.
    """
    needs(base, "targets", "neighbour_assisted")
    if getattr(base, "merged", False):
        raise ValueError(
            f"neighbour_assisted({base.name}): give it a method without merge_subjects"
        )
    return changed(base, "+neighbours", neighbours=neighbours)


def merge_subjects(base: EditMethod) -> EditMethod:
    """`base` with one key and one target for all edits of a subject in a round (MEMIT-Merge).

    Source: MEMIT-Merge (2502.07322), see `optimise_joint_targets`.

    Raises:
        ValueError: `base` finds no targets, writes its requests in several steps, or has more in
            the loss of its targets or another end of their search.
    """
    needs(base, "targets", "merge_subjects")
    own = ("one_at_a_time", "passes", "patience", "both_ways", "neighbours")
    if in_the_way := [name for name in own if getattr(base, name, None)]:
        raise ValueError(
            f"merge_subjects({base.name}): give it a method that writes whole rounds in one sweep, "
            f"with the plain search of targets; in the way: {', '.join(in_the_way)}"
        )
    return changed(base, "+merged subjects", merged=True)
