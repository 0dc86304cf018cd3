"""Context templates: short texts before a prompt, after which an edit should hold as well."""

import json
from pathlib import Path

import torch

from ..requests.plain import is_text
from .keys import BARE, Contexts
from .model import LanguageModel

OPENINGS = ("The", "Therefore", "Because", "I", "You")
"""Words with which sampled templates begin, in turn."""


def sample_contexts(
    lm: LanguageModel,
    generator: torch.Generator,
    lengths: tuple[tuple[int, int], ...] = ((10, 5),),
    top_k: int = 5,
) -> Contexts:
    """Return the bare prompt, and a group of templates sampled from the model per (length, count).

    A template is an opening word that top-k sampling continues to `length` tokens (a BOS that the
    tokenizer adds is one of them), followed by ". {}". The templates of a run are kept in its
    record.

    Args:
        lm: the model that writes the templates.
        generator: the only source of randomness; on the CPU.
        lengths: tokens and number of templates of each group; ((10, 5),) is MEMIT's choice, ((5,
            10), (10, 10)) is ROME's.
        top_k: how many of the most probable tokens are sampled from.

    Source:
        The released code of MEMIT and ROME. Special tokens are dropped from the text here, while
        the released code keeps a literal BOS string for Llama.
    """
    groups = [BARE[0]]
    for length, count in lengths:
        openings = [OPENINGS[i % len(OPENINGS)] for i in range(count)]
        groups.append(tuple(_template(lm, word, length, top_k, generator) for word in openings))
    return tuple(groups)


@torch.no_grad()
def _template(
    lm: LanguageModel, opening: str, length: int, top_k: int, generator: torch.Generator
) -> str:
    """One template, sampled from an opening word on."""
    ids = list(lm.tokenizer(opening)["input_ids"])
    while len(ids) < length:
        logits = lm.model(torch.tensor([ids], device=lm.device), use_cache=False).logits[0, -1]
        best = logits.float().cpu().topk(top_k)
        drawn = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
        ids.append(int(best.indices[drawn]))
    text = str(lm.tokenizer.decode(ids, skip_special_tokens=True))
    return " ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}"


def load_contexts(path: Path) -> Contexts:
    """Read groups of templates from a JSON file.

    The file holds a list of lists of strings, each with one "{}"; the first list is ["{}"].

    Raises:
        ValueError: the file cannot be read or has another form; the message says where.
    """
    try:
        groups = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"contexts: {path} cannot be read: {error}") from error
    if not isinstance(groups, list) or not all(
        isinstance(group, list) and group for group in groups
    ):
        raise ValueError(f"contexts: {path} must hold a list of non-empty lists of templates")
    for group in groups:
        for template in group:
            if not is_text(template) or template.count("{}") != 1:
                raise ValueError(
                    f'contexts: {path}: {template!r} must be a string with exactly one "{{}}"'
                )
    if groups[:1] != [["{}"]]:
        raise ValueError(f'contexts: {path}: the first group must be ["{{}}"], the bare prompt')
    return tuple(tuple(group) for group in groups)
