"""Second moments of keys over a text file, computed once for a model and kept."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..base.files import cache_folder, file_digest
from ..lm.fingerprint import fingerprint
from ..lm.model import LanguageModel
from ..lm.second_moments import collect_second_moments
from .files import load_moments, save_moments


def check_layers(lm: LanguageModel, layers: Sequence[int]) -> None:
    """Raises ValueError for a layer that the model does not have."""
    for layer in layers:
        if not 0 <= layer < lm.n_layers:
            raise ValueError(
                f"layers: {layer} is out of range; the model has layers 0 to {lm.n_layers - 1}"
            )


def read_corpus(path: Path) -> list[str]:
    """The documents of a text file, one a line.

    Raises:
        ValueError: the file cannot be read, or holds no text.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"corpus: {path} cannot be read: {error}") from error
    if not any(text.strip() for text in texts):
        raise ValueError(f"corpus: {path} holds no text; give one document a line")
    return texts


def cached_moments(lm: LanguageModel, corpus: Path, layer: int) -> Tensor:
    """C of one layer over a text file, (d_ff, d_ff); see `corpus_moments`."""
    return corpus_moments(lm, corpus, [layer])[layer]


def corpus_moments(lm: LanguageModel, corpus: Path, layers: Sequence[int]) -> dict[int, Tensor]:
    """layer → C over a text file; layers not yet known are computed in one pass and kept.

    They are kept in SEQEDIT_CACHE, or ~/.cache/seqedit, under the digests of model, tokenizer and text.

    Raises:
        ValueError: the file cannot be read, or holds no text.
    """
    texts, identity = read_corpus(corpus), fingerprint(lm)
    cache = cache_folder()
    paths = {
        layer: cache / f"moments-{identity}-{file_digest(corpus)}-{layer}.safetensors"
        for layer in layers
    }
    missing = [layer for layer, path in paths.items() if not path.exists()]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        for layer, moment in collect_second_moments(lm, texts, missing).items():
            save_moments(paths[layer], {layer: moment}, fingerprint=identity)
    return {layer: load_moments(path).C[layer] for layer, path in paths.items()}
