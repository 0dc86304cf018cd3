"""A small network that turns what a matrix saw, inputs and gradients, into what should be written (MEND, RLEdit)."""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from ..base.files import save_tensors
from ..base.paths import EDITORS
from ..lm.fingerprint import fingerprint
from ..lm.likelihood import Features
from ..lm.model import LanguageModel


class Hypernetwork(nn.Module):
    """Standardised features [x̂; ĝ] of one of several equally shaped matrices → (x̃, g̃), by low-rank residual blocks.

    A block is y + scale ⊙ ReLU(yAB + bias) + shift, with B, bias and shift zero at the start: the untrained network
    changes nothing. Blocks are shared by all layers; scale, shift, step size and ridge are each layer's own, and so is
    `running`, the statistics of the features it was trained on (see `add_features`).

    Args:
        layers: edited layers; widths: d_ff and d_model; rank: of A and B; blocks: how many.
        step: initial step size of every layer.

    Source: MEND (2110.11309) §3, one block; RLEdit (2502.05759), four.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        widths: tuple[int, int],
        rank: int = 64,
        blocks: int = 1,
        step: float = 1e-4,
    ):
        super().__init__()
        self.layers, self.widths, width = tuple(layers), tuple(widths), sum(widths)
        self.register_buffer(
            "running",
            torch.stack(
                [
                    torch.stack([torch.full((width,), 2.0), torch.zeros(width), torch.ones(width)])
                    for _ in layers
                ]
            ).double(),
        )
        self.A = nn.Parameter(torch.randn(blocks, width, rank) / width**0.5)
        self.B = nn.Parameter(torch.zeros(blocks, rank, width))
        self.bias = nn.Parameter(torch.zeros(blocks, width))
        self.scale = nn.Parameter(torch.ones(blocks, len(layers), width))
        self.shift = nn.Parameter(torch.zeros(blocks, len(layers), width))
        self.log_step = nn.Parameter(torch.full((len(layers),), step).log())
        self.log_ridge = nn.Parameter(torch.zeros(len(layers)))

    def transform(
        self, layer: int, hats: Float[Tensor, "tokens d_ff_plus_d_model"]
    ) -> tuple[Tensor, Tensor]:
        """(x̃, g̃), (tokens, d_ff) and (tokens, d_model), of the tokens' standardised features."""
        i, y = self.layers.index(layer), hats
        for A, B, bias, scale, shift in zip(
            self.A, self.B, self.bias, self.scale[:, i], self.shift[:, i], strict=True
        ):
            y = y + scale * torch.relu(y @ A @ B + bias) + shift
        return y.split(list(self.widths), dim=1)

    def seen(self, layer: int) -> Float[Tensor, "3 features"]:
        return self.running[self.layers.index(layer)]

    def step(self, layer: int) -> Tensor:
        return self.log_step[self.layers.index(layer)].exp()

    def ridge(self, layer: int) -> Tensor:
        return self.log_ridge[self.layers.index(layer)].exp()


def both(features: Features) -> Float[Tensor, "tokens d_ff_plus_d_model"]:
    """Inputs and gradients side by side, float64."""
    return torch.cat([features.x, features.g], dim=1).double()


def add_features(running: Tensor | None, new: Tensor) -> Float[Tensor, "3 features"]:
    """Count, mean and sum of squared deviations of all features so far, joined with new ones (Chan et al.)."""
    here = torch.stack(
        [torch.full_like(new[0], len(new)), new.mean(0), ((new - new.mean(0)) ** 2).sum(0)]
    )
    if running is None:
        return here
    running = running.to(here)
    count = running[0] + here[0]
    step = here[1] - running[1]
    return torch.stack(
        [
            count,
            running[1] + step * here[0] / count,
            running[2] + here[2] + step**2 * running[0] * here[0] / count,
        ]
    )


def standardised(
    running: Float[Tensor, "3 features"], new: Float[Tensor, "tokens features"]
) -> Tensor:
    """(new − mean) / deviation; a feature that never varied stays zero."""
    count, mean, squares = running.to(new)
    return (new - mean) / ((squares / (count - 1).clamp(min=1)).sqrt() + 1e-7)


def save_hypernetwork(path: Path, network: Hypernetwork, lm: LanguageModel) -> None:
    """safetensors in half precision, with the layers and the fingerprint of the model it was trained for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(
        path,
        {
            name: tensor.half() if name in ("A", "B") else tensor
            for name, tensor in network.state_dict().items()
        },
        {
            "layers": ",".join(map(str, network.layers)),
            "widths": ",".join(map(str, network.widths)),
            "fingerprint": fingerprint(lm),
        },
    )


def load_hypernetwork(name: str, lm: LanguageModel, layers: tuple[int, ...]) -> Hypernetwork:
    """A trained network for these layers of this model.

    Args:
        name: a .safetensors file, or the name of one in data/editors.

    Raises:
        ValueError: there is no such file, or it was trained for another model or for other layers.
    """
    path = Path(name) if name.endswith(".safetensors") else EDITORS / f"{name}.safetensors"
    if not path.exists():
        raise ValueError(
            f"network: {name} is not there; `seqedit world train-editor` makes those of the embedded "
            "model"
        )
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    if about["fingerprint"] != fingerprint(lm):
        raise ValueError(
            f"network: {name} was trained for another model (fingerprint {about['fingerprint']}, this one "
            f"has {fingerprint(lm)})"
        )
    trained = tuple(map(int, about["layers"].split(",")))
    if not set(layers) <= set(trained):
        raise ValueError(
            f"layers: {list(layers)} were given, but {name} was trained for layers {list(trained)}"
        )
    blocks, _, rank = tensors["A"].shape
    network = Hypernetwork(trained, tuple(map(int, about["widths"].split(","))), rank, blocks)
    network.load_state_dict(tensors)
    return network.to(lm.device).requires_grad_(False)
