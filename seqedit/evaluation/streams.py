"""What only a stream of edits can show: earlier targets that survive, facts that are back."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from ..lm.model import LanguageModel
from ..requests.request import EditRequest
from ..requests.streams import Stream
from .continuations import rate

Histories = list[list[EditRequest]]
Scores = dict[str, float]


def score_stream(lm: LanguageModel, stream: Stream, done: Sequence[EditRequest]) -> Scores:
    """Measure what belongs to a stream beside the scores of its current facts.

    "Exact" is the share after whose prompt every token of the target is the most probable one; more
    probable means the mean log-probability of a target's tokens.

    * `repeated`: for the facts edited k times, `facts_k`, `exact_k`, and `probability_k` of the
      target, a geometric mean over its tokens.
    * `contradictory`: for the facts that have been contradicted, `facts`; `earlier_survives`, the
      share for which an earlier target is more probable than the last one; `earlier_exact`; and
      `last_exact`.
    * `undone`: for the facts that have been undone, `facts`; `back`, the share for which the old
      object is more probable than the one that was written; `back_exact`; and `edit_exact`, the
      share that still answers with what was undone.
    * `same_subject`: `subjects` with several edits so far; `all_exact`, the share of them all of
      whose edits are exact; `first_exact` and `last_exact`, of their first and last edits.

    Args:
        lm: the edited model.
        stream: the stream that is being written.
        done: the edits made so far, in order.

    Returns:
        Metric → value; empty for requests without a stream, and what has no facts yet is left out.

    Source:
        Whether an earlier target survives is 1 minus the conflict score of 2310.02129; whether an
        undone fact is back is the converse of its distortion, in terms of the two targets alone.
    """
    if stream.name is None:
        return {}
    return SCORES[stream.name](lm, stream.history(done))


def _by_repetitions(lm: LanguageModel, histories: Histories) -> Scores:
    """Exactness and probability of the target by how often the fact was edited."""
    counts = np.array([len(edits) for edits in histories])
    nll, exact = _rate_targets(lm, [edits[-1:] for edits in histories])
    found: Scores = {}
    for count in sorted(set(counts.tolist())):
        own = counts == count
        found |= {
            f"facts_{count}": int(own.sum()),
            f"exact_{count}": float(exact[own, 0].mean()),
            f"probability_{count}": float(np.exp(-nll[own, 0]).mean()),
        }
    return found


def _earlier_targets(lm: LanguageModel, histories: Histories) -> Scores:
    """How often an earlier target of a contradicted fact survives."""
    preferred, last, earlier = _last_against_earlier(lm, histories)
    if not len(preferred):
        return {}
    return {
        "facts": len(preferred),
        "earlier_survives": float(1 - preferred.mean()),
        "earlier_exact": float(earlier.mean()),
        "last_exact": float(last.mean()),
    }


def _facts_that_are_back(lm: LanguageModel, histories: Histories) -> Scores:
    """How often the old object of an undone fact is back."""
    preferred, last, earlier = _last_against_earlier(lm, histories)
    if not len(preferred):
        return {}
    return {
        "facts": len(preferred),
        "back": float(preferred.mean()),
        "back_exact": float(last.mean()),
        "edit_exact": float(earlier.mean()),
    }


def _by_subject(lm: LanguageModel, histories: Histories) -> Scores:
    """Whether the edits of one subject hold together."""
    of_subject: dict[str, list[EditRequest]] = {}
    for edits in histories:
        of_subject.setdefault(edits[-1].subject, []).append(edits[-1])
    several = [own for own in of_subject.values() if len(own) > 1]
    if not several:
        return {}
    _, exact = _rate_targets(lm, several)  # (subjects, edits), False beyond a subject's last edit
    count = np.array([len(own) for own in several])
    return {
        "subjects": len(several),
        "all_exact": float((exact.sum(axis=1) == count).mean()),
        "first_exact": float(exact[:, 0].mean()),
        "last_exact": float(exact[np.arange(len(several)), count - 1].mean()),
    }


SCORES: dict[str, Callable[[LanguageModel, Histories], Scores]] = {
    "repeated": _by_repetitions,
    "contradictory": _earlier_targets,
    "same_subject": _by_subject,
    "undone": _facts_that_are_back,
}
"""Stream → what is measured of it, given the edits of each fact so far."""


def _last_against_earlier(
    lm: LanguageModel, histories: Histories
) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """For the n facts edited more than once: is the last target more probable than all earlier
    ones, is it exact, and is one of the earlier ones exact?
    """
    several = [edits for edits in histories if len(edits) > 1]
    if not several:
        none = np.zeros(0, dtype=bool)
        return none, none, none
    nll, exact = _rate_targets(lm, several)
    row, last = np.arange(len(several)), np.array([len(edits) - 1 for edits in several])
    of_last, last_exact = nll[row, last], exact[row, last]
    nll[row, last], exact[row, last] = np.inf, False
    return of_last < nll.min(axis=1), last_exact, exact.max(axis=1)


def _rate_targets(
    lm: LanguageModel, rows: Sequence[Sequence[EditRequest]]
) -> tuple[Float[np.ndarray, "n longest"], Bool[np.ndarray, "n longest"]]:
    """−log p of each request's new target and whether it is exact; shorter rows are filled up with
    infinity and False.
    """
    flat = [request for row in rows for request in row]
    ratings = rate(
        lm,
        [r.text for r in flat],
        [r.target_new for r in flat],
        separators=[r.joined_by for r in flat],
    )
    lengths = np.array([len(row) for row in rows])
    there = np.arange(lengths.max()) < lengths[:, None]
    nll, exact = np.full(there.shape, np.inf), np.zeros(there.shape, dtype=bool)
    nll[there], exact[there] = ratings.nll, ratings.correct
    return nll, exact
