"""Keys and values: what the edited matrices read and what the residual stream holds at the subject's last token."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.precision import at_least_float32
from ..requests.request import EditRequest
from .model import LanguageModel
from .partial_forward import LayerSweep
from .tokens import chunks, fill, lookup_rows

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


class KeyReader:
    """Keys and values of some requests, read in one sweep through the layers.

    Layers must be asked for in ascending order; a matrix may be changed once its layer's keys are read. The text is cut
    after the subject's last token, which changes nothing in a causal model.

    Source: MEMIT (2210.07229) eq. 19 and the released grouping; ROME (2202.05262) eq. 3 for the uniform average.
    """

    def __init__(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        contexts: Contexts,
        average: Average = "groups",
        batch_tokens: int = 32_768,
    ):
        templates = [t for group in contexts for t in group]
        self.lm, self.per, self.weights = (
            lm,
            len(templates),
            context_weights(contexts, average).to(lm.device),
        )
        tokens, positions = lookup_rows(
            lm,
            [fill(t, r) for r in requests for t in templates],
            [r.subject for r in requests for _ in templates],
        )
        rows = [ids[: position + 1] for ids, position in zip(tokens.ids, positions, strict=True)]
        owned = [rows[i : i + self.per] for i in range(0, len(rows), self.per)]
        self.sweeps = []
        for part in chunks([sum(map(len, own)) for own in owned], batch_tokens):
            own = [row for rows in owned[part] for row in rows]
            last = torch.tensor([len(row) - 1 for row in own], device=lm.device)
            self.sweeps.append(
                (LayerSweep(lm, own, [i % self.per for i in range(len(own))], last.tolist()), last)
            )

    def keys(self, layer: int) -> Float[Tensor, "d_ff n"]:
        """The input of the edited matrix of `layer` at the subject's last token, averaged over context templates."""
        read = torch.cat(
            [
                self._at(sweep, layer).peek(self.lm.down_proj(layer), lambda call: call.input, last)
                for sweep, last in self.sweeps
            ]
        )
        read = at_least_float32(read).unflatten(0, (-1, self.per))  # (n, templates, d_ff)
        return torch.einsum("nck,c->kn", read, self.weights.to(read))

    def values(self, layer: int, site: str = "block") -> Float[Tensor, "d_model n"]:
        """h of the bare prompts: output of the block (site "mlp": of the MLP) of `layer`; the sweep does not move."""
        read = []
        for sweep, last in self.sweeps:
            bare = torch.arange(len(last), device=last.device) % self.per == 0
            branch = self._at(sweep.branch(bare), layer + (site == "block"))
            found = (
                branch.residual()[torch.arange(len(last), device=last.device), last]
                if site == "block"
                else branch.peek(self.lm.mlp(layer), lambda call: call.hidden, last)
            )
            read.append(at_least_float32(found[bare]))
        return torch.cat(read).T

    @staticmethod
    def _at(sweep: LayerSweep, layer: int) -> LayerSweep:
        if sweep.layer > layer:
            raise ValueError(
                f"layer {layer} was asked for, but the sweep is at {sweep.layer} already"
            )
        while sweep.layer < layer:
            sweep.advance()
        return sweep


def read_keys(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layer: int,
    average: Average = "groups",
) -> Float[Tensor, "d_ff n"]:
    """Keys K of the requests at one layer, see `KeyReader`."""
    return KeyReader(lm, requests, contexts, average).keys(layer)


def read_values(
    lm: LanguageModel, requests: Sequence[EditRequest], layer: int, site: str = "block"
) -> Float[Tensor, "d_model n"]:
    """Values h of the bare prompts at one layer, see `KeyReader`."""
    return KeyReader(lm, requests, BARE).values(layer, site)
