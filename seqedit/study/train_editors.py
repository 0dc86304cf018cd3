"""Trains the networks of MEND and RLEdit for the embedded model, on calibration facts only."""

import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from tqdm import tqdm

from ..base.paths import MODEL
from ..lm.likelihood import (
    Features,
    hidden_states,
    log_likelihood,
    read_features,
    shifted,
)
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.tokens import ContinuationRow, continuation_rows
from ..lm.weights import (
    apply_update,
    read_weight,
    restored,
    write_weight,
)
from ..methods.kinds.gradients import learned_residuals, mend_update
from ..methods.kinds.hypernetwork import (
    Hypernetwork,
    add_features,
    both,
    save_hypernetwork,
    standardised,
)
from ..world.corpus import Corpus
from ..world.facts import World, build_world
from ..world.vocabulary import BY_NAME

LAYERS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class EditorConfig:
    """How a network is trained.

    Attributes:
        kind: "mend"; "rledit", a step of the optimiser after every batch of the sequence, as the
            paper describes; or "rledit_released", one step in all, as the released defaults do.
        steps: number of batches.
        step: initial step size of the network.
        batch: edits in a batch.
        lr: Adam's learning rate.
        kept: weight of KL(edited ‖ unedited) on ordinary text.
        length: batches of a sequence, after which the model starts afresh (RLEdit).
        memory: number of earlier batches whose edits still count in the loss.
        decay: weight of a batch relative to that of the batch after it.
        size: weight of ‖Δ‖².
    """

    kind: str
    steps: int
    step: float
    batch: int = 8
    lr: float = 1e-3
    kept: float = 1.0
    length: int = 20
    memory: int = 10
    decay: float = 0.95
    size: float = 0.0


CONFIGS = {
    "mend": EditorConfig(kind="mend", steps=1500, step=1e-3, lr=3e-4),
    "rledit": EditorConfig(kind="rledit", steps=400, step=3e-3, lr=3e-4, kept=0.6, size=1e-4),
    "rledit_released": EditorConfig(
        kind="rledit_released", steps=20, step=3e-3, lr=1e-5, kept=0.6, size=1e-4
    ),
}


class Batches:
    """Draws edits of calibration facts to random new objects, and ordinary text beside them."""

    def __init__(self, lm: LanguageModel, world: World, seed: int):
        self.lm, self.world, self.rng = lm, world, random.Random(f"{seed}/editors")
        self.facts = list(world.of_split("calibration"))
        self.texts = Corpus(world, seed + 7).documents(0, 2000)

    def draw(
        self, count: int
    ) -> tuple[list[ContinuationRow], list[ContinuationRow], list[ContinuationRow]]:
        facts = self.rng.sample(self.facts, count)
        new = [
            self.rng.choice(
                [o for o in self.world.objects[BY_NAME[f.relation].objects] if o != f.object]
            )
            for f in facts
        ]

        def ask() -> list[str]:
            return [self.rng.choice(BY_NAME[f.relation].train).format(f.subject) for f in facts]

        texts = self.rng.sample(self.texts, count)
        heads = [" ".join(text.split()[:-1]) for text in texts]
        return (
            continuation_rows(self.lm, ask(), new),
            continuation_rows(self.lm, ask(), new),
            continuation_rows(self.lm, heads, [text.split()[-1] for text in texts]),
        )


def train_editor(name: str, out: Path, seed: int = 0) -> list[float]:
    """Train the network that `CONFIGS` names, write it to `out` and return the loss of every batch.

    Raises:
        ValueError: there is no such editor.
    """
    if name not in CONFIGS:
        raise ValueError(f"editor: {name!r}; there are {', '.join(CONFIGS)}")
    config, lm = CONFIGS[name], load_model(MODEL)
    torch.manual_seed(seed)
    batches = Batches(lm, build_world(0), seed)
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
    with restored(lm, LAYERS):
        losses = (_train_mend if mend else _train_rledit)(lm, network, batches, config)
    save_hypernetwork(out, network, lm)
    return losses


