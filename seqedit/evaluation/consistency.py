"""Consistency: does generated text resemble reference texts about the new object?"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.jsonl import read_jsonl
from ..requests.request import EditRequest

SNIPPETS, VOCABULARY, IDF = "attribute_snippets.json", "tfidf_vocab.json", "idf.npy"
"""Files of CounterFact's authors; the last two are used if they are in the folder of the first."""


@dataclass(frozen=True)
class References:
    """Reference texts and the vectoriser that compares texts with them.

    Attributes:
        texts: (relation, object) → texts about subjects that have the object. The object is given
            by its `target_new_id`, or by its words if it has no identifier.
        vectorizer: scikit-learn's TfidfVectorizer, fitted.
        vocabulary: "released" (CounterFact's fixed words and weights) or "fitted" to the texts.
    """

    texts: Mapping[tuple[str, str], Sequence[str]]
    vectorizer: Any
    vocabulary: str

    def for_request(self, request: EditRequest) -> Sequence[str]:
        """The texts about the request's new object; empty if there are none."""
        for target in (request.target_new_id, request.target_new):
            if request.relation_id is not None and target is not None:
                if found := self.texts.get((request.relation_id, target)):
                    return found
        return ()


def load_references(
    path: Path | str, templates: Mapping[str, Sequence[str]] | None = None
) -> References:
    """Load reference texts and prepare their vectoriser.

    Args:
        path: a file in the schema of CounterFact's attribute_snippets.json, a list of
            {"relation_id", "target_id", "samples": [{"text", …}, …]}; or a world's facts.jsonl.
        templates: for a world's facts, relation → templates that make sentences of them. Each has
            "{}" for the subject and ends before the object.

    Raises:
        ValueError: the file or one beside it cannot be read or has another shape; the message
            names it.
    """
    path = Path(path)
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    try:
        if path.suffix == ".jsonl":
            _add_facts(texts, path, templates or {})
        else:
            for entry in json.loads(path.read_text(encoding="utf-8-sig")):
                texts[entry["relation_id"], entry["target_id"]] += [
                    sample["text"] for sample in entry["samples"]
                ]
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"references: {path} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"references: {path}: expected {SNIPPETS}'s list of {{relation_id, target_id, "
            f"samples: [{{text}}]}}, or a world's facts.jsonl"
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
    """Mean cosine between the TF-IDF vectors of generated texts and of reference texts.

    All generated texts of a request are joined to one, and so are its references. CounterFact's
    tables print the mean × 100.

    Args:
        texts: generated texts.
        owners: the index in `requests` of each text.
        requests: the requests that the texts were generated for.
        references: from `load_references`.

    Returns:
        The mean over the requests that have references, None if none has; and their number.

    Source:
        ROME (2202.05262) §3.4, "reference score"; cosines by scikit-learn's TfidfVectorizer.
    """
    known = [i for i, request in enumerate(requests) if references.for_request(request)]
    if not known:
        return None, 0
    own = []
    for i in known:
        own.append(" ".join(text for text, at in zip(texts, owners, strict=True) if at == i))
    reference = [" ".join(references.for_request(requests[i])) for i in known]
    left = references.vectorizer.transform(own)  # rows of length 1, (requests, words)
    right = references.vectorizer.transform(reference)
    return float(np.mean(left.multiply(right).sum(axis=1))), len(known)


def _add_facts(
    texts: dict[tuple[str, str], list[str]], path: Path, templates: Mapping[str, Sequence[str]]
) -> None:
    """Add a sentence by each template for every fact of a world's facts.jsonl."""
    for fact in read_jsonl(path):
        texts[fact["relation"], fact["object"]] += [
            f"{template.format(fact['subject'])} {fact['object']}."
            for template in templates[fact["relation"]]
        ]


def _vectorizer(folder: Path, texts: Mapping[tuple[str, str], Sequence[str]]) -> tuple[Any, str]:
    """A vectoriser with the released vocabulary if its files are in `folder`, else a fitted one."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not ((folder / VOCABULARY).is_file() and (folder / IDF).is_file()):
        return TfidfVectorizer().fit([" ".join(own) for own in texts.values()]), "fitted"
    try:
        vectorizer = TfidfVectorizer(
            vocabulary=json.loads((folder / VOCABULARY).read_text(encoding="utf-8-sig"))
        )
        vectorizer.idf_ = np.load(folder / IDF, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"references: {folder / VOCABULARY} and {IDF} do not fit together: {error}"
        ) from error
    return vectorizer, "released"
