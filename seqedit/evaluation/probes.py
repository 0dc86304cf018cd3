"""Probes: the prompts on which edits are measured, and which of them ask for an edited fact.

A probe that asks whether a fact has stayed as it was is no probe of damage once that fact has been
edited on purpose. It is left out, counted and reported.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ..lm.model import LanguageModel
from ..lm.validation import longest
from ..requests.request import EditRequest
from .continuations import rate


@dataclass(frozen=True)
class Kind:
    """A kind of prompts on which edits are measured.

    Attributes:
        prompts: request → its prompts of this kind.
        right: the target that counts as right after these prompts once the edit is made.
        protects: the prompts ask for facts of the request's relation that edits must not change;
            those whose fact was edited too are left out.
    """

    prompts: Callable[[EditRequest], tuple[str, ...]]
    right: Literal["new", "true"]
    protects: bool = False


KINDS = {
    "efficacy": Kind(lambda request: (request.text,), right="new"),
    "paraphrase": Kind(lambda request: request.paraphrase_prompts, right="new"),
    "neighborhood": Kind(lambda request: request.neighborhood_prompts, right="true", protects=True),
}
"""The kinds of prompts that are always measured."""


def _after_the_edit(request: EditRequest) -> tuple[str, ...]:
    """The neighbourhood prompts with the edited fact as a sentence in front."""
    statement = request.continued(request.text, request.target_new) + "."
    return tuple(request.continued(statement, prompt) for prompt in request.neighborhood_prompts)


EXTRA_KINDS = {
    "attribute": Kind(lambda request: request.attribute_prompts, right="new", protects=True),
    "negated": Kind(lambda request: request.negated_prompts, right="new"),
    "neighborhood_plus": Kind(_after_the_edit, right="true", protects=True),
    "distracting": Kind(
        lambda request: request.distracting_neighborhood_prompts, right="true", protects=True
    ),
}
"""The kinds that are measured on request only.

* `attribute` prompts ask for the relation of other subjects that have the new object anyway.
* `negated` prompts deny the fact, so that the new object, which counts as "right" here, is wrong
  after them: the lower the better (2510.00625).
* `neighborhood_plus`: neighbourhood prompts after the edited fact as a sentence, CounterFact+
  (2305.17553).
* `distracting`: such prompts as the record has them, in EasyEdit's files.
"""


def long_after_the_edit(lm: LanguageModel, requests: Sequence[EditRequest]) -> list[str]:
    """A message for each neighbourhood prompt that is too long after the edited fact.

    It is left out of `neighborhood_plus` alone.
    """
    return [
        f"case_id {request.case_id!r}: neighborhood_plus[{i}]: left out, because the prompt and "
        f"the edited fact have {length} tokens with the answer and the model {lm.max_positions} "
        "positions"
        for request in requests
        for i, prompt in enumerate(_after_the_edit(request))
        if (length := longest(lm, request, prompt)) > lm.max_positions
    ]


def find_extra_kinds(names: Sequence[str]) -> dict[str, Kind]:
    """The extra kinds of these names.

    Raises:
        ValueError: there is no kind of one of the names; the message lists those there are.
    """
    for name in names:
        if name not in EXTRA_KINDS:
            raise ValueError(
                f"measures: there is no kind of prompts {name!r}; beside {', '.join(KINDS)} there "
                f"are {', '.join(EXTRA_KINDS)}"
            )
    return {name: EXTRA_KINDS[name] for name in names}


class EditedFacts:
    """The facts that have been edited so far.

    Args:
        requests: the edits.
    """

    def __init__(self, requests: Iterable[EditRequest]):
        self._texts: set[str] = set()
        # relation, or None for any, and first word of a subject → the words of all such subjects
        self._subjects: dict[tuple[str | None, str], set[tuple[str, ...]]] = defaultdict(set)
        for request in requests:
            asked = (request.text, *request.paraphrase_prompts)
            self._texts.update(folded(text.rstrip()) for text in asked)
            if words := _words(request.subject):
                for relation in {request.relation_id, None}:  # None: whatever the relation
                    self._subjects[relation, words[0]].add(words)

    def asked_by(self, prompt: str, relation_id: str | None) -> bool:
        """Whether a prompt asks for one of the facts.

        It does if it is the prompt of an edit or one of its paraphrases, or if it holds the subject
        of an edit of the same relation as whole words; whatever the case and the accents.

        Args:
            prompt: with its subject filled in.
            relation_id: the relation that the prompt asks for, if it is known.
        """
        if folded(prompt.rstrip()) in self._texts:
            return True
        return relation_id is not None and self._names_subject(prompt, relation_id)

    def are_about(self, prompt: str) -> bool:
        """Whether a prompt names the subject of an edit of any relation, as whole words."""
        return self._names_subject(prompt, None)

    def _names_subject(self, prompt: str, relation_id: str | None) -> bool:
        words = _words(prompt)
        return any(
            words[i : i + len(subject)] == subject
            for i, word in enumerate(words)
            for subject in self._subjects.get((relation_id, word), ())
        )


def folded(text: str) -> str:
    """A text without case and accents."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", folded(text)))


