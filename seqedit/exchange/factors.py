"""Edits as a small file of factors: W = W₀ + left @ right per edited matrix, to put on a model and to take off."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..algebra.low_rank import LowRank, low_rank, round_off
from ..base.files import save_tensors
from ..lm.fingerprint import fingerprint
from ..lm.model import LanguageModel
from ..lm.weights import read_weight, restored, write_weight
from ..runs.checkpoint import put_weights
from ..runs.records import read_run

FORMAT = "seqedit edits 1"


@dataclass(frozen=True)
class LayerEdit:
    """The edit of one matrix.

    Attributes:
        factors: the update.
        mask: where W − left @ right is not W₀ after rounding, packed eight places a byte, row by row.
        was: W₀ there, (n,), in the same order.
        before, after: SHA-256 of W₀ and of W₀ + left @ right, rounded to float32.
    """

    factors: LowRank
    mask: Tensor
    was: Tensor
    before: str
    after: str

    def apply(self, W0: Tensor) -> Tensor:
        """W₀ + left @ right, added in float64 and rounded once."""
        return (W0.double() + self.factors.product().to(W0.device)).float()

    def undo(self, W: Tensor) -> Tensor:
        """W − left @ right; W₀ bit for bit where W is what `apply` gave, else within round-off of it."""
        back = (W.double() - self.factors.product().to(W.device)).float()
        if digest(W) == self.after:
            bits = np.unpackbits(self.mask.numpy(), count=W.numel()).astype(bool)
            back[torch.from_numpy(bits).view(W.shape).to(W.device)] = self.was.to(W.device)
        return back


@dataclass(frozen=True)
class Edits:
    """A file of edits.

    Attributes:
        layers: layer → its edit.
        base: fingerprint of the unedited model; rest: the same with the edited matrices left out.
        about: method, number of edits and model, as told by the run.
    """

    layers: dict[int, LayerEdit]
    base: str
    rest: str
    about: dict[str, Any]


def digest(W: Tensor) -> str:
    """SHA-256 of the float32 bytes of a matrix."""
    return hashlib.sha256(W.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def fingerprint_of_rest(lm: LanguageModel, layers: Collection[int]) -> str:
    """The model's fingerprint with the matrices of `layers` zero: what edits of these layers leave alone."""
    with restored(lm, layers):
        for layer in layers:
            write_weight(lm, layer, torch.zeros_like(read_weight(lm, layer)))
        return fingerprint(lm)


def factor_edits(lm: LanguageModel, run: Path) -> Edits:
    """The edits of a finished run, factored to the numerical rank of W_T − W₀; `lm` ends edited by the run.

    Singular values count when they exceed the round-off that the run's additions leave in the matrix.

    Raises:
        ValueError: see `put_weights`.
    """
    record, base = read_run(run), fingerprint(lm)
    layers = tuple(record["parameters"]["layers"])
    before = {layer: read_weight(lm, layer) for layer in layers}
    rest = fingerprint_of_rest(lm, layers)
    put_weights(lm, run)
    edits = {
        layer: layer_edit(W0, read_weight(lm, layer), record["n_edits"])
        for layer, W0 in before.items()
    }
    about = {
        "method": record["method"],
        "n_edits": record["n_edits"],
        "model": record["parameters"]["model"],
    }
    return Edits(edits, base, rest, about)


def layer_edit(W0: Tensor, W: Tensor, writes: int) -> LayerEdit:
    """The edit from W₀ to W, which was written in so many additions."""
    factors = low_rank(W.double() - W0.double(), round_off(W, writes))
    edit = LayerEdit(factors, *2 * (torch.empty(0),), digest(W0), "")
    after = edit.apply(W0)
    lost = edit.undo(after) != W0
    return LayerEdit(
        factors,
        torch.from_numpy(np.packbits(lost.cpu().numpy())),
        W0[lost].cpu(),
        edit.before,
        digest(after),
    )


def save_edits(path: Path, edits: Edits) -> None:
    """safetensors with left.<layer>, right.<layer>, mask.<layer> and was.<layer>; what else is known as metadata."""
    tensors, layers = {}, {}
    for layer, edit in edits.layers.items():
        tensors |= {
            f"left.{layer}": edit.factors.left,
            f"right.{layer}": edit.factors.right,
            f"mask.{layer}": edit.mask,
            f"was.{layer}": edit.was,
        }
        layers[layer] = {
            "rank": edit.factors.rank,
            "error": edit.factors.error,
            "before": edit.before,
            "after": edit.after,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(
        path,
        tensors,
        {
            "format": FORMAT,
            "base": edits.base,
            "rest": edits.rest,
            "about": json.dumps(edits.about),
            "layers": json.dumps(layers),
        },
    )


def load_edits(path: Path) -> Edits:
    """Read a file of edits.

    Raises:
        ValueError: it is not one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(
                    f"edits: {path} is no file of edits; `seqedit export --as factors` writes one"
                )
            layers = {}
            for layer, told in json.loads(metadata["layers"]).items():
                left, right, mask, was = (
                    file.get_tensor(f"{name}.{layer}") for name in ("left", "right", "mask", "was")
                )
                layers[int(layer)] = LayerEdit(
                    LowRank(left, right, told["error"]), mask, was, told["before"], told["after"]
                )
    except (SafetensorError, OSError) as error:
        raise ValueError(f"edits: {path} cannot be read: {error}") from error
    return Edits(layers, metadata["base"], metadata["rest"], json.loads(metadata["about"]))


def apply_edits(lm: LanguageModel, edits: Edits) -> None:
    """Put edits on the model they were made on.

    Raises:
        ValueError: it is another model, or it is edited already.
    """
    if fingerprint(lm) != edits.base:
        raise ValueError(
            f"edits: they were made on another model (fingerprint {edits.base}, this one has "
            f"{fingerprint(lm)}); give the unedited {edits.about['model']}"
        )
    for layer, edit in edits.layers.items():
        write_weight(lm, layer, edit.apply(read_weight(lm, layer)))


def revert_edits(lm: LanguageModel, edits: Edits) -> dict[int, bool]:
    """Take edits off an edited model: W − left @ right.

    A sum in float32 has forgotten bits of W₀ where it is larger. A matrix that `apply_edits` wrote comes back bit for
    bit all the same, since the file keeps W₀ at those places; one that the run itself left comes back within the
    round-off of its additions, and one that was edited further keeps those later edits.

    Returns:
        layer → whether the matrix is W₀ bit for bit.

    Raises:
        ValueError: it is another model, or the edits are not in it.
    """
    rest = fingerprint_of_rest(lm, edits.layers)
    if rest != edits.rest:
        raise ValueError(
            f"edits: they were made on another model (outside the edited matrices its fingerprint is "
            f"{edits.rest}, here it is {rest})"
        )
    if all(digest(read_weight(lm, layer)) == edit.before for layer, edit in edits.layers.items()):
        raise ValueError("edits: the model does not hold them; its matrices are the unedited ones")
    for layer, edit in edits.layers.items():
        write_weight(lm, layer, edit.undo(read_weight(lm, layer)))
    return {
        layer: digest(read_weight(lm, layer)) == edit.before for layer, edit in edits.layers.items()
    }
