"""Likelihood of targets after prompts with its gradient: what methods read that work from gradients."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax

from .hooks import recording
from .model import LanguageModel
from .tokens import padded, tokenise


class Told(NamedTuple):
    """A prompt with all but the last token of its target, which is told but never read."""

    ids: list[int]
    target: list[int]

    @property
    def places(self) -> range:
        """Positions of the tokens whose predictions tell the target."""
        return range(len(self.ids) - len(self.target), len(self.ids))


def told(lm: LanguageModel, prompts: Sequence[str], targets: Sequence[str]) -> list[Told]:
    """Tokens of each prompt with its target, tokenised as one text with a space between them."""
    tokens = tokenise(lm, [f"{p} {t}" for p, t in zip(prompts, targets, strict=True)])
    starts = [tokens.first_after(row, len(prompt)) for row, prompt in enumerate(prompts)]
    return [Told(ids[:-1], ids[start:]) for ids, start in zip(tokens.ids, starts, strict=True)]


def hidden_states(lm: LanguageModel, rows: Sequence[Told]) -> Float[Tensor, "rows tokens d_model"]:
    """Output of the last block in one pass over all rows; a gradient flows to whatever asks for one."""
    last = lm.n_layers - 1
    with recording({last: lm.block(last)}, last) as calls:
        lm.model.base_model(input_ids=padded(lm, [row.ids for row in rows]), use_cache=False)
    return calls[last].hidden.to(lm.device)


def log_likelihood(
    lm: LanguageModel, rows: Sequence[Told], *, at_prompt: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean log p of each target's tokens, (rows,), and whether all of them are the most probable ones.

    Args:
        at_prompt: read every token of a target from the prediction after the prompt, as the released code of FT does,
            instead of each from its own.
    """
    hidden = hidden_states(lm, rows)
    at = [
        (n, row.places[0] if at_prompt else place, token)
        for n, row in enumerate(rows)
        for place, token in zip(row.places, row.target, strict=True)
    ]
    n, place, token = (torch.tensor(column, device=lm.device) for column in zip(*at, strict=True))
    log_p = log_softmax(lm.logits(hidden[n, place]), dim=-1)
    said = log_p.gather(1, token[:, None])[:, 0]
    count = torch.bincount(n, minlength=len(rows))
    missed = torch.bincount(n, weights=(log_p.argmax(-1) != token).double(), minlength=len(rows))
    return said.new_zeros(len(rows)).index_add(0, n, said) / count, missed == 0


class Features(NamedTuple):
    """What an edited matrix saw at some tokens."""

    x: Float[Tensor, "tokens d_ff"]  # its inputs
    g: Float[Tensor, "tokens d_model"]  # gradients of the loss at its outputs
    row: Tensor  # row of each token


def read_features(
    lm: LanguageModel, rows: Sequence[Told], layers: Sequence[int], *, everywhere: bool = False
) -> tuple[dict[int, Features], Tensor, Tensor]:
    """Inputs and output gradients of the edited matrices, from one pass forward and one backward.

    The loss is the sum over rows of −`log_likelihood`, so that a row's gradients do not depend on the others.

    Args:
        everywhere: at all tokens instead of those that tell the target.

    Returns:
        Features of each layer; then what `log_likelihood` gives.
    """
    outputs, inputs, handles = {}, {}, []

    def watch(layer):
        def hook(module, args, output):
            inputs[layer] = args[0].detach()
            outputs[layer] = output if output.requires_grad else output.detach().requires_grad_()
            outputs[layer].retain_grad()
            return outputs[layer]

        return hook

    try:
        for layer in layers:
            handles.append(lm.down_proj(layer).register_forward_hook(watch(layer)))
        with torch.enable_grad():
            said, right = log_likelihood(lm, rows)
            (-said.sum()).backward()
    finally:
        for handle in handles:
            handle.remove()
    at = [
        (n, place)
        for n, row in enumerate(rows)
        for place in (range(len(row.ids)) if everywhere else row.places)
    ]
    n, place = (torch.tensor(column, device=lm.device) for column in zip(*at, strict=True))
    return (
        {
            layer: Features(
                inputs[layer].to(lm.device)[n, place].float(),
                outputs[layer].grad.to(lm.device)[n, place].float(),
                n,
            )
            for layer in layers
        },
        said.detach(),
        right,
    )


@contextmanager
def shifted(
    lm: LanguageModel, updates: Mapping[int, Float[Tensor, "d_model d_ff"]]
) -> Iterator[None]:
    """Inside, the matrices act as W + Δ, differentiably in Δ; the weights themselves are not touched."""

    def shift(update):
        return lambda module, args, output: output + args[0] @ update.to(output).T

    handles = [
        lm.down_proj(layer).register_forward_hook(shift(update))
        for layer, update in updates.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