def _train_mend(
    lm: LanguageModel, network: Hypernetwork, batches: Batches, config: EditorConfig
) -> list[float]:
    """Train on batches that are each written into the unedited model.

    The loss asks for the edits and their paraphrases, and for unchanged ordinary text.
    """
    optimizer, losses = _adam(network, config), []
    for _ in tqdm(range(config.steps), desc=config.kind, unit="batch", disable=None):
        edits, paraphrases, text = batches.draw(config.batch)
        features = read_features(lm, edits, LAYERS, everywhere=True)[0]
        before = _log_p(lm, text)
        with shifted(lm, {layer: mend_update(network, layer, features[layer]) for layer in LAYERS}):
            written = -log_likelihood(lm, edits + paraphrases)[0].mean()
            loss = 0.1 * written + config.kept * _kl(before, _log_p(lm, text))
        losses.append(_learn(optimizer, network, loss))
    return losses


def _train_rledit(
    lm: LanguageModel, network: Hypernetwork, batches: Batches, config: EditorConfig
) -> list[float]:
    """Train on batches that are written one after the other.

    The loss asks for the latest batches too, and for unchanged ordinary text.
    """
    optimizer, losses = _adam(network, config), []
    original = {layer: read_weight(lm, layer) for layer in LAYERS}
    for step in tqdm(range(config.steps), desc=config.kind, unit="batch", disable=None):
        if step % config.length == 0:  # a new sequence, on the unedited model
            recent: deque[list[ContinuationRow]] = deque(maxlen=config.memory + 1)
            running = {layer: network.seen(layer) for layer in LAYERS}
            for layer, W in original.items():
                write_weight(lm, layer, W)
        edits, paraphrases, text = batches.draw(config.batch)
        recent.appendleft(paraphrases)
        features = read_features(lm, edits, LAYERS)[0]
        before = _log_p(lm, text)
        running = {layer: add_features(running[layer], both(features[layer])) for layer in LAYERS}
        updates = {
            layer: _ridge(network, layer, features[layer], running[layer]) for layer in LAYERS
        }
        with shifted(lm, updates):
            weights = torch.tensor(
                [config.decay**age for age, rows in enumerate(recent) for _ in rows]
            )
            said = log_likelihood(lm, [row for rows in recent for row in rows])[0]
            loss = -(weights.to(said) * said).sum() / len(edits) + config.kept * _kl(
                before, _log_p(lm, text)
            )
            loss = loss + config.size * sum(update.square().sum() for update in updates.values())
        if config.kind == "rledit":
            losses.append(_learn(optimizer, network, loss))
        else:  # gradients add up to the only step
            losses.append(loss.item())
            loss.backward()
        for layer, update in updates.items():
            apply_update(lm, layer, update.detach())
    if config.kind == "rledit_released":
        optimizer.step()
    return losses


def _adam(network: Hypernetwork, config: EditorConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=config.lr)


def _learn(optimizer: torch.optim.Optimizer, network: Hypernetwork, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _ridge(network: Hypernetwork, layer: int, features: Features, running: Tensor) -> Tensor:
    """RLEdit's update R(KᵀK + λI)⁻¹Kᵀ, differentiable in the network."""
    R = learned_residuals(network, layer, features.x, standardised(running, both(features)).float())
    system = features.x @ features.x.T + network.ridge(layer) * torch.eye(len(features.x)).to(
        features.x
    )
    return R @ torch.linalg.solve(system, features.x)


def _log_p(lm: LanguageModel, rows: list[ContinuationRow]) -> Tensor:
    """Log-probabilities of the next token after every token of the rows, (tokens, vocabulary)."""
    hidden = hidden_states(lm, rows)
    return log_softmax(
        lm.logits(torch.cat([hidden[i, : len(row.ids)] for i, row in enumerate(rows)])), dim=-1
    )


def _kl(before: Tensor, after: Tensor) -> Tensor:
    """KL(after ‖ before), averaged over tokens; both are log-probabilities, (tokens,
    vocabulary).
    """
    return kl_div(before, after, reduction="batchmean", log_target=True)
