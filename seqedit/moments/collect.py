"""Second moments in files: collected with checkpoints, merged, checked against a model, made compact."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from ..algebra.compact import CompactMoment, compacted
from ..algebra.second_moment import SecondMoment
from ..base.files import save_tensors
from ..lm.fingerprint import fingerprint, identity
from ..lm.model import LanguageModel
from ..lm.second_moments import Place, Reading, accumulate_moments
from .cache import check_layers
from .corpus import Corpus
from .files import (
    Moments,
    load_moments,
    save_compact,
    save_moments,
)


def collect(
    lm: LanguageModel,
    corpus: Corpus,
    layers: Sequence[int],
    out: Path,
    reading: Reading,
    *,
    save_every: int = 1_000_000,
    say=lambda text: None,
) -> Moments:
    """Second moments over a corpus, in `out`; taken up again where an interrupted run of the same stopped.

    The sums are written beside `out` at least every `save_every` tokens, atomically, so that a run that was killed and
    started again ends in the same bits as one that was not.

    Raises:
        ValueError: the corpus cannot be read or holds no text, or `out`, or what an interrupted run left there, is of
            another model, text or way of reading; the message names what differs.
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
        _same(out, found.about | {"layers": list(found.C)}, wanted)
        part.unlink(missing_ok=True)
        say(f"{out} is complete")
        return found
    out.parent.mkdir(parents=True, exist_ok=True)
    moments, start = _resume(part, lm, wanted)
    if start != Place():
        say(f"resuming after {_tokens(moments)} tokens")
    saved = _tokens(moments)
    bar = tqdm(
        initial=saved,
        total=reading.tokens,
        unit="token",
        unit_scale=True,
        desc="second moments",
        disable=None,
    )
    for place in accumulate_moments(
        lm, corpus.texts(start.documents), layers, reading, moments, start
    ):
        bar.update(_tokens(moments) - bar.n)
        if _tokens(moments) - saved >= save_every:
            tensors = {f"sum.{layer}": moment.sum for layer, moment in moments.items()}
            save_tensors(
                part,
                tensors,
                {
                    "state": json.dumps(
                        {"wanted": wanted, "tokens": _tokens(moments), "place": asdict(place)}
                    )
                },
            )
            saved = _tokens(moments)
    bar.close()
    if not moments:
        raise ValueError(
            f"corpus: {corpus.file or corpus.dataset} holds no text; give one document a line"
        )
    save_moments(out, moments, fingerprint=fingerprint(lm), about=about)
    part.unlink(missing_ok=True)
    return load_moments(out)


def merge(paths: Sequence[Path], out: Path) -> dict[int, int]:
    """Second moments of several jobs as if one had read all their texts; layer → tokens.

    Raises:
        ValueError: the files differ in model, tokenizer, layers or way of reading, do not say how many tokens they
            saw, are compact, or two of them are of the same part of the same text.
    """
    read = [load_moments(path) for path in paths]
    if len(read) < 2:
        raise ValueError("merge: give at least two files")
    for i, (path, moments) in enumerate(zip(paths, read, strict=True)):
        if set(moments.counts) != set(moments.C) or any(
            isinstance(C, CompactMoment) for C in moments.C.values()
        ):
            raise ValueError(
                f"merge: {path} is compact or does not say how many tokens it saw; it cannot be weighted"
            )
        if i:
            _same(path, _merging(moments), _merging(read[0]))
        for other, earlier in zip(paths[:i], read[:i], strict=True):
            if twice := [text for text in _texts(moments) if text in _texts(earlier)]:
                raise ValueError(
                    f"merge: {other} and {path} are of the same text, {json.dumps(twice[0])}"
                )
    merged = {}
    for layer in read[0].C:
        merged[layer] = SecondMoment(len(read[0].C[layer]))
        for moments in read:
            merged[layer].sum += moments.counts[layer] * moments.C[layer].double()
            merged[layer].count += moments.counts[layer]
    about = {
        name: value
        for name, value in read[0].about.items()
        if name not in ("corpus", "part", "merged")
    }
    save_moments(
        out,
        merged,
        fingerprint=read[0].fingerprint,
        about=about | {"merged": [text for moments in read for text in _texts(moments)]},
    )
    return {layer: moment.count for layer, moment in merged.items()}


def make_compact(path: Path, floor: float, out: Path) -> dict[int, CompactMoment]:
    """The compact form of the second moments of a file, each layer with eigenvectors from `floor` on.

    Raises:
        ValueError: the file cannot be read, or is compact already.
    """
    moments = load_moments(path)
    if any(isinstance(C, CompactMoment) for C in moments.C.values()):
        raise ValueError(f"{path} is compact already")
    compact = {layer: compacted(C, floor) for layer, C in moments.C.items()}
    save_compact(out, compact, replace(moments, about=moments.about | {"floor": floor}))
    return compact


def check_belongs(path: Path, moments: Moments, lm: LanguageModel) -> None:
    """Raises ValueError, naming what differs, for second moments of another model or tokenizer."""
    if "model" in moments.about:
        own = identity(lm)
        if differ := [name for name in own if own[name] != moments.about[name]]:
            raise ValueError(
                f"moments: {path} belongs to another model: its {' and its '.join(differ)} differ "
                f"({', '.join(f'{moments.about[n]}, here {own[n]}' for n in differ)}); make its own with "
                "`seqedit moments`"
            )
    elif moments.fingerprint and moments.fingerprint != fingerprint(lm):
        raise ValueError(
            f"moments: {path} belongs to another model (fingerprint {moments.fingerprint}, this model has "
            f"{fingerprint(lm)}); make its own with `seqedit moments`"
        )


def _resume(
    part: Path, lm: LanguageModel, wanted: dict[str, Any]
) -> tuple[dict[int, SecondMoment], Place]:
    """Sums of an interrupted run and how far it was."""
    if not part.exists():
        return {}, Place()
    with safe_open(part, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    _same(part, state["wanted"], wanted)
    moments = {}
    for name, total in load_file(part).items():
        layer = int(name.removeprefix("sum."))
        moments[layer] = SecondMoment(len(total), lm.down_proj(layer).weight.device)
        moments[layer].sum += total.to(moments[layer].sum.device)
        moments[layer].count = state["tokens"]
    return moments, Place(**state["place"])


def _same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise ValueError(
                f"{path} has another {name}: {json.dumps(found.get(name))} instead of "
                f"{json.dumps(wanted[name])}; choose another file, or remove this one"
            )


def _merging(moments: Moments) -> dict[str, Any]:
    """What files that are merged must share."""
    reading = {k: v for k, v in moments.about.get("reading", {}).items() if k == "length"}
    return {
        "fingerprint": moments.fingerprint,
        "layers": sorted(moments.C),
        "length": reading.get("length"),
        "sizes": [len(moments.C[layer]) for layer in sorted(moments.C)],
    } | {name: moments.about.get(name) for name in ("model", "tokenizer", "dtype")}


def _texts(moments: Moments) -> list[dict[str, Any]]:
    """The texts of a file, by corpus and part; none that are known for files without this."""
    about = moments.about
    return about.get("merged") or (
        [{"corpus": about["corpus"], "part": about["part"]}] if "corpus" in about else []
    )


def _tokens(moments: dict[int, SecondMoment]) -> int:
    return next(iter(moments.values())).count if moments else 0
