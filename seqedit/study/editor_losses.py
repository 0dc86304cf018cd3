"""What the networks of MEND and RLEdit are trained on, and the losses they are trained by."""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from ..lm.likelihood import (
    Features,
    hidden_states,
    log_likelihood,
    read_features,
    shifted,
)
from ..lm.model import LanguageModel
from ..lm.tokens import ContinuationRow, continuation_rows
from ..lm.weights import write_weight
from ..methods.kinds.gradients import learned_residuals, mend_update
from ..methods.kinds.hypernetwork import Hypernetwork, add_features, both, standardised
from ..world.corpus import Corpus
from ..world.facts import Fact, World
from ..world.vocabulary import BY_NAME

LAYERS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class EditorConfig:
    """How a network is trained.

    Attributes:
        kind: "mend"; "rledit", a step of the optimiser after every batch of the sequence, as the
            paper describes; or "rledit_released", one step in all, as the released defaults do,
            which leaves the network nearly untrained.
        steps: largest number of batches.
        step: initial step size of the network.
        batch: edits in a batch.
        lr: Adam's learning rate.
        kept: weight of KL(edited ‖ unedited) on ordinary text.
        length: batches of a sequence, after which the model starts afresh (RLEdit).
        memory: number of earlier batches whose edits still count in the loss.
        decay: weight of a batch relative to that of the batch after it.
        size: weight of ‖Δ‖².
        check: batches between two measurements of the held-out loss.
        patience: measurements without a lower loss after which training ends; 0 never ends it
            early.
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
    check: int = 100
    patience: int = 5


Batch = tuple[list[ContinuationRow], list[ContinuationRow], list[ContinuationRow]]
"""Edits, the same facts in other words, and ordinary text."""


class Batches:
    """Draws edits of given facts to random new objects, and ordinary text beside them."""

    def __init__(self, lm: LanguageModel, world: World, facts: Sequence[Fact], seed: int):
        self.lm, self.world, self.rng = lm, world, random.Random(f"{seed}/editors")
        self.facts = list(facts)
        self.texts = Corpus(world, seed + 7).documents(0, 2000)

    def draw(self, count: int) -> Batch:
        """Return a batch of `count` edits."""
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


def mend_loss(
    lm: LanguageModel, network: Hypernetwork, batch: Batch, config: EditorConfig
) -> Float[Tensor, ""]:
    """The loss asks for the edits and their paraphrases, and for unchanged ordinary text."""
    edits, paraphrases, text = batch
    with torch.enable_grad():  # features hold gradients of the model
        features = read_features(lm, edits, LAYERS, everywhere=True)[0]
    before = _log_p(lm, text)
    with shifted(lm, {layer: mend_update(network, layer, features[layer]) for layer in LAYERS}):
        written = -log_likelihood(lm, edits + paraphrases)[0].mean()
        return 0.1 * written + config.kept * _kl(before, _log_p(lm, text))


class RleditSequence:
    """A sequence of RLEdit's batches, written one after the other into the unedited model."""

    def __init__(
        self,
        lm: LanguageModel,
        network: Hypernetwork,
        config: EditorConfig,
        original: Mapping[int, Tensor],
    ):
        self.lm, self.network, self.config = lm, network, config
        self.recent: deque[list[ContinuationRow]] = deque(maxlen=config.memory + 1)
        self.running = {layer: network.seen(layer) for layer in LAYERS}
        for layer, W in original.items():
            write_weight(lm, layer, W)

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[int, Tensor]]:
        """The loss of the next batch, and its updates by layer, which are not written yet.

        The loss asks for the latest batches too, and for unchanged ordinary text.
        """
        lm, network, config = self.lm, self.network, self.config
        edits, paraphrases, text = batch
        self.recent.appendleft(paraphrases)
        with torch.enable_grad():  # features hold gradients of the model
            features = read_features(lm, edits, LAYERS)[0]
        before = _log_p(lm, text)
        self.running = {
            layer: add_features(self.running[layer], both(features[layer])) for layer in LAYERS
        }
        updates = {
            layer: _ridge(network, layer, features[layer], self.running[layer]) for layer in LAYERS
        }
        with shifted(lm, updates):
            weights = torch.tensor(
                [config.decay**age for age, rows in enumerate(self.recent) for _ in rows]
            )
            said = log_likelihood(lm, [row for rows in self.recent for row in rows])[0]
            kept = _kl(before, _log_p(lm, text))
        loss = -(weights.to(said) * said).sum() / len(edits) + config.kept * kept
        size = torch.stack([update.square().sum() for update in updates.values()]).sum()
        return loss + config.size * size, updates


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
