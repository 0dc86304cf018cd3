"""Trains the embedded model: a GPT-2 of 4.8 million parameters on the fictional world, on a CPU or a GPU.

Deterministic for a machine, thread count and seed; interrupted, it goes on from its last checkpoint.
"""

import json
import os
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from .corpus import Corpus
from .facts import build_world
from .muon import Muon
from .tokenizer import train_tokenizer


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the trained weights.

    Attributes:
        width: residual width d_model.
        inner: MLP width d_ff, the dimension of the keys; 1,536 leaves room for about 1,000 edits.
        shift_share: share of documents that start at a random position, so that all positions are trained.
    """

    seed: int = 0
    layers: int = 6
    width: int = 192
    heads: int = 6
    inner: int = 1536
    positions: int = 256
    vocabulary: int = 2048
    length: int = 128
    batch: int = 32  # sequences a step: 4,096 tokens
    steps: int = 1400
    warmup: int = 100
    lr_matrices: float = 0.02  # Muon
    lr_rest: float = 3e-3  # AdamW: embeddings, norms, biases
    weight_decay: float = 0.02
    shift_share: float = 0.15


def new_model(config: TrainConfig) -> GPT2LMHeadModel:
    """The untrained model. ReLU keeps keys sparse and exact zeros exact, which helps to read the key space."""
    torch.manual_seed(config.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocabulary,
            n_positions=config.positions,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.inner,
            activation_function="relu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def batch_at(
    step: int, corpus: Corpus, tokenizer, config: TrainConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and positions of one step, both (batch, length).

    Rows are packed with whole documents; each begins a new count of positions, which keeps documents from seeing
    each other, as a prompt sees nothing before it. Some documents start at a random position.
    """
    rng = random.Random(f"{config.seed}/positions/{step}")
    rows, places, row, place = [], [], [], []
    for ids in tokenizer(corpus.documents(step, config.batch * config.length // 8))["input_ids"]:
        start = (
            rng.randrange(config.positions - len(ids)) if rng.random() < config.shift_share else 0
        )
        row += [*ids, tokenizer.eos_token_id]
        place += range(start, start + len(ids) + 1)
        if len(row) >= config.length:
            rows.append(row[: config.length])
            places.append(place[: config.length])
            row, place = [], []
            if len(rows) == config.batch:
                break
    return torch.tensor(rows), torch.tensor(places)


def document_mask(positions: torch.Tensor) -> torch.Tensor:
    """Which tokens see which, (batch, 1, length, length): those before them in their own document."""
    new = positions.diff(prepend=positions[:, :1] - 1) != 1
    document = new.cumsum(dim=1)  # (batch, length)
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones_like(same).tril())[:, None]


def train(
    out: Path, config: TrainConfig = TrainConfig(), device: str = "cpu", checkpoint_every: int = 250
) -> None:
    """Train and write `out` (a transformers folder with tokenizer, half precision, and training.json).

    Checkpoints live in `out`.training and are removed at the end; run again, it resumes.
    """
    work = out.with_name(out.name + ".training")
    work.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(build_world(config.seed), config.seed)
    tokenizer = train_tokenizer(corpus, config.vocabulary, max_length=config.positions)
    model = new_model(config).to(device).train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        Muon(matrices, lr=config.lr_matrices, weight_decay=config.weight_decay),
        torch.optim.AdamW(rest, lr=config.lr_rest, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            o, lambda s: min((s + 1) / config.warmup, 1 - s / config.steps)
        )
        for o in optimizers
    ]
    start, losses = _resume(work, config, model, optimizers, schedules)
    bar = tqdm(
        range(start, config.steps),
        initial=start,
        total=config.steps,
        unit="step",
        disable=None,
        mininterval=5,
    )
    for step in bar:
        tokens, positions = (t.to(device) for t in batch_at(step, corpus, tokenizer, config))
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            loss = model(
                tokens,
                position_ids=positions,
                attention_mask=document_mask(positions),
                labels=tokens,
            ).loss
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        losses.append(round(loss.item(), 4))
        bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if (step + 1) % checkpoint_every == 0:
            _checkpoint(work, step + 1, config, model, optimizers, losses)
    part = out.with_name(out.name + ".part")
    model.half().save_pretrained(part)
    tokenizer.save_pretrained(part)
    (part / "training.json").write_text(
        json.dumps({"config": asdict(config), "loss": losses[::50]}, indent=1)
    )
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)
    shutil.rmtree(work)


def _checkpoint(
    work: Path, step: int, config: TrainConfig, model, optimizers, losses: list[float]
) -> None:
    """One safetensors file of all tensors; the JSON that names it is replaced last, so it always names a whole file."""
    tensors = {f"model.{name}": p for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{key}": value for key, value in state.items()}
    name = f"step-{step}.safetensors"
    save_file(
        {key: value.detach().contiguous().cpu() for key, value in tensors.items()}, work / name
    )
    part = work / "checkpoint.json.part"
    part.write_text(
        json.dumps({"step": step, "file": name, "config": asdict(config), "losses": losses})
    )
    os.replace(part, work / "checkpoint.json")
    for old in work.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def _resume(
    work: Path, config: TrainConfig, model, optimizers, schedules
) -> tuple[int, list[float]]:
    """Load the last checkpoint into everything given; (0, []) where there is none."""
    index = work / "checkpoint.json"
    if not index.exists():
        return 0, []
    saved = json.loads(index.read_text())
    if saved["config"] != asdict(config):
        raise ValueError(
            f"{work} holds a checkpoint of other settings; remove the folder to start anew"
        )
    tensors = load_file(work / saved["file"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for i, (optimizer, schedule) in enumerate(zip(optimizers, schedules, strict=True)):
        for _ in range(saved["step"]):
            schedule.step()
        state = optimizer.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{i}."):
                _, _, j, field = key.split(".")
                state["state"].setdefault(int(j), {})[field] = value
        optimizer.load_state_dict(state)
    return saved["step"], saved["losses"]
