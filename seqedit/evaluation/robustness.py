"""Does an edit hold when its subject is asked for in another way? Perturbed prompts, and keys that no longer fire."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..lm.keys import BARE, Contexts, read_keys
from ..lm.model import LanguageModel
from ..lm.tokens import tokenise
from ..requests.request import EditRequest, reversed_words
from .continuations import exact_match

KINDS = (
    "as edited",
    "paraphrase",
    "subject's words reversed",
    "subject's last word only",
    "after a long text",
)


def perturbed(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    seed: int = 0,
    tokens: int = 128,
) -> dict[str, list[EditRequest]]:
    """kind of perturbation → the requests asked for in that way; the target stays.

    Args:
        texts: documents from which long contexts are put together; tokens: how long these are, in tokens.

    Source: REP (2410.09338), with reversed words for its shuffled tokens, and the last word alone instead of
    paraphrases of the subject, which need another language model.
    """
    rng = random.Random(seed)

    def words(request: EditRequest) -> list[str]:
        return request.subject.split()

    def after_text(request: EditRequest) -> EditRequest:
        documents: list[str] = []
        while len(tokenise(lm, [" ".join(documents)]).ids[0] if documents else ()) < tokens:
            documents.append(rng.choice(texts))
        return replace(request, prompt=f"{' '.join(documents).replace('{}', '')} {request.prompt}")

    return {
        "as edited": list(requests),
        "paraphrase": [
            replace(r, prompt=text.replace(r.subject, "{}", 1))
            for r in requests
            for text in r.paraphrase_prompts
            if r.subject in text
        ],
        "subject's words reversed": reversed_words(requests),
        "subject's last word only": [
            replace(r, subject=words(r)[-1]) for r in requests if len(words(r)) > 1
        ],
        "after a long text": [after_text(r) for r in requests],
    }


def robustness(lm: LanguageModel, asked: dict[str, list[EditRequest]]) -> dict[str, float]:
    """Share of requests whose target is told (greedy, all tokens), for each kind of `perturbed`."""
    return {
        kind: float(exact_match(lm, [r.text for r in own], [r.target_new for r in own]).mean())
        for kind, own in asked.items()
        if own
    }


def firing(
    lm: LanguageModel,
    edited: Sequence[EditRequest],
    asked: Sequence[EditRequest],
    layer: int,
    C: Tensor,
    contexts: Contexts = BARE,
) -> np.ndarray:
    """How strongly an edit fires when it is asked for in another way: β = kᵀC⁻¹k* / k*ᵀC⁻¹k*, one for each of `asked`.

    It is the share of v* − Wk* that ROME's rank-one update adds at key k; 1 at its own key k*, 0 where it is silent.

    Args:
        edited: the requests as edited, matched to `asked` by case_id.
        contexts: over which k* was averaged.

    Source: REP (2410.09338); whitening by C as in ROME's solution.
    """
    unique = {r.case_id: i for i, r in enumerate(edited)}
    own = read_keys(lm, edited, contexts, layer, average="uniform").double()  # k*, (d_ff, n)
    keys = read_keys(lm, asked, BARE, layer).double()
    solved = torch.linalg.solve(C.double().to(own.device), own)  # C⁻¹k*
    at = torch.tensor([unique[r.case_id] for r in asked], device=own.device)
    return ((keys * solved[:, at]).sum(0) / (own * solved).sum(0)[at]).cpu().numpy()
