"""Collect second moments over a corpus into a file, with checkpoints."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..algebra.second_moment import SecondMoment
from ..base.files import alone
from ..base.tensors import content_digest, load_tensors, save_tensors
from ..lm.fingerprint import fingerprint, identity
from ..lm.model import LanguageModel
from ..lm.second_moments import Place, Reading, accumulate_moments
from .cache import check_layers
from .corpus import Corpus
from .files import Moments, check_same, load_moments, save_moments


def collect_to_file(
    lm: LanguageModel,
    corpus: Corpus,
    layers: Sequence[int],
    out: Path,
    reading: Reading,
    *,
    save_every: int = 1_000_000,
    say: Callable[[str], object] = lambda text: None,
) -> Moments:
    """Collect second moments over a corpus into the file `out`, resuming an interrupted run.

    The sums are written to a checkpoint beside `out` at least every `save_every` tokens. A run that
    was killed and started again ends in the same bits as one that was not. If `out` is complete
    already it is read.

    Args:
        lm: the model.
        corpus: the texts.
        layers: the layers whose keys are collected.
        out: the file to write; its folder is created.
        reading: how much of the corpus is read, and in which batches.
        save_every: number of tokens between checkpoints.
        say: receives messages for the user.

    Raises:
        ValueError: the corpus cannot be read or holds no text; or `out`, or the checkpoint beside
            it, is of another model, text or way of reading. The message names what differs.
    """
    check_layers(lm, layers)
    about = identity(lm) | {
        "corpus": corpus.describe(),
        "part": list(corpus.part),
        "reading": asdict(reading),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
    }
    with alone(out, say):
        return _collect(lm, corpus, layers, out, reading, about, save_every, say)


def _collect(
    lm: LanguageModel,
    corpus: Corpus,
    layers: Sequence[int],
    out: Path,
    reading: Reading,
    about: dict[str, Any],
    save_every: int,
    say: Callable[[str], object],
) -> Moments:
    """Collect, alone on the file."""
    wanted, part = about | {"layers": list(layers)}, out.with_name(out.name + ".checkpoint")
    if out.exists():
        found = load_moments(out)
        check_same(out, found.about | {"layers": list(found.C)}, wanted)
        _remove_checkpoint(part)
        say(f"{out} is complete")
        return found
    moments, start = _resume(part, lm, wanted)
    if start != Place():
        say(f"resuming after {_tokens(moments)} tokens")
    saved = _tokens(moments)
    texts = corpus.texts(start.documents)
    with _progress_bar(saved, reading.tokens) as bar:
        for place in accumulate_moments(lm, texts, layers, reading, moments, start):
            bar.update(_tokens(moments) - bar.n)
            if _tokens(moments) - saved >= save_every:
                _save_checkpoint(part, moments, wanted, place)
                saved = _tokens(moments)
    if not moments:
        raise ValueError(
            f"corpus: {corpus.file or corpus.dataset} holds no text; give one document a line"
        )
    save_moments(out, moments, fingerprint=fingerprint(lm), about=about)
    _remove_checkpoint(part)
    return load_moments(out)


def _progress_bar(done: int, total: int | None) -> tqdm:
    """A progress bar in tokens, shown on a terminal only."""
    return tqdm(
        initial=done,
        total=total,
        unit="token",
        unit_scale=True,
        desc="second moments",
        disable=None,
    )


def _save_checkpoint(
    part: Path, moments: dict[int, SecondMoment], wanted: dict[str, Any], place: Place
) -> None:
    """Write the sums so far, what they are of, and how far the corpus was read."""
    state = {"wanted": wanted, "tokens": _tokens(moments), "place": asdict(place)}
    tensors = {f"sum.{layer}": moment.sum for layer, moment in moments.items()}
    about = {"state": json.dumps(state), "content": content_digest(tensors)}
    save_tensors(part, tensors, about)


def _read_checkpoint(part: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The sums in a checkpoint and its state. Raises ValueError if it is damaged or others'."""
    tensors, about = load_tensors(part)
    if "state" not in about:
        raise ValueError(f"{part} is no checkpoint of second moments; move it elsewhere")
    if about.get("content") != content_digest(tensors):
        raise ValueError(f"{part} is damaged; remove it to start anew")
    return tensors, json.loads(about["state"])


def _remove_checkpoint(part: Path) -> None:
    """Remove a checkpoint of ours; a file of others that has its name stays."""
    if part.exists():
        with suppress(ValueError):
            _read_checkpoint(part)
            part.unlink()


def _resume(
    part: Path, lm: LanguageModel, wanted: dict[str, Any]
) -> tuple[dict[int, SecondMoment], Place]:
    """Read the sums of an interrupted run and how far it was; nothing without a checkpoint.

    Raises:
        ValueError: the checkpoint is damaged, or of another model, text or way of reading.
    """
    if not part.exists():
        return {}, Place()
    sums, state = _read_checkpoint(part)
    check_same(part, state["wanted"], wanted)
    moments = {}
    for name, total in sums.items():
        layer = int(name.removeprefix("sum."))
        moments[layer] = SecondMoment(len(total), _device(lm, layer))
        moments[layer].sum += total.to(moments[layer].sum.device)
        moments[layer].count = state["tokens"]
    return moments, Place(**state["place"])


def _device(lm: LanguageModel, layer: int) -> torch.device:
    """The device of a layer's down-projection."""
    return next(lm.down_proj(layer).parameters()).device


def _tokens(moments: dict[int, SecondMoment]) -> int:
    """The number of tokens seen, the same for every layer."""
    return next(iter(moments.values())).count if moments else 0
