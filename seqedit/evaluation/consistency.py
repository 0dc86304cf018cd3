"""Does the model write about the new object? Generated text compared with reference texts about it."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..requests.request import EditRequest

SNIPPETS, VOCABULARY, IDF = "attribute_snippets.json", "tfidf_vocab.json", "idf.npy"
"""Files of CounterFact's authors; the last two are used where they lie beside the first."""


@dataclass(frozen=True)
class References:
    """Reference texts and how texts become vectors.

    Attributes:
        texts: (relation, object) → texts about subjects that have the object; objects by `target_new_id`, or by their
            words where there is no identifier.
        vectorizer: scikit-learn's, fitted.
        vocabulary: "released" (CounterFact's fixed words and weights) or "fitted" to the reference texts.
    """

    texts: Mapping[tuple[str, str], Sequence[str]]
    vectorizer: Any
    vocabulary: str

    def of(self, request: EditRequest) -> Sequence[str]:
        """Texts about the request's new object; none where there are none."""
        for target in (request.target_new_id, request.target_new):
            if found := self.texts.get((request.relation_id, target)):
                return found
        return ()


def load_references(
    path: Path | str, templates: Mapping[str, Sequence[str]] | None = None
) -> References:
    """Reference texts of a file in the schema of CounterFact's attribute_snippets.json, or of a world's facts.jsonl.

    The snippets are a list of {"relation_id", "target_id", "samples": [{"text", …}, …]}.

    Args:
        templates: relation → templates with "{}" for the subject, that end before the object; needed for a world's
            facts, which become sentences by them.

    Raises:
        ValueError: the file or one beside it cannot be read or has another shape; the message names it.
    """
    path = Path(path)
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    try:
        if path.suffix == ".jsonl":
            _facts(path, templates or {}, texts)
        else:
            for entry in json.loads(path.read_text(encoding="utf-8")):
                texts[entry["relation_id"], entry["target_id"]] += [
                    sample["text"] for sample in entry["samples"]
                ]
    except (OSError, ValueError) as error:
        raise ValueError(f"references: {path} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"references: {path}: expected {SNIPPETS}'s list of {{relation_id, target_id, samples: "
            f"[{{text}}]}}, or a world's facts.jsonl"
        ) from error
    if not any(texts.values()):
        raise ValueError(f"references: {path} holds no texts")
    return References(dict(texts), *_vectorizer(path.parent, texts))


def consistency(
    texts: Sequence[str],
    owners: Sequence[int],
    requests: Sequence[EditRequest],
    references: References,
) -> tuple[float | None, int]:
    """Mean cosine between TF-IDF vectors of each request's generated texts, joined, and its references, joined.

    CounterFact's tables print it × 100.

    Args:
        texts: generated texts; owners: the index in `requests` of each.

    Returns:
        The mean over requests that have references, None where none has; and how many have.

    Source: ROME (2202.05262) §3.4, "reference score"; cosines by scikit-learn's TfidfVectorizer.
    """
    known = [i for i, request in enumerate(requests) if references.of(request)]
    if not known:
        return None, 0
    own = [
        " ".join(text for text, owner in zip(texts, owners, strict=True) if owner == i)
        for i in known
    ]
    reference = [" ".join(references.of(requests[i])) for i in known]
    left, right = (
        references.vectorizer.transform(own),
        references.vectorizer.transform(reference),
    )  # rows of length 1
    return float(np.mean(left.multiply(right).sum(axis=1))), len(known)


def _facts(
    path: Path, templates: Mapping[str, Sequence[str]], texts: dict[tuple[str, str], list[str]]
) -> None:
    """A sentence by each template for every fact of a world."""
    for line in path.read_text(encoding="utf-8").splitlines():
        fact = json.loads(line)
        texts[fact["relation"], fact["object"]] += [
            f"{template.format(fact['subject'])} {fact['object']}."
            for template in templates[fact["relation"]]
        ]


def _vectorizer(folder: Path, texts: Mapping[tuple[str, str], Sequence[str]]) -> tuple[Any, str]:
    """The released vocabulary and weights where both lie in `folder`, else those of the texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not ((folder / VOCABULARY).is_file() and (folder / IDF).is_file()):
        return TfidfVectorizer().fit([" ".join(own) for own in texts.values()]), "fitted"
    try:
        vectorizer = TfidfVectorizer(
            vocabulary=json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        )
        vectorizer.idf_ = np.load(folder / IDF, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"references: {folder / VOCABULARY} and {IDF} do not fit together: {error}"
        ) from error
    return vectorizer, "released"
