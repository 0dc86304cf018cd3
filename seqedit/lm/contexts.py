"""Context templates: short beginnings under which an edit must hold as well as alone."""

import json
from pathlib import Path

import torch

from .keys import BARE, Contexts
from .model import LanguageModel

STARTS = ("The", "Therefore", "Because", "I", "You")


@torch.no_grad()
def sample_contexts(
    lm: LanguageModel,
    generator: torch.Generator,
    lengths: tuple[tuple[int, int], ...] = ((10, 5),),
    top_k: int = 5,
) -> Contexts:
    """The bare prompt, and one group of templates sampled from the model itself for each (length, count).

    A template is one of five opening words, continued by top-k sampling to `length` tokens (with BOS where the
    tokenizer adds one), then ". {}". The templates are part of a run's record.

    Args:
        generator: on the CPU; the only source of randomness.
        lengths: tokens and number of templates of each group; MEMIT's is ((10, 5),), ROME's ((5, 10), (10, 10)).

    Source: MEMIT's and ROME's released protocol. Special tokens are dropped from the text, where the released code
    keeps a literal BOS string for Llama.
    """
    groups = [BARE[0]]
    for length, count in lengths:
        group = []
        for i in range(count):
            ids = lm.tokenizer(STARTS[i % len(STARTS)])["input_ids"]
            while len(ids) < length:
                logits = (
                    lm.model(torch.tensor([ids], device=lm.device), use_cache=False)
                    .logits[0, -1]
                    .float()
                    .cpu()
                )
                best = logits.topk(top_k)
                ids.append(
                    int(
                        best.indices[
                            torch.multinomial(best.values.softmax(-1), 1, generator=generator)
                        ]
                    )
                )
            text = lm.tokenizer.decode(ids, skip_special_tokens=True)
            group.append(" ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}")
        groups.append(tuple(group))
    return tuple(groups)


def load_contexts(path: Path) -> Contexts:
    """Template groups from a JSON file: a list of lists of strings with one "{}" each, the first being ["{}"].

    Raises:
        ValueError: the file has another form; the message says where.
    """
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"contexts: {path} cannot be read: {error}") from error
    if not isinstance(groups, list) or not all(
        isinstance(group, list) and group for group in groups
    ):
        raise ValueError(f"contexts: {path} must hold a list of non-empty lists of templates")
    for template in (t for group in groups for t in group):
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(
                f'contexts: {path}: {template!r} must be a string with exactly one "{{}}"'
            )
    if groups[0] != ["{}"]:
        raise ValueError(f'contexts: {path}: the first group must be ["{{}}"], the bare prompt')
    return tuple(tuple(group) for group in groups)
