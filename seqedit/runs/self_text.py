"""Text that a model writes itself, to compute second moments from where no corpus is at hand."""

from pathlib import Path

import torch
from tqdm import tqdm

from ..base.files import cache_folder, write_text
from ..evaluation.generation import generate
from ..lm.fingerprint import fingerprint
from ..lm.model import LanguageModel
from ..lm.weights import read_weight

SELF = Path("self")
"""What stands for a corpus that the model writes itself (`--corpus self`)."""

STARTS = (
    *("The", "In", "A", "It", "When", "This", "For", "He", "She", "They", "We", "There"),
    *("As", "After", "At", "On", "Many", "One", "How", "If", "From", "By", "Most", "During"),
)
"""Words with which the texts begin, in turn."""

LENGTH = 384
"""Tokens of a text, unless the model has fewer positions."""

TOGETHER = 8
"""Texts that are written together; others would give other texts."""

BUDGET = 10
"""Tokens of all texts, in multiples of d_ff.

Source:
    2506.04226, by which 2 to 10 tokens for each entry of a key are enough.
"""


MEASURED = 4096
"""Tokens of the model's own text whose perplexity is measured, about; its seed is 1, so that it is
not the text of second moments.
"""


def measured_text(lm: LanguageModel, given: Path | None) -> Path | None:
    """The file whose perplexity is measured: the given one, or for "self" the model's own text.

    Args:
        lm: the unedited model.
        given: file, or `SELF`; None if nothing is measured.
    """
    return self_text(lm, MEASURED, seed=1) if given == SELF else given


def self_text(lm: LanguageModel, tokens: int | None = None, seed: int = 0) -> Path:
    """Let the model write texts, one a line, into a file of the cache; return the file.

    Tokens are drawn at temperature 1, from one-word starts on; only the end token is never drawn,
    so that each text has its length. The same
    model, number and seed give the same file on one kind of machine; it is written once.

    Args:
        lm: the model.
        tokens: about how many; by default ten for each entry of a key.
        seed: of the sampling.
    """
    tokens = tokens or BUDGET * read_weight(lm, 0).shape[1]
    path = cache_folder() / f"self-{fingerprint(lm)}-{seed}-{tokens}.txt"
    if path.exists():
        return path
    generator = torch.Generator().manual_seed(seed)
    length = min(LENGTH, lm.max_positions - 1)
    count = -(-tokens // length)
    lines: list[str] = []
    bar = tqdm(total=count, unit="text", desc="the model's own text", disable=None, leave=False)
    while len(lines) < count:
        starts = [
            STARTS[i % len(STARTS)] for i in range(len(lines), min(len(lines) + TOGETHER, count))
        ]
        texts = generate(lm, starts, generator, length=length, top_k=0, batch=TOGETHER)
        lines += [" ".join(text.split()) for text in texts]
        bar.update(len(texts))
    bar.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(lines) + "\n")
    return path
