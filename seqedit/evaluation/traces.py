"""Traces of edits in the weights alone: what was written can be read, and some of it taken back.

The attacker has the edited matrix and the rest of the model, but neither the original matrix nor
prompts. An edit by ROME or a method like it adds a matrix of rank one, u kᵀ, with a u that the
model reads as its object. Where it is large it is among the leading singular directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..lm.model import LanguageModel


@dataclass(frozen=True)
class Traces:
    """What the leading singular directions of an edited matrix would make a model say.

    Attributes:
        share: of the squared norm of the matrix that each direction holds, largest first.
        logits: of the vocabulary, for each direction or its opposite, whichever speaks louder; the
            mean over all directions and opposites is subtracted.
    """

    share: Float[np.ndarray, "directions"]
    logits: Float[Tensor, "directions vocabulary"]

    def tokens(self, top: int) -> Int[Tensor, "directions top"]:
        """The `top` tokens that each direction speaks for, the strongest first."""
        return self.logits.topk(top, dim=1).indices

    def ranks(self, tokens: Sequence[int]) -> Int[np.ndarray, "n"]:
        """For each token its best rank among the vocabulary in any of the directions, from 0."""
        own = self.logits[:, list(tokens)]  # (directions, n)
        above = (self.logits[:, :, None] > own[:, None]).sum(dim=1)  # (directions, n)
        return above.min(dim=0).values.cpu().numpy()


@torch.no_grad()
def read_traces(lm: LanguageModel, W: Float[Tensor, "d_model d_ff"], directions: int) -> Traces:
    """Read the leading left singular vectors of a matrix against the vocabulary.

    Args:
        lm: the model, for its last norm and its head.
        W: the edited matrix, out × in.
        directions: number of singular vectors.

    Source:
        Tracing edits in weights (2505.20819). Departs from it: there a classifier is trained to
        predict the relation of an edit; here directions are read by the model's own head.
    """
    U, values, _ = torch.linalg.svd(W.float(), full_matrices=False)
    leading = U[:, :directions].T.to(next(lm.model.parameters()))  # (directions, d_model)
    scale = leading.shape[1] ** 0.5  # the norm of a state whose components are of order one
    signs = torch.stack([leading, -leading]) * scale
    logits = lm.logits(signs)  # (2, directions, vocabulary)
    logits = logits - logits.mean(dim=(0, 1))
    chosen = logits.max(dim=2).values.argmax(dim=0)  # the sign that speaks louder
    share = (values**2 / (values**2).sum())[:directions]
    return Traces(share.double().cpu().numpy(), logits[chosen, torch.arange(len(leading))])


def objects_read(traces: Traces, tokens: Sequence[int], top: int = 10) -> float:
    """The share of edited objects that an attacker reads: among the `top` tokens of a direction.

    Args:
        traces: from `read_traces`.
        tokens: the first token of each edit's new object.
        top: how many tokens of each direction are looked at.
    """
    return float((traces.ranks(tokens) < top).mean())


def bottom_rank(W: Float[Tensor, "d_model d_ff"], removed: int) -> Float[Tensor, "d_model d_ff"]:
    """A matrix without its leading singular triplets, which takes back edits that are among them.

    Args:
        W: the edited matrix.
        removed: number of triplets that are removed; what they held of the original is lost, too.

    Raises:
        ValueError: `removed` is negative, or nothing would be left.

    Source:
        The reversal by bottom-rank approximation of 2505.20819.
    """
    if not 0 <= removed < min(W.shape):
        raise ValueError(f"removed is {removed}; it must lie between 0 and {min(W.shape) - 1}")
    U, values, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    return ((U[:, removed:] * values[removed:]) @ Vh[removed:]).to(W)
