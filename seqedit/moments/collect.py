"""Collect second moments over a corpus into a file, with checkpoints."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from ..algebra.second_moment import SecondMoment
from ..base.files import read_metadata, save_tensors
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
    wanted, part = about | {"layers": list(layers)}, out.with_name(out.name + ".checkpoint")
    if out.exists():
        found = load_moments(out)
        check_same(out, found.about | {"layers": list(found.C)}, wanted)
        part.unlink(missing_ok=True)
        say(f"{out} is complete")
        return found
    out.parent.mkdir(parents=True, exist_ok=True)
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
    part.unlink(missing_ok=True)
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
    save_tensors(part, tensors, {"state": json.dumps(state)})


def _resume(
    part: Path, lm: LanguageModel, wanted: dict[str, Any]
) -> tuple[dict[int, SecondMoment], Place]:
    """Read the sums of an interrupted run and how far it was; nothing without a checkpoint.

    Raises:
        ValueError: the checkpoint is of another model, text or way of reading.
    """
    if not part.exists():
        return {}, Place()
    with safe_open(part, framework="pt") as file:
        state = json.loads(read_metadata(file)["state"])
    check_same(part, state["wanted"], wanted)
    moments = {}
    for name, total in load_file(part).items():
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
