"""Refuses token ids for which a model has no row of its embedding."""

from collections.abc import Iterable, Sequence
from typing import Any

from .model import LanguageModel


def check_ids(lm: LanguageModel, rows: Iterable[Sequence[int]], where: str) -> None:
    """Check that the embedding has a row for every token.

    A tokenizer may know special tokens that no text should hold, beyond the embedding (those for
    images of Gemma 3); all others are refused when the model is loaded.

    Args:
        lm: the model.
        rows: token ids of texts.
        where: what the texts are, for the message.

    Raises:
        ValueError: a token has no row; the message names it.
    """
    embedding: Any = lm.model.get_input_embeddings()
    size = embedding.weight.shape[0]
    largest = max((max(row, default=0) for row in rows), default=0)
    if largest >= size:
        token = lm.tokenizer.convert_ids_to_tokens(largest)
        raise ValueError(
            f"{where}: the token {token!r} (id {largest}) has no row among the {size} of the "
            "model's embedding; leave it out of the text"
        )
