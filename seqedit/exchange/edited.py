"""Load edited models from runs or files of edits, and write them as ordinary folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..base.files import alone, check_replaceable, whole_folder
from ..lm.gguf_file import is_gguf
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..runs.checkpoint import put_weights
from .factors import apply_edits, load_edits


def put_edited(lm: LanguageModel, edited: Path) -> None:
    """Put edits into a freshly loaded model.

    Args:
        lm: the unedited model; it is changed.
        edited: folder of a finished run, or a file of edits.

    Raises:
        ValueError: there is neither, it was made on another model, or the run's method does not
            keep its edits in the weights.
    """
    if edited.is_file():
        apply_edits(lm, load_edits(edited))
    else:
        put_weights(lm, edited)


@contextmanager
def new_folder(out: Path | str) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when all of it is there. One process at a time.

    Raises:
        ValueError: `out` exists.
    """
    out = Path(out)
    with alone(out), whole_folder(out) as part:
        yield part


def save_folder(lm: LanguageModel, out: Path | str) -> None:
    """Write a model as an ordinary transformers folder with its tokenizer.

    Raises:
        ValueError: `out` exists.
    """
    with new_folder(out) as part:
        lm.model.save_pretrained(part)
        lm.tokenizer.save_pretrained(part)


def export_folder(model: str, edited: Path, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write an edited model as a transformers folder.

    Args:
        model: folder or hub id of the unedited model.
        edited: folder of a finished run, or a file of edits.
        out: the new folder.
        dtype: of the weights that are written.

    Raises:
        ValueError: `out` exists, or see `put_edited`.
    """
    check_replaceable(out)
    lm = load_model(model, device="cpu", dtype=dtype)
    put_edited(lm, edited)
    save_folder(lm, out)


def load_side(side: str, model: str | None, device: str, dtype: torch.dtype) -> LanguageModel:
    """Load one of two models to compare.

    Args:
        side: a transformers folder, hub id or GGUF file; or a run's folder or a file of edits.
        model: the unedited model for a run or a file of edits.
        device: see `load_model`.
        dtype: of the weights.

    Raises:
        ValueError: `side` holds edits and `model` is not given, or see `put_edited`.
    """
    path = Path(side)
    if is_gguf(path) or (not path.is_file() and not (path / "run.json").exists()):
        return load_model(side, device=device, dtype=dtype)
    if model is None:
        raise ValueError(f"model: {side} holds edits; name the unedited model with --model")
    lm = load_model(model, device=device, dtype=dtype)
    put_edited(lm, path)
    return lm
