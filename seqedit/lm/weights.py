"""The edited matrices: the one module that reads and writes them.

`apply_update` changes a model. `write_weight` puts stored matrices back, to undo and to resume. The
only other way in is `TrainableWeight`, which hands a matrix to an optimizer for fine-tuning.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..base.precision import at_least_float32
from .model import LanguageModel


def read_weight(lm: LanguageModel, layer: int) -> Float[Tensor, "d_model d_ff"]:
    """Return a copy of the edited matrix of `layer`, out × in, in at least float32.

    For a model in half precision this is the float32 master from which the model's matrix is
    rounded.
    """
    W = lm.masters.get(layer, _as_out_by_in(lm.down_proj(layer)).detach())
    return at_least_float32(W).to(lm.device, copy=True)


@torch.no_grad()
def apply_update(lm: LanguageModel, layer: int, update: Float[Tensor, "out in"]) -> None:
    """Add an update to the edited matrix of `layer`, W ← W + Δ: the one verb that changes a model.

    In half precision Δ is added to a float32 master and the sum is rounded, so that small updates
    add up.

    Args:
        lm: the model.
        layer: whose matrix changes.
        update: Δ, (d_model, d_ff).

    Raises:
        ValueError: the update has another shape than the matrix.
    """
    W = _as_out_by_in(lm.down_proj(layer))
    if W.shape != update.shape:
        raise ValueError(
            f"layer {layer}: the update is {tuple(update.shape)} but the matrix is "
            f"{tuple(W.shape)} (out × in)"
        )
    if _is_half(W):
        write_weight(lm, layer, read_weight(lm, layer) + update.float())
    else:
        W.add_(update.to(W))


@torch.no_grad()
def write_weight(lm: LanguageModel, layer: int, W: Float[Tensor, "d_model d_ff"]) -> None:
    """Put a matrix, out × in, into the model bit for bit; only to undo, to resume and to train."""
    own = _as_out_by_in(lm.down_proj(layer))
    if _is_half(own):
        lm.masters[layer] = W.to(own.device, torch.float32, copy=True)
    own.copy_(W)


@contextmanager
def restored(lm: LanguageModel, layers: Iterable[int]) -> Iterator[None]:
    """After the `with` block, the edited matrices of `layers` are as before it, bit for bit.

    This holds whatever happens inside, exceptions included.
    """
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
def rewound(
    lm: LanguageModel, original: Mapping[int, Float[Tensor, "d_model d_ff"]]
) -> Iterator[None]:
    """Put stored matrices into the model for the duration of a `with` block."""
    with restored(lm, original):
        for layer, W in original.items():
            write_weight(lm, layer, W)
        yield


class TrainableWeight:
    """An edited matrix as an optimizer trains it.

    In float32 and float64 the optimizer steps on the model's own parameter, in place. In half
    precision it steps on the float32 master, and the model's parameter is rounded from it after
    each step. The same loop serves both: backward, `take_gradient`, the optimizer's step, `write`.

    Attributes:
        value: what the optimizer is given: the model's parameter, stored as its module stores it,
            or the float32 master, out × in.
    """

    def __init__(self, lm: LanguageModel, layer: int):
        self.lm, self.layer = lm, layer
        self.module = _matrix_module(lm.down_proj(layer))
        self.half = _is_half(self.module.weight)
        self.value = read_weight(lm, layer) if self.half else self.module.weight

    def take_gradient(self) -> None:
        """Move the gradient from the model's parameter to `value`; call it before the step."""
        gradient = self.module.weight.grad
        if self.half and gradient is not None:
            self.module.weight.grad = None
            out_by_in = gradient.T if isinstance(self.module, Conv1D) else gradient
            self.value.grad = out_by_in.to(self.value)

    def out_by_in(self, stored: Tensor) -> Tensor:
        """A view of a tensor that is stored as `value` is, such as its gradient, as out × in."""
        return stored.T if not self.half and isinstance(self.module, Conv1D) else stored

    def write(self) -> None:
        """Bring the model's parameter up to date with `value`; call it after the step."""
        if self.half:
            write_weight(self.lm, self.layer, self.value)


def _as_out_by_in(module: nn.Module) -> Tensor:
    """A view of a module's weight as out × in.

    Which way it is stored follows from the module's type, never from the weight's shape.
    """
    matrix = _matrix_module(module)
    return matrix.weight.T if isinstance(matrix, Conv1D) else matrix.weight


def _matrix_module(module: nn.Module) -> nn.Linear | Conv1D:
    """The module itself, if its weight can be edited.

    Raises:
        TypeError: it is neither a Linear nor a Conv1D.
        ValueError: its weight is offloaded.
    """
    if not isinstance(module, nn.Linear | Conv1D):
        raise TypeError(f"cannot edit a {type(module).__name__}; expected a Linear or a Conv1D")
    if module.weight.is_meta:
        raise ValueError(
            "the matrix of an edited layer is offloaded to CPU memory or disk, where no "
            'update lasts; give the edited layers a device: more or larger GPUs, device "cpu", or '
            "a device map that offloads other layers only"
        )
    return module


def _is_half(W: Tensor) -> bool:
    """Whether a matrix is stored in fewer than 32 bits, so that updates need a float32 master."""
    return W.dtype.itemsize < 4
