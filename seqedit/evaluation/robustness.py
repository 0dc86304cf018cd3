"""Robustness: does an edit hold if its fact is asked for in another way?"""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..lm.keys import BARE, Contexts, read_keys
from ..lm.model import LanguageModel
from ..lm.tokens import tokenise
from ..requests.request import EditRequest, reversed_words
from .continuations import exact_match

PERTURBATIONS = (
    "as edited",
    "paraphrase",
    "subject's words reversed",
    "subject's last word only",
    "after a long text",
)
"""The ways in which a fact is asked for, see `perturbed`."""


def perturbed(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    seed: int = 0,
    tokens: int = 128,
) -> dict[str, list[EditRequest]]:
    """Requests that ask for the edited facts in other ways; their targets stay the same.

    Args:
        lm: the model, whose tokenizer counts tokens.
        requests: as edited.
        texts: documents, from which long contexts are drawn.
        seed: of the drawing.
        tokens: minimal length of a long context.

    Returns:
        Perturbation (`PERTURBATIONS`) → requests. A request has none of a kind that does not apply
        to it, and one per paraphrase that contains its subject.

    Source:
        REP (2410.09338), with two differences: words are reversed instead of tokens shuffled, and
        the subject's last word stands in for paraphrases of the subject, which would need another
        language model.
    """
    rng = random.Random(seed)
    paraphrased = []
    for request in requests:
        for text in request.paraphrase_prompts:
            if request.subject in text:
                at = text.index(request.subject)
                prompt = text[:at] + "{}" + text[at + len(request.subject) :]
                paraphrased.append(replace(request, prompt=prompt, subject_at=at))
    several_words = [request for request in requests if len(request.subject.split()) > 1]
    last_word = [replace(r, subject=r.subject.split()[-1]) for r in several_words]
    late = []
    for request in requests:
        context = _long_context(lm, texts, tokens, rng).replace("{}", "")
        late.append(request.in_context(f"{context} {{}}"))
    asked = (list(requests), paraphrased, reversed_words(requests), last_word, late)
    return dict(zip(PERTURBATIONS, asked, strict=True))


def _long_context(lm: LanguageModel, texts: Sequence[str], tokens: int, rng: random.Random) -> str:
    """Randomly drawn documents, joined, that have at least so many tokens together."""
    documents: list[str] = []
    length = 0
    while length < tokens:
        documents.append(rng.choice(texts))
        length = len(tokenise(lm, [" ".join(documents)]).ids[0])
    return " ".join(documents)


def robustness(lm: LanguageModel, asked: dict[str, list[EditRequest]]) -> dict[str, float]:
    """Score each kind of perturbed requests.

    Args:
        lm: the edited model.
        asked: from `perturbed`.

    Returns:
        Perturbation → share of its requests that the model continues by the new target (greedy, all
        tokens); perturbations without requests are left out.
    """
    shares = {}
    for kind, own in asked.items():
        if own:
            separators = [r.joined_by for r in own]
            matched = exact_match(
                lm, [r.text for r in own], [r.target_new for r in own], separators
            )
            shares[kind] = float(matched.mean())
    return shares


def firing(
    lm: LanguageModel,
    edited: Sequence[EditRequest],
    asked: Sequence[EditRequest],
    layer: int,
    C: Float[Tensor, "d_ff d_ff"],
    contexts: Contexts = BARE,
) -> np.ndarray:
    """How strongly edits fire at the keys of other prompts: β = kᵀC⁻¹k* / k*ᵀC⁻¹k*.

    It is the share of v* − Wk* that r-ROME's rank-one update adds at key k: 1 at the key k* of the
    edit, 0 if the update changes nothing at k.

    Args:
        lm: the unedited model.
        edited: the requests as edited; they give k*.
        asked: the requests to ask for, matched to `edited` by case_id; they give k.
        layer: the edited layer.
        C: second moment of keys there.
        contexts: the templates over which k* is averaged.

    Returns:
        β for each of `asked`, (n,).

    Source:
        REP (2410.09338); whitening by C as in ROME's solution.
    """
    unique = {r.case_id: i for i, r in enumerate(edited)}
    own = read_keys(lm, edited, contexts, layer, average="uniform").double()  # k*, (d_ff, n)
    keys = read_keys(lm, asked, BARE, layer).double()
    solved = torch.linalg.solve(C.double().to(own.device), own)  # C⁻¹k*
    at = torch.tensor([unique[r.case_id] for r in asked], device=own.device)
    return ((keys * solved[:, at]).sum(0) / (own * solved).sum(0)[at]).cpu().numpy()
