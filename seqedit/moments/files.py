"""Files of a model's second moments: saved, loaded, and checked against a model."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..algebra.compact import CompactMoment
from ..algebra.second_moment import SecondMoment, top_eigenvalues
from ..base.tensors import content_digest, open_tensors, read_metadata, save_tensors
from ..lm.fingerprint import fingerprint, identity
from ..lm.model import LanguageModel
from .npz import read_npz


@dataclass(frozen=True)
class Moments:
    """Second moments of a model, as loaded from a file.

    Attributes:
        C: layer → C, (d_ff, d_ff), or its compact form.
        fingerprint: of the model they were computed with; None if the file does not record it.
        counts: layer → number of tokens; empty if the file does not record them.
        about: what else the file records of their origin: digests of "model" and "tokenizer",
            "corpus", "part", "reading", "dtype".
    """

    C: dict[int, Tensor | CompactMoment]
    fingerprint: str | None = None
    counts: dict[int, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def save_moments(
    path: Path,
    moments: dict[int, SecondMoment],
    *,
    fingerprint: str | None = None,
    dtype: torch.dtype = torch.float32,
    about: dict[str, Any] | None = None,
    name: str = "C",
) -> None:
    """Write second moments atomically as tensors `C.<layer>`.

    Counts, traces, largest eigenvalues and origin are written as metadata.

    Args:
        path: the file.
        moments: layer → accumulated moment; its mean is written.
        fingerprint: of the model.
        dtype: of the tensors in the file.
        about: see `Moments`.
        name: another letter for what is not of keys.

    Raises:
        ValueError: a moment has seen no keys.
    """
    C = {layer: m.mean for layer, m in moments.items()}
    metadata = {
        "counts": json.dumps({layer: m.count for layer, m in moments.items()}),
        "traces": json.dumps({layer: mean.trace().item() for layer, mean in C.items()}),
        "top_eigenvalues": json.dumps({layer: top_eigenvalues(mean) for layer, mean in C.items()}),
    }
    _save(
        path,
        {f"{name}.{layer}": mean.to(dtype) for layer, mean in C.items()},
        metadata,
        fingerprint,
        about,
    )


def save_compact(
    path: Path,
    compact: dict[int, CompactMoment],
    source: Moments,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write compact moments atomically as tensors `values.<layer>`, `vectors.<layer>` and so on.

    Args:
        path: the file.
        compact: layer → compact moment.
        source: the whole moments they were made from; its counts and origin are written, too.
        dtype: of the eigenvectors in the file; the other tensors are float64.
    """
    tensors = {}
    for layer, moment in compact.items():
        for name, tensor in moment.tensors().items():
            kept = dtype if name == "vectors" else torch.float64
            tensors[f"{name}.{layer}"] = tensor.to(kept)
    counts = {layer: n for layer, n in source.counts.items() if layer in compact}
    _save(path, tensors, {"counts": json.dumps(counts)}, source.fingerprint, source.about)


def _save(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    fingerprint: str | None,
    about: dict[str, Any] | None,
) -> None:
    """Write tensors with metadata, leaving out what is not known, and with a digest of all."""
    if fingerprint:
        metadata = metadata | {"fingerprint": fingerprint}
    if about:
        metadata = metadata | {"about": json.dumps(about)}
    save_tensors(path, tensors, metadata | {CONTENT: _digest(tensors, metadata)})


