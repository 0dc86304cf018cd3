"""Recognises the embedded model, which comes with its world, second moments and tuned settings."""

import json

from ..base.paths import MODEL
from ..lm.fingerprint import identity
from ..lm.model import LanguageModel


def is_embedded(lm: LanguageModel) -> bool:
    """Say whether a loaded model is the shipped one, wherever its folder lies.

    The digests of weights and vocabulary decide, so that a copy is recognised, also one that
    `save_pretrained` wrote, and so that it makes no difference in which precision the model was
    loaded. A model that has been edited is not recognised: ask before editing.
    """
    return identity(lm) == shipped_identity()


def shipped_identity() -> dict[str, str] | None:
    """Return the digests that training wrote beside the shipped weights; None without a model."""
    path = MODEL / "training.json"
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8")).get("identity")
