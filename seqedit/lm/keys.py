"""Keys and values: what the edited matrices read and what the residual stream holds at the subject's last token."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..precision import at_least_float32
from ..requests import EditRequest
from .hooks import observe
from .load import LanguageModel
from .tokens import chunks, fill, lookup_rows, padded

Contexts = tuple[tuple[str, ...], ...]
"""Groups of context templates, each with one "{}"; the first group is the bare prompt, ("{}",)."""

Average = Literal["groups", "uniform"]
BARE: Contexts = (("{}",),)


def context_weights(contexts: Contexts, average: Average) -> Tensor:
    """Weight of each template in a key, float32, summing to 1, in the order of the flattened groups.

    "groups" is MEMIT's: mean within a group, then over groups; "uniform" is ROME's: all templates alike.
    """
    sizes = [len(group) for group in contexts]
    if average == "uniform":
        return torch.full((sum(sizes),), 1 / sum(sizes))
    return torch.tensor([1 / (len(sizes) * size) for size in sizes for _ in range(size)])


def read_keys(lm: LanguageModel, requests: Sequence[EditRequest], contexts: Contexts, layer: int,
              average: Average = "groups", batch_tokens: int = 32_768) -> Float[Tensor, "d_ff n"]:
    """Keys K of the requests at `layer`: the input of the edited matrix, averaged over context templates.

    The text is cut after the subject's last token, which changes nothing in a causal model.

    Source: MEMIT (2210.07229) eq. 19 and the released grouping; ROME (2202.05262) eq. 3.
    """
    templates = [t for group in contexts for t in group]
    read = _at_subject(lm, requests, templates, lm.down_proj(layer), batch_tokens, lambda call: call.input)
    return torch.einsum("nck,c->kn", read.unflatten(0, (len(requests), len(templates))),
                        context_weights(contexts, average).to(read))


def read_values(lm: LanguageModel, requests: Sequence[EditRequest], layer: int, site: str = "block",
                batch_tokens: int = 32_768) -> Float[Tensor, "d_model n"]:
    """Values h of the bare prompts: output of the block (or, site "mlp", of the MLP) of `layer`."""
    module = lm.block(layer) if site == "block" else lm.mlp(layer)
    return _at_subject(lm, requests, ["{}"], module, batch_tokens, lambda call: call.hidden).T


def _at_subject(lm, requests, templates, module, batch_tokens, pick) -> Tensor:
    """(requests · templates, width) of `pick(call of module)` at the subject's last token."""
    filled = [fill(t, r) for r in requests for t in templates]
    tokens, positions = lookup_rows(lm, filled, [r.subject for r in requests for _ in templates])
    rows = [ids[:position + 1] for ids, position in zip(tokens.ids, positions, strict=True)]
    read = []
    for part in chunks([len(row) for row in rows], batch_tokens):
        call = observe(lm, padded(lm, rows[part]), {"module": module}, last="module")["module"]
        at = torch.tensor(positions[part], device=lm.device)
        read.append(at_least_float32(pick(call)[torch.arange(len(at), device=lm.device), at]))
    return torch.cat(read)
