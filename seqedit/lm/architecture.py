"""Where each supported architecture keeps its matrices, and the only functions that write to them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..precision import at_least_float32

if TYPE_CHECKING:
    from .load import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Module paths of one model family; "{}" is the layer number.

    Attributes:
        block: transformer block; its output is the residual stream after the layer.
        mlp: MLP of a block; its output is added to the residual stream.
        down_proj: the edited matrix: MLP hidden activations (d_ff) to residual stream (d_model).
        final_norm: norm between the last block and the head.
        head: residual stream to logits.
    """

    block: str
    mlp: str
    down_proj: str
    final_norm: str
    head: str


_LLAMA = Architecture(block="model.layers.{}", mlp="model.layers.{}.mlp", down_proj="model.layers.{}.mlp.down_proj",
                      final_norm="model.norm", head="lm_head")

ARCHITECTURES = {
    "gpt2": Architecture(block="transformer.h.{}", mlp="transformer.h.{}.mlp",
                         down_proj="transformer.h.{}.mlp.c_proj", final_norm="transformer.ln_f", head="lm_head"),
    "gptj": Architecture(block="transformer.h.{}", mlp="transformer.h.{}.mlp",
                         down_proj="transformer.h.{}.mlp.fc_out", final_norm="transformer.ln_f", head="lm_head"),
    "gpt_neox": Architecture(block="gpt_neox.layers.{}", mlp="gpt_neox.layers.{}.mlp",
                             down_proj="gpt_neox.layers.{}.mlp.dense_4h_to_h",
                             final_norm="gpt_neox.final_layer_norm", head="lm_head"),
    "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA,
}
"""Declared architectures by `config.model_type`."""


def architecture_of(model_type: str) -> Architecture:
    """The declared architecture of a model type.

    Raises:
        ValueError: it is not declared; the message lists those that are.
    """
    if model_type not in ARCHITECTURES:
        raise ValueError(f"model type {model_type!r} is not declared; known are {', '.join(sorted(ARCHITECTURES))}. "
                         "Add its module paths to seqedit/lm/architecture.py")
    return ARCHITECTURES[model_type]


def read_weight(lm: "LanguageModel", layer: int) -> Tensor:
    """A copy of the edited matrix of `layer`, (d_model, d_ff), always out × in, in at least float32.

    Of a model in half precision it is the float32 master, which the model's own matrix is rounded from.
    """
    W = lm.masters.get(layer, _as_out_by_in(lm.down_proj(layer)).detach())
    return at_least_float32(W).to(lm.device, copy=True)


@torch.no_grad()
def apply_update(lm: "LanguageModel", layer: int, update: Tensor) -> None:
    """W ← W + Δ at `layer`; `update` is out × in. The one verb that changes a model.

    In half precision Δ is added to a float32 master and the sum is rounded, so that no small update is lost.

    Raises:
        ValueError: the update has another shape than the matrix.
    """
    W = _as_out_by_in(lm.down_proj(layer))
    if W.shape != update.shape:
        raise ValueError(f"layer {layer}: the update is {tuple(update.shape)} but the matrix is {tuple(W.shape)} "
                         "(out × in)")
    if W.dtype.itemsize < 4:
        write_weight(lm, layer, read_weight(lm, layer) + update.float())
    else:
        W.add_(update.to(W))


@torch.no_grad()
def write_weight(lm: "LanguageModel", layer: int, W: Tensor) -> None:
    """Put a stored matrix (out × in) back, bit for bit; for resuming and undoing only."""
    own = _as_out_by_in(lm.down_proj(layer))
    if own.dtype.itemsize < 4:
        lm.masters[layer] = W.to(own.device, torch.float32, copy=True)
    own.copy_(W)


@contextmanager
def restored(lm: "LanguageModel", layers: Iterable[int]) -> Iterator[None]:
    """Whatever happens inside, the edited matrices of `layers` are as before, bit for bit, afterwards."""
    before = {layer: (_as_out_by_in(lm.down_proj(layer)).detach().clone(), lm.masters.get(layer)) for layer in layers}
    try:
        yield
    finally:
        for layer, (W, master) in before.items():
            write_weight(lm, layer, W)
            lm.masters.pop(layer, None)
            if master is not None:
                lm.masters[layer] = master


@contextmanager
def rewound(lm: "LanguageModel", original: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, the layers' matrices are the stored ones; afterwards as before, bit for bit."""
    with restored(lm, original):
        for layer, W in original.items():
            write_weight(lm, layer, W)
        yield


def _as_out_by_in(module: nn.Module) -> Tensor:
    """A view of the weight as out × in; decided by the module's type, never by the weight's shape."""
    if isinstance(module, Conv1D):
        return module.weight.T
    if isinstance(module, nn.Linear):
        return module.weight
    raise TypeError(f"cannot edit a {type(module).__name__}; expected a Linear or a Conv1D")
