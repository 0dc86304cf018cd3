"""Second moments of keys over a text file, computed once for each model and cached."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..algebra.compact import whole
from ..algebra.second_moment import SecondMoment
from ..base.files import cache_folder, file_digest
from ..lm.fingerprint import fingerprint
from ..lm.gradient_moments import collect_gradient_moments
from ..lm.model import LanguageModel
from ..lm.second_moments import collect_second_moments
from .files import load_moments, save_moments


def check_layers(lm: LanguageModel, layers: Sequence[int]) -> None:
    """Check that the model has these layers.

    Raises:
        ValueError: a layer is out of range.
    """
    for layer in layers:
        if not 0 <= layer < lm.n_layers:
            raise ValueError(
                f"layers: {layer} is out of range; the model has layers 0 to {lm.n_layers - 1}"
            )


def read_corpus(path: Path, option: str = "corpus") -> list[str]:
    """Read the documents of a text file, one per line.

    Args:
        path: the file.
        option: what an error calls the file.

    Raises:
        ValueError: the file cannot be read or holds no text.
    """
    try:
        texts = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{option}: {path} cannot be read: {error}") from error
    if not any(text.strip() for text in texts):
        raise ValueError(f"{option}: {path} holds no text; give one document a line")
    return texts


def cached_moments(lm: LanguageModel, corpus: Path, layer: int) -> Float[Tensor, "d_ff d_ff"]:
    """The second moment C of one layer over a text file; see `corpus_moments`."""
    return corpus_moments(lm, corpus, [layer])[layer]


def corpus_moments(lm: LanguageModel, corpus: Path, layers: Sequence[int]) -> dict[int, Tensor]:
    """The second moments of several layers over a text file.

    Layers that are not in the cache are computed in one pass. The cache is the folder
    `SEQEDIT_CACHE`, or `~/.cache/seqedit`; its files are named by digests of model, tokenizer and
    text.

    Args:
        lm: the model.
        corpus: text file with one document per line.
        layers: layers of the model.

    Returns:
        Layer → C, (d_ff, d_ff).

    Raises:
        ValueError: the file cannot be read or holds no text.
    """
    return _cached(lm, corpus, layers, "moments", "C", collect_second_moments)


def corpus_gradients(lm: LanguageModel, corpus: Path, layers: Sequence[int]) -> dict[int, Tensor]:
    """The second moments of the text's gradients at the outputs of the edited matrices.

    They are cached like those of keys, see `corpus_moments`.

    Returns:
        Layer → S, (d_model, d_model).

    Raises:
        ValueError: the file cannot be read or holds no text.
    """
    return _cached(lm, corpus, layers, "gradients", "S", collect_gradient_moments)


def _cached(
    lm: LanguageModel,
    corpus: Path,
    layers: Sequence[int],
    kind: str,
    name: str,
    collect: Callable[[LanguageModel, Sequence[str], Sequence[int]], dict[int, SecondMoment]],
) -> dict[int, Tensor]:
    """Second moments of one kind from the cache; those that it lacks are collected first."""
    texts, identity = read_corpus(corpus), fingerprint(lm)
    cache = cache_folder()
    paths = {
        layer: cache / f"{kind}-{identity}-{file_digest(corpus)}-{layer}.safetensors"
        for layer in layers
    }
    missing = [layer for layer, path in paths.items() if not path.exists()]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        for layer, moment in collect(lm, texts, missing).items():
            save_moments(paths[layer], {layer: moment}, fingerprint=identity, name=name)
    return {layer: whole(load_moments(path, name).C[layer]) for layer, path in paths.items()}