def measure_prompts(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    kinds: dict[str, Kind],
    edited: EditedFacts,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure every prompt of the given kinds; one row per prompt.

    Returns:
        Columns `request` (its index), `kind`, `left_out` (the prompt asks for an edited fact that
        it should find unchanged, or is too long after the edited one), the measures `success`,
        `accuracy` and `tokens` (see `seqedit.evaluation.edits.score_edits`), `nll` of the new
        target and `top`, the most probable token after the prompt.
    """
    owners: list[int] = []
    names: list[str] = []
    left_out: list[bool] = []
    new: list[int] = []  # row of the new target in `texts` and `targets`
    true: list[int] = []  # row of the true target; 0, and `has_true` False, if there is none
    texts: list[str] = []
    targets: list[str] = []
    separators: list[str] = []
    for i, request in enumerate(requests):
        for name, kind in kinds.items():
            plain = request.neighborhood_prompts if name == "neighborhood_plus" else None
            for j, prompt in enumerate(kind.prompts(request)):
                owners.append(i)
                names.append(name)
                asked = plain[j] if plain else prompt  # without the statement in front
                if name == "distracting":
                    asked = prompt.rpartition(". ")[2]
                out = kind.protects and edited.asked_by(asked, request.relation_id)
                if plain and longest(lm, request, prompt) > lm.max_positions:
                    prompt, out = asked, True  # which can be read, and counts no more than this one
                left_out.append(out)
                new.append(len(texts))
                texts.append(prompt)
                targets.append(request.target_new)
                true.append(len(texts) if request.target_true is not None else 0)
                if request.target_true is not None:
                    texts.append(prompt)
                    targets.append(request.target_true)
                separators += [request.joined_by] * (len(texts) - len(separators))
    ratings = rate(lm, texts, targets, separators=separators, progress=progress)
    has_true = np.array([requests[i].target_true is not None for i in owners], dtype=bool)
    true_is_right = np.array([kinds[name].right == "true" for name in names], dtype=bool)

    def of_true(values: np.ndarray) -> np.ndarray:
        return np.where(has_true, values[true].astype(float), np.nan)

    def of_right(values: np.ndarray) -> np.ndarray:
        return np.where(true_is_right, of_true(values), values[new].astype(float))

    margin = of_true(ratings.nll) - ratings.nll[new]  # > 0: the new target is more probable
    success = np.where(true_is_right, margin < 0, margin > 0).astype(float)
    return pd.DataFrame(
        {
            "request": owners,
            "kind": names,
            "left_out": np.array(left_out, dtype=bool),
            "success": np.where(np.isnan(margin), np.nan, success),
            "accuracy": of_right(ratings.correct),
            "tokens": of_right(ratings.share),
            "nll": ratings.nll[new],
            "top": ratings.top[new],
        }
    )


def outcome_digits(
    success: Sequence[float] | np.ndarray,
    accuracy: Sequence[float] | np.ndarray,
    left_out: Sequence[bool] | np.ndarray,
) -> str:
    """Write the outcomes of a request's probes of one kind, one character per probe.

    Returns:
        "0" neither; "1" success only, the right target is the more probable one; "2" accuracy only,
        every token of the right target is the most probable one; "3" both; "." left out. A measure
        that is not defined counts as not reached.
    """
    return "".join(
        "." if out else str((s == 1) + 2 * (a == 1))
        for s, a, out in zip(success, accuracy, left_out, strict=True)
    )
