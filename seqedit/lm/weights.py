"""The edited matrices: the only functions that read and write them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..base.precision import at_least_float32
from .model import LanguageModel


def read_weight(lm: LanguageModel, layer: int) -> Tensor:
    """A copy of the edited matrix of `layer`, (d_model, d_ff), always out × in, in at least float32.

    Of a model in half precision it is the float32 master, which the model's own matrix is rounded from.
    """
    W = lm.masters.get(layer, _as_out_by_in(lm.down_proj(layer)).detach())
    return at_least_float32(W).to(lm.device, copy=True)


@torch.no_grad()
def apply_update(lm: LanguageModel, layer: int, update: Tensor) -> None:
    """W ← W + Δ at `layer`; `update` is out × in. The one verb that changes a model.

    In half precision Δ is added to a float32 master and the sum is rounded, so that no small update is lost.

    Raises:
        ValueError: the update has another shape than the matrix.
    """
    W = _as_out_by_in(lm.down_proj(layer))
    if W.shape != update.shape:
        raise ValueError(
            f"layer {layer}: the update is {tuple(update.shape)} but the matrix is {tuple(W.shape)} "
            "(out × in)"
        )
    if W.dtype.itemsize < 4:
        write_weight(lm, layer, read_weight(lm, layer) + update.float())
    else:
        W.add_(update.to(W))


@torch.no_grad()
def write_weight(lm: LanguageModel, layer: int, W: Tensor) -> None:
    """Put a stored matrix (out × in) back, bit for bit; for resuming and undoing only."""
    own = _as_out_by_in(lm.down_proj(layer))
    if own.dtype.itemsize < 4:
        lm.masters[layer] = W.to(own.device, torch.float32, copy=True)
    own.copy_(W)


@contextmanager
def restored(lm: LanguageModel, layers: Iterable[int]) -> Iterator[None]:
    """Whatever happens inside, the edited matrices of `layers` are as before, bit for bit, afterwards."""
    before = {
        layer: (_as_out_by_in(lm.down_proj(layer)).detach().clone(), lm.masters.get(layer))
        for layer in layers
    }
    try:
        yield
    finally:
        for layer, (W, master) in before.items():
            write_weight(lm, layer, W)
            lm.masters.pop(layer, None)
            if master is not None:
                lm.masters[layer] = master


@contextmanager
def rewound(lm: LanguageModel, original: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, the layers' matrices are the stored ones; afterwards as before, bit for bit."""
    with restored(lm, original):
        for layer, W in original.items():
            write_weight(lm, layer, W)
        yield


def _as_out_by_in(module: nn.Module) -> Tensor:
    """A view of the weight as out × in; decided by the module's type, never by the weight's shape."""
    if not isinstance(module, nn.Linear | Conv1D):
        raise TypeError(f"cannot edit a {type(module).__name__}; expected a Linear or a Conv1D")
    if module.weight.is_meta:
        raise ValueError(
            "the matrix of an edited layer is offloaded to CPU memory or disk, where no update lasts; "
            'give the edited layers a device: more or larger GPUs, device "cpu", or a device map that '
            "offloads other layers only"
        )
    return module.weight.T if isinstance(module, Conv1D) else module.weight


class Master:
    """What is trained in the place of an edited matrix.

    Attributes:
        value: the matrix itself; of a model in half precision the float32 master, out × in, that it is rounded from.
    """

    def __init__(self, lm: LanguageModel, layer: int):
        self.lm, self.layer, self.module = lm, layer, lm.down_proj(layer)
        self.half = self.module.weight.dtype.itemsize < 4
        self.value = read_weight(lm, layer) if self.half else self.module.weight

    def take_gradient(self) -> None:
        if self.half:
            gradient, self.module.weight.grad = self.module.weight.grad, None
            self.value.grad = (gradient.T if isinstance(self.module, Conv1D) else gradient).to(
                self.value
            )

    def write(self) -> None:
        if self.half:
            write_weight(self.lm, self.layer, self.value)
