"""What a training step reads: packed documents, their positions and the attention mask."""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the trained weights.

    Attributes:
        seed: of the world, the initial weights and the text stream.
        layers: number of blocks.
        width: residual width d_model.
        heads: attention heads of each block.
        inner: MLP width d_ff, the dimension of keys; 1,536 leaves room for about 1,000 edits.
        positions: longest text in tokens.
        vocabulary: tokens of the tokenizer.
        length: tokens of a training sequence.
        batch: sequences per step.
        steps: number of steps.
        warmup: steps in which the step sizes rise linearly; then they fall linearly to zero.
        lr_matrices: step size of Muon, for the matrices inside the blocks.
        lr_rest: step size of AdamW, for embeddings, norms and biases.
        weight_decay: of the matrices inside the blocks.
        shift_share: share of documents that start at a random position, so that all positions are
            trained.
    """

    seed: int = 0
    layers: int = 6
    width: int = 192
    heads: int = 6
    inner: int = 1536
    positions: int = 256
    vocabulary: int = 2048
    length: int = 128
    batch: int = 32
    steps: int = 1400
    warmup: int = 100
    lr_matrices: float = 0.02
    lr_rest: float = 3e-3
    weight_decay: float = 0.02
    shift_share: float = 0.15


SHIPPED = TrainConfig()
"""The settings with which the embedded model was trained."""


def batch_at(
    step: int, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
    """Return tokens and positions of one step.

    Rows are packed with whole documents. Positions start anew with each document, by which
    `document_mask` keeps documents apart; some start at a random position.
    """
    rng = random.Random(f"{config.seed}/positions/{step}")
    rows: list[list[int]] = []
    places: list[list[int]] = []
    row: list[int] = []
    place: list[int] = []
    for ids in tokenizer(corpus.documents(step, config.batch * config.length // 8))["input_ids"]:
        start = 0
        if rng.random() < config.shift_share:
            start = rng.randrange(config.positions - len(ids))
        row += [*ids, tokenizer.eos_token_id]
        place += range(start, start + len(ids) + 1)
        if len(row) >= config.length:
            rows.append(row[: config.length])
            places.append(place[: config.length])
            row, place = [], []
            if len(rows) == config.batch:
                break
    return torch.tensor(rows), torch.tensor(places)


def document_mask(
    positions: Int[Tensor, "batch length"],
) -> Bool[Tensor, "batch 1 length length"]:
    """Return which tokens a token attends to: itself and those before it in its own document."""
    new = positions.diff(prepend=positions[:, :1] - 1) != 1
    document = new.cumsum(dim=1)  # (batch, length), the number of each token's document
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones_like(same).tril())[:, None]
