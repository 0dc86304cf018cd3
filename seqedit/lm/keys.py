"""Keys and values at the subject's last token: what the edited matrix reads, what follows it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.precision import at_least_float32
from ..requests.request import EditRequest
from .layer_sweep import LayerSweep
from .model import LanguageModel
from .partial_forward import Inner
from .tokens import chunks, fill, lookup_rows

Contexts = tuple[tuple[str, ...], ...]
"""Groups of context templates, each with one "{}"; the first group is the bare prompt, ("{}",)."""

BARE: Contexts = (("{}",),)
"""The bare prompt alone."""

Average = Literal["groups", "uniform"]
"""How keys are averaged over context templates, see `context_weights`."""

Site = Literal["block", "mlp"]
"""Where values are read: the output of the block, or that of its MLP."""


def context_weights(contexts: Contexts, average: Average) -> Float[Tensor, "templates"]:
    """Return the weights of the templates in a key, in order of flattened groups; they sum to 1.

    Args:
        contexts: groups of templates.
        average: "groups" is MEMIT's, the mean within each group and then over groups; "uniform" is
            ROME's, the mean over all templates.
    """
    sizes = [len(group) for group in contexts]
    if average == "uniform":
        return torch.full((sum(sizes),), 1 / sum(sizes))
    return torch.tensor([1 / (len(sizes) * size) for size in sizes for _ in range(size)])


class _Part(NamedTuple):
    """Rows of some requests that are read together."""

    sweep: LayerSweep
    last: Int[Tensor, "rows"]  # position of each row's last token, which is the subject's


class KeyReader:
    """Reads keys and values of some requests in one sweep through the layers.

    Layers must be asked for in ascending order. Once the keys of a layer are read, its matrix may
    be changed. Texts are cut after the subject's last token, which changes nothing in a causal
    model.

    Source:
        MEMIT (2210.07229) eq. 19 and its released grouping of contexts; ROME (2202.05262) eq. 3 for
        the uniform average.
    """

    def __init__(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        contexts: Contexts,
        average: Average = "groups",
        batch_tokens: int = 32_768,
    ):
        """Tokenise the prompts of the requests in all contexts, and embed them.

        Args:
            lm: the model.
            requests: whose subjects are looked up.
            contexts: groups of templates; the first template is the bare prompt, where values are
                read.
            average: how keys are averaged over the templates.
            batch_tokens: tokens that run together; bounds memory, changes nothing else.
        """
        templates = [template for group in contexts for template in group]
        self.lm, self.templates = lm, len(templates)
        self.weights = context_weights(contexts, average).to(lm.device)
        tokens, positions = lookup_rows(
            lm,
            [fill(template, request) for request in requests for template in templates],
            [request.subject for request in requests for _ in templates],
        )
        rows = [ids[: position + 1] for ids, position in zip(tokens.ids, positions, strict=True)]
        own = [rows[i : i + self.templates] for i in range(0, len(rows), self.templates)]
        lengths = [sum(len(row) for row in of_request) for of_request in own]
        self.parts = [
            self._part([row for of_request in own[part] for row in of_request])
            for part in chunks(lengths, batch_tokens)
        ]

    def _part(self, rows: list[list[int]]) -> _Part:
        """A sweep over rows of which those with the same template share their beginning."""
        last = [len(row) - 1 for row in rows]
        template = [i % self.templates for i in range(len(rows))]
        sweep = LayerSweep(self.lm, rows, template, own_from=last)
        return _Part(sweep, torch.tensor(last, device=self.lm.device))

    def keys(self, layer: int) -> Float[Tensor, "d_ff n"]:
        """Return the edited matrix's inputs at `layer`, averaged over context templates.

        Raises:
            ValueError: a later layer was asked for before.
        """
        read = []
        for sweep, last in self.parts:
            sweep.advance_to(layer)
            read.append(sweep.peek(Inner(self.lm.down_proj(layer), "input"), last))
        by_request = at_least_float32(torch.cat(read)).unflatten(0, (-1, self.templates))
        return torch.einsum("nck,c->kn", by_request, self.weights.to(by_request))

    def values(self, layer: int, site: Site = "block") -> Float[Tensor, "d_model n"]:
        """Return h of the bare prompts at `layer`; the sweep itself stays where it is.

        Raises:
            ValueError: a later layer was asked for before.
        """
        read = []
        for sweep, last in self.parts:
            bare = torch.arange(len(last), device=last.device) % self.templates == 0  # of the rows
            branch, at = sweep.branch(bare), last[bare]
            if site == "block":
                values = branch.advance_to(layer + 1).at(at)
            else:
                branch.advance_to(layer)
                values = branch.peek(Inner(self.lm.mlp(layer), "output"), at)
            read.append(at_least_float32(values))
        return torch.cat(read).T


def read_keys(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layer: int,
    average: Average = "groups",
) -> Float[Tensor, "d_ff n"]:
    """Return the keys K of the requests at one layer, see `KeyReader`."""
    return KeyReader(lm, requests, contexts, average).keys(layer)


def read_values(
    lm: LanguageModel, requests: Sequence[EditRequest], layer: int, site: Site = "block"
) -> Float[Tensor, "d_model n"]:
    """Return the values h of the bare prompts at one layer, see `KeyReader`."""
    return KeyReader(lm, requests, BARE).values(layer, site)
