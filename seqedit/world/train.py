"""Trains the embedded model: a GPT-2 of 4.9 million parameters that knows the fictional world.

Training is deterministic for a machine, number of threads and seed. An interrupted training
resumes from its last checkpoint.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from ..base.files import alone, check_replaceable, remove_leftovers, whole_folder, write_json
from ..base.tensors import content_digest, load_tensors, save_tensors
from ..lm.fingerprint import identity
from ..lm.load import load_model
from .batches import SHIPPED, TrainConfig, batch_at, document_mask
from .corpus import Corpus
from .facts import build_world
from .muon import Muon
from .tokenizer import train_tokenizer

RESULT = "training.json"
"""The file by which a folder is known as one that a training wrote."""


def new_model(config: TrainConfig) -> GPT2LMHeadModel:
    """Return the untrained model.

    Its activation is ReLU, which keeps keys sparse, with exact zeros; that makes the key space
    easier to read.
    """
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


def train(
    out: Path, config: TrainConfig = SHIPPED, device: str = "cpu", checkpoint_every: int = 250
) -> None:
    """Train the model and write it as a transformers folder in half precision.

    The folder also holds the tokenizer, and `training.json` with the settings, every fiftieth loss
    and the digests by which the model is recognised. Checkpoints lie in `out`.training and are
    removed at the end. Run again after an interruption, training resumes.

    Args:
        out: the folder; one that an earlier training wrote is replaced at the end.
        config: see `TrainConfig`.
        device: where to train.
        checkpoint_every: steps between checkpoints.

    Raises:
        ValueError: `out` or `out`.training holds what no training wrote, or a checkpoint of other
            settings.
    """
    with alone(out):
        _train(out, config, device, checkpoint_every)


def _train(out: Path, config: TrainConfig, device: str, checkpoint_every: int) -> None:
    """Train, alone on the folder."""
    check_replaceable(out, RESULT)
    work = out.with_name(out.name + ".training")
    corpus = Corpus(build_world(config.seed), config.seed)
    tokenizer = train_tokenizer(corpus, config.vocabulary, max_length=config.positions)
    run = _Training(config, device)
    if work.is_dir():
        remove_leftovers(work)
    start = run.resume(work)
    bar = tqdm(total=config.steps, initial=start, unit="step", disable=None, mininterval=5)
    for step in range(start, config.steps):
        run.step(*batch_at(step, corpus, tokenizer, config))
        recent = run.losses[-50:]
        bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", refresh=False)
        bar.update()
        if (step + 1) % checkpoint_every == 0:
            run.save(work, step + 1)
    bar.close()
    with whole_folder(out, RESULT) as part:
        run.model.half().save_pretrained(part)
        tokenizer.save_pretrained(part)
        about = {
            "config": asdict(config),
            "identity": identity(load_model(part, device="cpu")),
            "loss": run.losses[::50],
        }
        write_json(part / RESULT, about)
    _remove_checkpoints(work)


def _remove_checkpoints(work: Path, but: str = "") -> None:
    """Remove the checkpoints of a training, and their folder if nothing else is in it.

    Args:
        work: the folder.
        but: name of a file of tensors to keep, and with it the file that names it.
    """
    for path in work.glob("step-*.safetensors"):
        with suppress(ValueError):  # another program's
            if path.name != but and load_tensors(path)[1].get("about") == RESULT:
                path.unlink()
    if not but and work.is_dir():
        (work / "checkpoint.json").unlink(missing_ok=True)
        if not any(work.iterdir()):
            work.rmdir()


class _Training:
    """Model, optimisers and losses of a training in progress."""

    def __init__(self, config: TrainConfig, device: str):
        self.config, self.device = config, torch.device(device)
        self.model = new_model(config)
        self.model.to(self.device)  # type: ignore[arg-type]  # transformers wraps `to`
        self.model.train()
        self.losses: list[float] = []
        matrices: list[Tensor] = []
        rest: list[Tensor] = []
        for name, parameter in self.model.named_parameters():
            if parameter.ndim == 2 and ".h." in name:
                matrices.append(parameter)
            else:
                rest.append(parameter)
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=config.lr_matrices, weight_decay=config.weight_decay),
            torch.optim.AdamW(rest, lr=config.lr_rest, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.schedules = [LambdaLR(optimizer, self._rate) for optimizer in self.optimizers]

    def _rate(self, step: int) -> float:
        """Return the factor on the step sizes: a linear rise, then a linear fall to zero."""
        return min((step + 1) / self.config.warmup, 1 - step / self.config.steps)

    def step(
        self, tokens: Int[Tensor, "batch length"], positions: Int[Tensor, "batch length"]
    ) -> None:
        """Take one step on a batch and note its loss."""
        tokens, positions = tokens.to(self.device), positions.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = self.model(
                tokens,
                position_ids=positions,
                attention_mask=document_mask(positions),
                labels=tokens,
            ).loss
        loss.backward()
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        self.losses.append(round(loss.item(), 4))

    def save(self, work: Path, step: int) -> None:
        """Write a checkpoint.

        All tensors go into one file; the JSON that names it is replaced last, so that it always
        names a complete file.
        """
        tensors: dict[str, Tensor] = {
            f"model.{name}": parameter for name, parameter in self.model.named_parameters()
        }
        for i, optimizer in enumerate(self.optimizers):
            for j, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer.{i}.{j}.{key}"] = value
        name = f"step-{step}.safetensors"
        save_tensors(work / name, tensors, {"about": RESULT})
        about = {
            "step": step,
            "file": name,
            "content": content_digest(tensors),
            "config": asdict(self.config),
            "losses": self.losses,
        }
        write_json(work / "checkpoint.json", about)
        _remove_checkpoints(work, but=name)

    def resume(self, work: Path) -> int:
        """Load the last checkpoint, if there is one, and return the number of steps done.

        Raises:
            ValueError: it was written with other settings.
        """
        index = work / "checkpoint.json"
        if not index.exists():
            return 0
        try:
            saved = json.loads(index.read_text(encoding="utf-8"))
            same = saved["config"] == asdict(self.config)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{index} is no checkpoint of a training; remove it") from error
        if not same:
            raise ValueError(
                f"{work} holds a checkpoint of other settings; remove the folder to start anew"
            )
        tensors = load_tensors(work / saved["file"])[0]
        if saved["content"] != content_digest(tensors):
            raise ValueError(f"{work / saved['file']} is damaged; remove {work} to start anew")
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        for i, (optimizer, schedule) in enumerate(
            zip(self.optimizers, self.schedules, strict=True)
        ):
            for _ in range(saved["step"]):
                schedule.step()
            _load_state(optimizer, tensors, f"optimizer.{i}.")
        self.losses = saved["losses"]
        return saved["step"]


def _load_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Put the tensors named `prefix`INDEX.FIELD into an optimiser."""
    state: dict[str, Any] = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, field = key.removeprefix(prefix).split(".")
            state["state"].setdefault(int(index), {})[field] = value
    optimizer.load_state_dict(state)
