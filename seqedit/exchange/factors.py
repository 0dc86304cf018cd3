"""Edits as a small file of low-rank factors, to apply to a model and to revert.

For each edited matrix the file holds factors with W = W₀ + left @ right.
"""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..algebra.low_rank import LowRank, low_rank, round_off
from ..base.files import alone, check_replaceable
from ..base.tensors import content_digest, load_tensors, save_tensors
from ..lm.fingerprint import fingerprint
from ..lm.model import LanguageModel
from ..lm.weights import read_weight, restored, write_weight
from ..runs.checkpoint import put_weights
from ..runs.records import read_run

FORMAT = "seqedit edits 1"
"""The format of the files, recorded in their metadata."""


@dataclass(frozen=True)
class LayerEdit:
    """The edit of one matrix, which can be undone exactly.

    Attributes:
        factors: the update.
        mask: the entries at which W − left @ right, rounded, is not W₀; one bit per entry in row
            order, eight to a byte.
        was: W₀ at these entries, (n,), in the same order.
        before: SHA-256 of W₀ in float32.
        after: SHA-256 of W₀ + left @ right in float32.
    """

    factors: LowRank
    mask: UInt8[Tensor, "bytes"]
    was: Float[Tensor, "n"]
    before: str
    after: str

    def apply(self, W0: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "d_model d_ff"]:
        """Compute W₀ + left @ right in float64, rounded once to float32."""
        return _add(W0, self.factors.product())

    def undo(self, W: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "d_model d_ff"]:
        """Compute W − left @ right, in float32.

        If W is what `apply` returned the result is W₀ bit for bit, else within round-off.
        """
        back = _add(W, -self.factors.product())
        if digest(W) == self.after:
            bits = np.unpackbits(self.mask.numpy(), count=W.numel()).astype(bool)
            back[torch.from_numpy(bits).view(W.shape).to(W.device)] = self.was.to(W.device)
        return back


@dataclass(frozen=True)
class Edits:
    """The edits of a run, as a file holds them.

    Attributes:
        layers: layer → its edit.
        base: fingerprint of the unedited model.
        rest: fingerprint of the model with the edited matrices set to 0.
        about: method, number of edits and model, from the record of the run.
    """

    layers: dict[int, LayerEdit]
    base: str
    rest: str
    about: dict[str, Any]


