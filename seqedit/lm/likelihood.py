"""The likelihood of targets after their prompts, and its gradients at the edited matrices.

Fine-tuning and the methods that solve for updates from gradients (MEND, RLEdit) work from these.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from .hooks import AfterHook, forward_hooks, recording
from .model import LanguageModel
from .tokens import ContinuationRow, padded


def hidden_states(
    lm: LanguageModel, rows: Sequence[ContinuationRow]
) -> Float[Tensor, "rows tokens d_model"]:
    """Return the last block's output for all rows, differentiable in what asks for a gradient."""
    last = lm.n_layers - 1
    with recording({last: lm.block(last)}, last) as calls:
        lm.model.base_model(input_ids=padded(lm, [row.ids for row in rows]), use_cache=False)
    return calls[last].hidden.to(lm.device)


def log_likelihood(
    lm: LanguageModel, rows: Sequence[ContinuationRow], *, at_prompt: bool = False
) -> tuple[Float[Tensor, "rows"], Bool[Tensor, "rows"]]:
    """Return mean log p of each continuation's tokens, and whether all are the most probable ones.

    Args:
        lm: the model.
        rows: prompts with continuations.
        at_prompt: read every token of a continuation from the prediction after the prompt, as the
            released code of FT does, instead of each from its own.
    """
    hidden = hidden_states(lm, rows)
    entries = [  # (row, position, token) of every predicted token
        (n, row.positions[0] if at_prompt else position, token)
        for n, row in enumerate(rows)
        for position, token in zip(row.positions, row.continuation, strict=True)
    ]
    owner, position, token = torch.tensor(entries, device=lm.device).unbind(dim=1)
    log_p = log_softmax(lm.logits(hidden[owner, position]), dim=-1)  # (entries, vocabulary)
    log_p_token = log_p.gather(1, token[:, None])[:, 0]  # (entries,)
    wrong = (log_p.argmax(-1) != token).double()
    count = torch.bincount(owner, minlength=len(rows))
    missed = torch.bincount(owner, weights=wrong, minlength=len(rows))
    total = log_p_token.new_zeros(len(rows)).index_add(0, owner, log_p_token)
    return total / count, missed == 0


class Features(NamedTuple):
    """What an edited matrix saw at some tokens.

    Attributes:
        x: its inputs.
        g: gradients of the loss with respect to its outputs.
        row: which row each token belongs to.
    """

    x: Float[Tensor, "tokens d_ff"]
    g: Float[Tensor, "tokens d_model"]
    row: Int[Tensor, "tokens"]


def read_features(
    lm: LanguageModel,
    rows: Sequence[ContinuationRow],
    layers: Sequence[int],
    *,
    everywhere: bool = False,
) -> tuple[dict[int, Features], Float[Tensor, "rows"], Bool[Tensor, "rows"]]:
    """Read inputs and output gradients of the edited matrices, one pass forward and one backward.

    The loss is the sum over rows of −`log_likelihood`, so that no row's gradients depend on other
    rows.

    Args:
        lm: the model.
        rows: prompts with continuations.
        layers: whose matrices are read.
        everywhere: read all tokens, instead of those at which a continuation's tokens are
            predicted.

    Returns:
        Features of each layer, and the two results of `log_likelihood`.
    """
    inputs: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}

    def keep(layer: int) -> AfterHook:
        def hook(module, args, kwargs, output):
            inputs[layer] = args[0].detach()
            outputs[layer] = output if output.requires_grad else output.detach().requires_grad_()
            outputs[layer].retain_grad()
            return outputs[layer]

        return hook

    with forward_hooks(after=[(lm.down_proj(layer), keep(layer)) for layer in layers]):
        with torch.enable_grad():
            log_p, right = log_likelihood(lm, rows)
            (-log_p.sum()).backward()
    entries = [
        (n, position)
        for n, row in enumerate(rows)
        for position in (range(len(row.ids)) if everywhere else row.positions)
    ]
    owner, position = torch.tensor(entries, device=lm.device).unbind(dim=1)
    features = {}
    for layer in layers:
        gradient = outputs[layer].grad
        assert gradient is not None  # asked for by retain_grad
        features[layer] = Features(
            inputs[layer].to(lm.device)[owner, position].float(),
            gradient.to(lm.device)[owner, position].float(),
            owner,
        )
    return features, log_p.detach(), right


@contextmanager
def shifted(
    lm: LanguageModel, updates: Mapping[int, Float[Tensor, "d_model d_ff"]]
) -> Iterator[None]:
    """Let the edited matrices act as W + Δ inside a `with` block, differentiably in Δ.

    The weights themselves are not touched.

    Args:
        lm: the model.
        updates: layer → Δ, out × in.
    """

    def add(update: Tensor) -> AfterHook:
        def hook(module, args, kwargs, output):
            return output + args[0] @ update.to(output).T

        return hook

    hooks = [(lm.down_proj(layer), add(update)) for layer, update in updates.items()]
    with forward_hooks(after=hooks):
        yield
