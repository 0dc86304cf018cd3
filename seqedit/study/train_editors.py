"""Trains the networks of MEND and RLEdit for the embedded model, on calibration facts only.

A fifth of the calibration's subjects is held out. Training ends when the loss of their edits has
stopped falling, and the network that was best on them is kept.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..base.files import alone, check_replaceable, write_json
from ..base.paths import MODEL
from ..base.results import check_result
from ..lm.likelihood import read_features
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.weights import apply_update, read_weight, restored
from ..methods.kinds.hypernetwork import (
    Hypernetwork,
    add_features,
    both,
    is_hypernetwork,
    save_hypernetwork,
)
from ..world.facts import Fact, World, build_world
from .editor_losses import LAYERS, Batch, Batches, EditorConfig, RleditSequence, mend_loss

CONFIGS = {
    "mend": EditorConfig(kind="mend", steps=20_000, step=1e-3, lr=3e-4),
    "rledit": EditorConfig(kind="rledit", steps=4000, step=3e-3, lr=3e-4, kept=0.6, size=1e-4),
    "rledit_released": EditorConfig(
        kind="rledit_released", steps=20, step=3e-3, lr=1e-5, kept=0.6, size=1e-4, patience=0
    ),
}


class Stopping:
    """Ends a training once the held-out loss has stopped falling, and keeps the best network.

    Attributes:
        losses: (batches trained, held-out loss) of every measurement.
    """

    def __init__(self, network: Hypernetwork, patience: int):
        self.network, self.patience = network, patience
        self.losses: list[tuple[int, float]] = []
        self._best: dict[str, Tensor] = {}

    def note(self, batches: int, loss: float) -> bool:
        """Note a held-out loss; return whether training should end."""
        if not self.losses or loss < min(known for _, known in self.losses):
            self._best = {name: t.clone() for name, t in self.network.state_dict().items()}
        self.losses.append((batches, round(loss, 4)))
        values = [known for _, known in self.losses]
        return bool(self.patience) and len(values) - 1 - values.index(min(values)) >= self.patience

    def restore_best(self) -> None:
        """Put the best network back, if the training could end early."""
        if self.patience:
            self.network.load_state_dict(self._best)


def train_editor(name: str, out: Path, seed: int = 0) -> list[tuple[int, float]]:
    """Train the network that `CONFIGS` names and write it to `out`.

    How the training went is written beside it, as a .json file of the same name.

    Returns:
        (batches trained, held-out loss) of every measurement.

    Raises:
        ValueError: there is no such editor, or files of others are in the place.
    """
    if name not in CONFIGS:
        raise ValueError(f"editor: {name!r}; there are {', '.join(CONFIGS)}")
    with alone(out):
        _check_out(out)
        return _train(name, out, seed)


def _check_out(out: Path) -> None:
    """Raises ValueError if files of others are where a network and its JSON file are to be."""
    if out.suffix != ".safetensors":
        raise ValueError(f"out: {out} must end in .safetensors")
    if not (out.is_file() and is_hypernetwork(out)):
        check_replaceable(out)
    check_result(out.with_suffix(".json"), "config", "held_out_loss")


def _train(name: str, out: Path, seed: int) -> list[tuple[int, float]]:
    """Train and write, alone on the file."""
    config, lm, world = CONFIGS[name], load_model(MODEL), build_world(0)
    torch.manual_seed(seed)
    trained, held_out = split_facts(world)
    batches = Batches(lm, world, trained, seed)
    W = read_weight(lm, LAYERS[0])
    mend = config.kind == "mend"
    network = Hypernetwork(
        LAYERS, (W.shape[1], W.shape[0]), blocks=1 if mend else 4, step=config.step
    )
    network = network.to(lm.device)
    seen = read_features(
        lm, [row for _ in range(8) for row in batches.draw(64)[0]], LAYERS, everywhere=mend
    )[0]
    network.running = torch.stack([add_features(None, both(seen[layer])) for layer in LAYERS])
    fixed = Batches(lm, world, held_out, seed + 1)
    checked = [fixed.draw(config.batch) for _ in range(config.length)]
    stopping = Stopping(network, config.patience)
    with restored(lm, LAYERS):
        (_train_mend if mend else _train_rledit)(lm, network, batches, checked, config, stopping)
    stopping.restore_best()
    save_hypernetwork(out, network, lm)
    about = {
        "config": asdict(config),
        "facts": len(trained),
        "held_out_facts": len(held_out),
        "held_out_loss": stopping.losses,
    }
    write_json(out.with_suffix(".json"), about)
    return stopping.losses


def split_facts(world: World) -> tuple[list[Fact], list[Fact]]:
    """The calibration facts to train on, and those of every fifth subject, which are held out."""
    subjects = list(dict.fromkeys(fact.subject for fact in world.of_split("calibration")))
    apart = set(subjects[::5])
    facts = world.of_split("calibration")
    return [f for f in facts if f.subject not in apart], [f for f in facts if f.subject in apart]


def _train_mend(
    lm: LanguageModel,
    network: Hypernetwork,
    batches: Batches,
    checked: Sequence[Batch],
    config: EditorConfig,
    stopping: Stopping,
) -> None:
    """Train on batches that are each written into the unedited model."""
    optimizer = _adam(network, config)
    for step in tqdm(range(config.steps), desc=config.kind, unit="batch", disable=None):
        if step % config.check == 0 and stopping.note(
            step, _held_out_mean(lm, network, checked, config)
        ):
            return
        _learn(optimizer, network, mend_loss(lm, network, batches.draw(config.batch), config))
    stopping.note(config.steps, _held_out_mean(lm, network, checked, config))


@torch.no_grad()
def _held_out_mean(
    lm: LanguageModel, network: Hypernetwork, checked: Sequence[Batch], config: EditorConfig
) -> float:
    """Mean loss of held-out batches, each written into the unedited model."""
    losses = [mend_loss(lm, network, one, config).item() for one in checked]
    return sum(losses) / len(losses)


def _train_rledit(
    lm: LanguageModel,
    network: Hypernetwork,
    batches: Batches,
    checked: Sequence[Batch],
    config: EditorConfig,
    stopping: Stopping,
) -> None:
    """Train on sequences of batches that are written one after the other."""
    optimizer = _adam(network, config)
    original = {layer: read_weight(lm, layer) for layer in LAYERS}
    for step in tqdm(range(config.steps), desc=config.kind, unit="batch", disable=None):
        if step % config.check == 0 and stopping.note(
            step, _held_out_loss(RleditSequence(lm, network, config, original), checked)
        ):
            return
        if step % config.length == 0:
            sequence = RleditSequence(lm, network, config, original)
        loss, updates = sequence.loss(batches.draw(config.batch))
        if config.kind == "rledit":
            _learn(optimizer, network, loss)
        else:  # gradients add up to the only step
            loss.backward()
        for layer, update in updates.items():
            apply_update(lm, layer, update.detach())
    if config.kind == "rledit_released":
        optimizer.step()
    stopping.note(
        config.steps, _held_out_loss(RleditSequence(lm, network, config, original), checked)
    )


@torch.no_grad()
def _held_out_loss(sequence: RleditSequence, checked: Sequence[Batch]) -> float:
    """Mean loss of a sequence of held-out batches."""
    total = 0.0
    for batch in checked:
        loss, updates = sequence.loss(batch)
        total += loss.item()
        for layer, update in updates.items():
            apply_update(sequence.lm, layer, update)
    return total / len(checked)


def _adam(network: Hypernetwork, config: EditorConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=config.lr)


def _learn(optimizer: torch.optim.Optimizer, network: Hypernetwork, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
