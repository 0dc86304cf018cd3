"""A small network that reshapes what a matrix saw, inputs and gradients (MEND, RLEdit)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...base.paths import EDITORS
from ...base.tensors import load_tensors, save_tensors
from ...lm.fingerprint import fingerprint
from ...lm.likelihood import Features
from ...lm.model import LanguageModel


class Hypernetwork(nn.Module):
    """Standardised features [x̂; ĝ] of a matrix → (x̃, g̃), by low-rank residual blocks.

    A block is y + scale ⊙ ReLU(yAB + bias) + shift. B, bias and shift are zero at the start, so the
    untrained network changes nothing. All layers share the blocks; scale, shift, step size and
    ridge are each layer's own, and so is `running`, the statistics of the features that the network
    was trained on (see `add_features`).

    Args:
        layers: edited layers, whose matrices have equal shapes.
        widths: d_ff and d_model.
        rank: rank of A and B.
        blocks: number of blocks.
        step: initial step size of every layer.

    Source: MEND (2110.11309) §3, one block; RLEdit (2502.05759), four.
    """

    running: Tensor  # (layers, 3, d_ff + d_model), float64

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
        self, layer: int, hats: Float[Tensor, "tokens features"]
    ) -> tuple[Float[Tensor, "tokens d_ff"], Float[Tensor, "tokens d_model"]]:
        """x̃ and g̃ of tokens, given their standardised features [x̂; ĝ]."""
        i, y = self.layers.index(layer), hats
        blocks = zip(self.A, self.B, self.bias, self.scale[:, i], self.shift[:, i], strict=True)
        for A, B, bias, scale, shift in blocks:
            y = y + scale * torch.relu(y @ A @ B + bias) + shift
        x, g = y.split(list(self.widths), dim=1)
        return x, g

    def seen(self, layer: int) -> Float[Tensor, "3 features"]:
        """Statistics of the features of a layer that the network was trained on."""
        return self.running[self.layers.index(layer)]

    def step(self, layer: int) -> Float[Tensor, ""]:
        """The step size η of a layer."""
        return self.log_step[self.layers.index(layer)].exp()

    def ridge(self, layer: int) -> Float[Tensor, ""]:
        """The ridge of a layer's solve."""
        return self.log_ridge[self.layers.index(layer)].exp()


def both(features: Features) -> Float[Tensor, "tokens features"]:
    """Inputs and gradients side by side, (tokens, d_ff + d_model), in float64."""
    return torch.cat([features.x, features.g], dim=1).double()


def add_features(
    running: Float[Tensor, "3 features"] | None, new: Float[Tensor, "tokens features"]
) -> Float[Tensor, "3 features"]:
    """Running statistics with more features: count, mean, sum of squared deviations.

    Source: Chan, Golub and LeVeque (1983), the pairwise form of Welford's update.
    """
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
) -> Float[Tensor, "tokens features"]:
    """(new − mean) / deviation. A feature that never varied stays zero."""
    count, mean, squares = running.to(new)
    return (new - mean) / ((squares / (count - 1).clamp(min=1)).sqrt() + 1e-7)


def save_hypernetwork(path: Path, network: Hypernetwork, lm: LanguageModel) -> None:
    """Write a network, A and B in half precision, with its layers and its model's fingerprint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.half() if name in ("A", "B") else tensor
        for name, tensor in network.state_dict().items()
    }
    about = {
        "layers": ",".join(map(str, network.layers)),
        "widths": ",".join(map(str, network.widths)),
        "fingerprint": fingerprint(lm),
    }
    save_tensors(path, tensors, about)


KNOWN_BY = {"layers", "widths", "fingerprint"}
"""Metadata of the files of networks."""


def is_hypernetwork(path: Path) -> bool:
    """Whether a file is that of a network."""
    try:
        return set(load_tensors(path)[1]) >= KNOWN_BY
    except ValueError:
        return False


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
            f"network: {name} is not there; `seqedit world train-editor` makes those of the "
            "embedded model"
        )
    tensors, about = load_tensors(path)
    if not set(about) >= KNOWN_BY:
        raise ValueError(f"network: {path} is no trained network")
    if about["fingerprint"] != (own := fingerprint(lm)):
        raise ValueError(
            f"network: {name} was trained for another model (fingerprint {about['fingerprint']}, "
            f"this one has {own})"
        )
    trained = tuple(map(int, about["layers"].split(",")))
    if not set(layers) <= set(trained):
        raise ValueError(
            f"layers: {list(layers)} were given, but {name} was trained for layers {list(trained)}"
        )
    blocks, _, rank = tensors["A"].shape
    d_ff, d_model = map(int, about["widths"].split(","))
    network = Hypernetwork(trained, (d_ff, d_model), rank, blocks)
    network.load_state_dict(tensors)
    return network.to(lm.device).requires_grad_(False)
