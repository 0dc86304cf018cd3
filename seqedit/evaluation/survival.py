"""Do edits survive if the edited model is fine-tuned afterwards on text that has nothing to do
with them?
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..lm.model import LanguageModel
from ..lm.tokens import padded, tokenise
from ..requests.request import EditRequest
from .edits import score_edits

Choice = Literal["all", "edited", "others"]
"""Parameters that are tuned: all of the model's, the edited matrices, or all but these."""

MEASURES = {
    "success": "efficacy",
    "exact": "efficacy_accuracy",
    "paraphrase": "paraphrase",
    "neighborhood": "neighborhood",
}
"""Column of the table → column of `score_edits`, of which it is the mean."""


def survival(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    *,
    steps: Sequence[int],
    parameters: Choice,
    layers: Sequence[int],
    lr: float = 1e-4,
    batch_size: int = 16,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Fine-tune an edited model and measure its edits on the way. `lm` ends as it was.

    Args:
        lm: the edited model, in float32 or float64.
        requests: the edits that it holds.
        texts: documents to tune on, see `neutral_texts`.
        steps: numbers of steps after which to measure; 0 is always measured.
        parameters: which parameters are tuned.
        layers: layers whose matrices were edited.
        lr: step size of AdamW, constant; its other settings are torch's (betas 0.9 and 0.999,
            weight decay 0.01).
        batch_size: documents of a step.
        seed: of the order of the documents.

    Returns:
        One row for each number of steps: `steps`; `loss`, the mean training loss of the steps since
        the row before, in nats a token; the `MEASURES`; and `success_kept` and `exact_kept`, the
        share of what was a success or exact after 0 steps that still is. What cannot be measured
        is None.

    Raises:
        ValueError: a step is negative, there is no text, or the model is in half precision.

    Source:
        2511.05852, which asks this for full and low-rank fine-tuning on downstream tasks, and for
        edited layers or all others alone; this fine-tunes on plain text, without dropout.
    """
    at = sorted({0, *steps})
    if at[0] < 0:
        raise ValueError(f"steps: {at[0]} is negative; give numbers of steps such as 0,10,50,100")
    if not texts:
        raise ValueError("text: holds no document to tune on; give another file")
    tuned = chosen_parameters(lm, parameters, layers)
    first = score_edits(lm, requests)
    rows = [_row(0, None, first, first)]
    with _tuning(tuned):
        losses = _fine_tune(lm, texts, tuned, lr, batch_size, seed)
        for before, now in pairwise(at):
            loss = [next(losses) for _ in range(now - before)]
            rows.append(_row(now, float(np.mean(loss)), first, score_edits(lm, requests)))
    return rows


def neutral_texts(texts: Sequence[str], requests: Sequence[EditRequest]) -> list[str]:
    """The texts that are not blank and name no subject of the requests.

    A text that states the old fact would edit the model once more.
    """
    subjects = {request.subject for request in requests}
    return [t for t in texts if t.strip() and not any(subject in t for subject in subjects)]


def chosen_parameters(
    lm: LanguageModel, parameters: Choice, layers: Sequence[int]
) -> list[nn.Parameter]:
    """The model's parameters that a choice tunes, each once.

    Raises:
        ValueError: one of them is in half precision, where small steps are lost.
    """
    edited = {id(lm.down_proj(layer).weight) for layer in layers}
    found = [
        parameter
        for parameter in lm.model.parameters()
        if parameters == "all" or (id(parameter) in edited) == (parameters == "edited")
    ]
    if any(parameter.dtype.itemsize < 4 for parameter in found):
        raise ValueError("dtype: fine-tuning needs float32; load the model with dtype float32")
    return found


def _fine_tune(
    lm: LanguageModel,
    texts: Sequence[str],
    tuned: list[nn.Parameter],
    lr: float,
    batch_size: int,
    seed: int,
) -> Iterator[float]:
    """Take one step after the other, without end, and yield the loss before each."""
    optimizer = torch.optim.AdamW(tuned, lr=lr)
    for batch in _batches(texts, batch_size, seed):
        ids = [row[: lm.max_positions] for row in tokenise(lm, batch).ids]
        tokens = padded(lm, ids)  # (documents, longest)
        lengths = torch.tensor([[len(row)] for row in ids])
        real = (torch.arange(tokens.shape[1] - 1) + 1 < lengths).to(tokens.device)  # no padding
        logits = lm.model(tokens).logits[:, :-1][real]  # (predicted tokens, vocabulary)
        loss = cross_entropy(logits, tokens[:, 1:][real])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def _batches(texts: Sequence[str], size: int, seed: int) -> Iterator[list[str]]:
    """Documents in an order that is drawn anew whenever all of them have been read."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(len(texts), generator=generator).tolist()
        yield [texts[i] for i in waiting[:size]]
        waiting = waiting[size:]


@contextmanager
def _tuning(tuned: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, these parameters take gradients; afterwards they are as before, bit for bit."""
    before = [parameter.detach().clone() for parameter in tuned]
    try:
        for parameter in tuned:
            parameter.requires_grad_()
        yield
    finally:
        for parameter, value in zip(tuned, before, strict=True):
            parameter.requires_grad_(False)
            parameter.grad = None
            parameter.copy_(value)


def _row(steps: int, loss: float | None, first: pd.DataFrame, now: pd.DataFrame) -> dict[str, Any]:
    """The measures after some steps beside those after none."""
    row = {name: now[column].mean() for name, column in MEASURES.items()}
    for name in ("success", "exact"):
        column = MEASURES[name]
        row[f"{name}_kept"] = now[column][first[column] == 1].mean()
    return {"steps": steps, "loss": loss} | {
        name: None if np.isnan(value) else float(value) for name, value in row.items()
    }