CONTENT = "content"
"""Name of the metadata that hold the digest of the tensors and of all other metadata."""


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """The digest of tensors and metadata, but for the digest among these."""
    others = {name: text for name, text in metadata.items() if name != CONTENT}
    whole = content_digest(tensors) + json.dumps(others, sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def load_moments(path: Path, name: str = "C") -> Moments:
    """Load a file of `C.<layer>` tensors, or of compact moments; its metadata is optional.

    A released .npz file of one layer is read as well, see `read_npz`.

    Args:
        path: the file.
        name: the letter under which they were saved.

    Raises:
        ValueError: it is not a safetensors file, holds neither, or a C that is no second moment.
    """
    if path.suffix.lower() in PICKLED:
        raise ValueError(
            f"moments: {path}: a {path.suffix} file is a pickle, which can run code when it is "
            "opened, and is never read; take the released covariances (.npz), or compute second "
            "moments with `seqedit moments`, of which projections are made here"
        )
    if path.suffix == ".npz":
        layer, whole, count = read_npz(path)
        if problem := _not_a_moment(whole):
            raise ValueError(f"moments: {path}: mom2.mom2 is no sum of k kᵀ: {problem}")
        return Moments({layer: whole}, counts={layer: count}, about={"released": [path.name]})
    try:
        with open_tensors(path) as file:
            metadata = read_metadata(file)
            tensors = {tensor: file.get_tensor(tensor) for tensor in file.keys()}
        C: dict[int, Tensor | CompactMoment] = {}
        for held, tensor in tensors.items():
            if held.startswith(f"{name}."):
                C[int(held.removeprefix(f"{name}."))] = tensor
            elif held.startswith("vectors."):
                layer = int(held.removeprefix("vectors."))
                C[layer] = _compact_tensors(tensors, layer)
        counts = {int(layer): n for layer, n in _about(metadata, "counts").items()}
        if not all(type(n) is int and n > 0 for n in counts.values()):
            raise ValueError(f"its metadata have counts of {counts!r:.60}")
        about = _about(metadata, "about")
        if metadata.get(CONTENT, digest := _digest(tensors, metadata)) != digest:
            raise ValueError("it was changed, or is damaged; compute it again")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as second moments: {error}") from error
    if not C:
        raise ValueError(
            f"{path} holds no tensor named {name}.<layer>; make one with `seqedit moments`"
        )
    for layer, moment in C.items():
        if isinstance(moment, Tensor) and (problem := _not_a_moment(moment)):
            raise ValueError(
                f"moments: {path}: {name}.{layer} is no second moment: {problem}; compute it again "
                "with `seqedit moments`"
            )
    return Moments(C, metadata.get("fingerprint"), counts, about)


def _about(metadata: dict[str, str], name: str) -> dict[str, Any]:
    """An object that a file's metadata hold as JSON; empty without it. Raises ValueError."""
    found = json.loads(metadata.get(name, "{}"))
    if not isinstance(found, dict):
        raise ValueError(f"its metadata have {name} {found!r:.60}, which is no object")
    return found


PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin")
"""Endings of files that are pickles."""
WHOLLY_CHECKED = 4096
"""Width up to which C is factored to see that it is positive semi-definite, which takes seconds."""


def _not_a_moment(C: Tensor) -> str | None:
    """Why a tensor cannot be a mean of k kᵀ; None if it can. Entries that are not finite pass here.

    Its eigenvalues may be negative by rounding: 1e-4 of the mean one, or more in half precision.
    """
    if not C.dtype.is_floating_point:
        return f"its entries are of type {str(C.dtype).removeprefix('torch.')}"
    if C.dim() != 2 or C.shape[0] != C.shape[1] or not len(C):
        return f"its shape is {tuple(C.shape)}"
    if not C.isfinite().all():
        return None  # told where layer and model are known
    rounding = torch.finfo(C.dtype).eps
    C = C.float()
    diagonal, scale = C.diagonal(), C.diagonal().abs().mean()
    if (diagonal < 0).any():
        return "its diagonal has negative entries"
    if (C - C.T).abs().max() > 1e-3 * scale:
        return "it is not symmetric"
    slack = torch.maximum(1e-4 * scale, rounding * C.norm())
    if (C.abs() > (diagonal[:, None] + slack).sqrt() * (diagonal + slack).sqrt() + slack).any():
        return "it is indefinite: an entry is larger than its row and column allow"
    if len(C) <= WHOLLY_CHECKED:
        shifted = C + slack * torch.eye(len(C))
        if torch.linalg.cholesky_ex(shifted.double()).info:
            return "it is indefinite: it has negative eigenvalues"
    return None


def _compact_tensors(tensors: dict[str, Tensor], layer: int) -> CompactMoment:
    """The compact moment of a layer. Raises ValueError if a part of it is missing."""
    parts = [f"{part}.{layer}" for part in ("values", "vectors", "rest", "floor")]
    if missing := [part for part in parts if part not in tensors]:
        raise ValueError(f"it holds no {missing[0]}")
    return CompactMoment(*(tensors[part] for part in parts))


def check_finite(path: Path, moments: Moments) -> None:
    """Raises ValueError if second moments of a file have entries that are not finite."""
    for layer, C in moments.C.items():
        parts = [C] if isinstance(C, Tensor) else [C.values, C.vectors, C.rest]
        if not all(part.isfinite().all() for part in parts):
            raise ValueError(
                f"moments: {path}: C.{layer} has entries that are not finite; compute it again"
            )


def check_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that a file is of the wanted origin.

    Args:
        path: the file, for the message.
        found: what it records.
        wanted: what it must record; other entries of `found` do not matter.

    Raises:
        ValueError: an entry differs; the message names it with both values.
    """
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise ValueError(
                f"{path} has another {name}: {json.dumps(found.get(name))} instead of "
                f"{json.dumps(wanted[name])}; choose another file, or remove this one"
            )


def check_belongs(path: Path, moments: Moments, lm: LanguageModel) -> None:
    """Check that second moments were computed with this model and tokenizer.

    Files that record no model pass.

    Args:
        path: their file, for the message.
        moments: what was loaded from it.
        lm: the model.

    Raises:
        ValueError: they were computed with another one; the message names what differs.
    """
    if "model" in moments.about:
        own = identity(lm)
        if differ := [name for name in own if own[name] != moments.about[name]]:
            values = ", ".join(f"{moments.about[name]}, here {own[name]}" for name in differ)
            raise ValueError(
                f"moments: {path} belongs to another model: its {' and its '.join(differ)} differ "
                f"({values}); compute this model's own with `seqedit moments`"
            )
    elif moments.fingerprint and moments.fingerprint != fingerprint(lm):
        raise ValueError(
            f"moments: {path} belongs to another model (fingerprint {moments.fingerprint}, this "
            f"model has {fingerprint(lm)}); compute this model's own with `seqedit moments`"
        )