def digest(W: Float[Tensor, "d_model d_ff"]) -> str:
    """SHA-256 of a matrix in float32, in hexadecimal."""
    return hashlib.sha256(W.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def fingerprint_of_rest(lm: LanguageModel, layers: Collection[int]) -> str:
    """Fingerprint of what edits of these layers do not change.

    It is the model's fingerprint with the matrices of `layers` set to 0; the model is unchanged
    afterwards.
    """
    with restored(lm, layers):
        for layer in layers:
            write_weight(lm, layer, torch.zeros_like(read_weight(lm, layer)))
        return fingerprint(lm)


def factor_edits(
    lm: LanguageModel, run: Path, put: Callable[[LanguageModel, Path], None] = put_weights
) -> Edits:
    """Factor the edits of a finished run to the numerical rank of W_T − W₀.

    Singular values count if they exceed the round-off that the run's additions leave in the matrix.

    Args:
        lm: the unedited model; it ends edited by the run.
        run: folder of the run.
        put: puts its edits into the model, or some of them.

    Raises:
        ValueError: see `put_weights`.
    """
    record, base = read_run(run), fingerprint(lm)
    layers = tuple(record["parameters"]["layers"])
    before = {layer: read_weight(lm, layer) for layer in layers}
    rest = fingerprint_of_rest(lm, layers)
    put(lm, run)
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


def layer_edit(
    W0: Float[Tensor, "d_model d_ff"], W: Float[Tensor, "d_model d_ff"], writes: int
) -> LayerEdit:
    """The edit that leads from W₀ to W, up to round-off.

    Args:
        W0: the matrix before all edits.
        W: the matrix after them.
        writes: number of float32 additions between the two.
    """
    factors = low_rank(W.double() - W0.double(), round_off(W, writes))
    after = _add(W0, factors.product())
    lost = _add(after, -factors.product()) != W0
    return LayerEdit(
        factors=factors,
        mask=torch.from_numpy(np.packbits(lost.cpu().numpy())),
        was=W0[lost].cpu(),
        before=digest(W0),
        after=digest(after),
    )


def _add(
    W: Float[Tensor, "d_model d_ff"], update: Float[Tensor, "d_model d_ff"]
) -> Float[Tensor, "d_model d_ff"]:
    """W + update in float64, rounded once to float32."""
    return (W.double() + update.to(W.device)).float()


def save_edits(path: Path, edits: Edits) -> None:
    """Write a new file of edits, with its folder.

    It is a safetensors file of `left.<layer>`, `right.<layer>`, `mask.<layer>` and `was.<layer>`;
    the rest is metadata.

    Raises:
        ValueError: `path` exists.
    """
    tensors: dict[str, Tensor] = {}
    layers: dict[int, dict[str, Any]] = {}
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
    metadata = {
        "format": FORMAT,
        "base": edits.base,
        "rest": edits.rest,
        "about": json.dumps(edits.about),
        "layers": json.dumps(layers),
        "content": content_digest(tensors),
    }
    with alone(path):
        check_replaceable(path)
        save_tensors(path, tensors, metadata)


def load_edits(path: Path) -> Edits:
    """Read a file of edits.

    Raises:
        ValueError: the file cannot be read, is not one of edits, or is damaged.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"edits: {path} is no file of edits; `seqedit export --as factors` writes one"
        )
    damaged = f"edits: {path} is damaged; write it again with `seqedit export --as factors`"
    if metadata.get("content", content_digest(tensors)) != content_digest(tensors):
        raise ValueError(damaged)
    try:
        layers = {
            int(layer): LayerEdit(
                factors=LowRank(tensors[f"left.{layer}"], tensors[f"right.{layer}"], one["error"]),
                mask=tensors[f"mask.{layer}"],
                was=tensors[f"was.{layer}"],
                before=one["before"],
                after=one["after"],
            )
            for layer, one in json.loads(metadata["layers"]).items()
        }
        return Edits(layers, metadata["base"], metadata["rest"], json.loads(metadata["about"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # by others, or changed
        raise ValueError(damaged) from error


def apply_edits(lm: LanguageModel, edits: Edits) -> None:
    """Apply edits to the model they were made on; the model is changed.

    Raises:
        ValueError: it is another model, or is edited already.
    """
    if fingerprint(lm) != edits.base:
        raise ValueError(
            f"edits: they were made on another model (fingerprint {edits.base}, this one has "
            f"{fingerprint(lm)}); give the unedited {edits.about['model']}"
        )
    _check_fits(lm, edits)
    for layer, edit in edits.layers.items():
        write_weight(lm, layer, edit.apply(read_weight(lm, layer)))


def _check_fits(lm: LanguageModel, edits: Edits) -> None:
    """Raises ValueError if the model has no such layer, or a matrix of another size there."""
    for layer, edit in edits.layers.items():
        size = edit.factors.left.shape[0], edit.factors.right.shape[-1]
        if not 0 <= layer < lm.n_layers or tuple(read_weight(lm, layer).shape) != size:
            raise ValueError(
                f"edits: layer {layer} with a matrix of {size[0]} × {size[1]} is none of the model"
            )


def revert_edits(lm: LanguageModel, edits: Edits) -> dict[int, bool]:
    """Revert edits: subtract left @ right from each edited matrix of the model.

    Where an entry of W is larger than that of W₀, its float32 rounding has lost low bits of W₀,
    which a subtraction cannot restore. The file keeps W₀ at these entries. A matrix that
    `apply_edits` wrote is therefore restored bit for bit. One that the run itself wrote is restored
    within the round-off of its additions, and one that was edited further keeps the later edits.

    Returns:
        Layer → whether the matrix is W₀ bit for bit.

    Raises:
        ValueError: it is another model, or it does not contain the edits.
    """
    _check_fits(lm, edits)
    rest = fingerprint_of_rest(lm, edits.layers)
    if rest != edits.rest:
        raise ValueError(
            "edits: they were made on another model (outside the edited matrices its fingerprint "
            f"is {edits.rest}, here it is {rest})"
        )
    if all(digest(read_weight(lm, layer)) == edit.before for layer, edit in edits.layers.items()):
        raise ValueError("edits: the model does not hold them; its matrices are the unedited ones")
    for layer, edit in edits.layers.items():
        write_weight(lm, layer, edit.undo(read_weight(lm, layer)))
    return {
        layer: digest(read_weight(lm, layer)) == edit.before for layer, edit in edits.layers.items()
    }
