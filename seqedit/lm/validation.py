"""Refuse requests that a model cannot read, before anything is computed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..requests.plain import PROBES, PROMPTS
from ..requests.record import Probe
from ..requests.request import EditRequest, RequestError
from .model import LanguageModel
from .tokens import Tokens, fill, lookup_rows, tokenise
from .vocabulary import check_ids


def validate_requests(
    lm: LanguageModel, requests: Sequence[EditRequest], contexts: Sequence[Sequence[str]]
) -> None:
    """Check that the model can read each request in every context, and each text of its evaluation.

    Args:
        lm: the model.
        requests: what is to be edited.
        contexts: groups of context templates; the first template is the bare prompt.

    Raises:
        RequestError: a text with its target is longer than the model's positions, no token covers
            the subject, the target has no tokens, or BOS is written out in a text that the
            tokenizer begins with it. The message names the case_id and the field.
    """
    templates = [template for group in contexts for template in group]
    for request in requests:
        where = f"case_id {request.case_id!r}"
        tokens = _prompt_tokens(lm, request, templates, where)
        _check_bos(lm, tokens, where)
        _check_length(
            lm, tokens, f"{where}: prompt", "with context and target", "shorten the prompt"
        )
        _check_target(tokens, request, templates[0], where)
        for field, texts in request.evaluated_texts().items():
            if texts:
                tokens, remedy = tokenise(lm, texts), "shorten it or leave it out"
                _check_length(lm, tokens, f"{where}: {field}", "with target", remedy)


def without_long_probes(
    lm: LanguageModel, requests: Sequence[EditRequest]
) -> tuple[list[EditRequest], list[str]]:
    """The requests without the probes that the model cannot read at once.

    Returns:
        The requests, and a message for each probe that is left out: a prompt that is longer, with
        something that may continue it, than the model's positions.
    """
    kept, messages = [], []
    for request in requests:
        changes: dict[str, Any] = {}
        for field in (*PROMPTS, *PROBES):
            probes = getattr(request, field)
            lengths = [longest(lm, request, probe) for probe in probes]
            if max(lengths, default=0) > lm.max_positions:
                changes[field] = tuple(
                    probe
                    for probe, length in zip(probes, lengths, strict=True)
                    if length <= lm.max_positions
                )
                messages += [
                    f"case_id {request.case_id!r}: {field}[{i}]: left out, because it has {length} "
                    f"tokens with its answer and the model {lm.max_positions} positions"
                    for i, length in enumerate(lengths)
                    if length > lm.max_positions
                ]
        kept.append(replace(request, **changes) if changes else request)
    return kept, messages


def longest(lm: LanguageModel, request: EditRequest, probe: str | Probe) -> int:
    """Tokens of a probe with the longest of its continuations; 0 for a short text."""
    if isinstance(probe, Probe):
        continued = [probe.answer, probe.previous, *probe.aliases]
    else:
        continued = [request.target_new, request.target_true]
    prompt = probe.prompt if isinstance(probe, Probe) else probe
    texts = [request.continued(prompt, answer) for answer in continued if answer is not None]
    if max(len(text.encode()) for text in texts) < lm.max_positions - SPECIAL:
        return 0  # no token is shorter than a byte
    return max(map(len, tokenise(lm, texts).ids))


SPECIAL = 8
"""More special tokens than any tokenizer adds to a text."""


def _prompt_tokens(
    lm: LanguageModel, request: EditRequest, templates: Sequence[str], where: str
) -> Tokens:
    """Tokens of the prompt in every template, with subject and target."""
    try:
        tokens, _ = lookup_rows(
            lm,
            [fill(template, request) for template in templates],
            [request.subject] * len(templates),
            [request.continued(request.text, request.target_new)[len(request.text) :]]
            * len(templates),
        )
    except LookupError as error:
        raise RequestError(
            f"{where}: subject: {request.subject!r} is not found in the prompt: {error}"
        ) from error
    return tokens


def _check_bos(lm: LanguageModel, tokens: Tokens, where: str) -> None:
    """Refuse a text that begins with BOS and has another one."""
    bos = lm.tokenizer.bos_token_id
    if any(ids[:1] == [bos] and ids.count(bos) > 1 for ids in tokens.ids):
        raise RequestError(
            f"{where}: prompt: {lm.tokenizer.bos_token!r} is written out in it or in a context, "
            "and the tokenizer adds it already; leave it out of the text"
        )


def _check_length(lm: LanguageModel, tokens: Tokens, where: str, what: str, remedy: str) -> None:
    """Refuse texts that exceed the model's positions, or hold tokens that it does not have."""
    check_ids(lm, tokens.ids, where)
    longest = max(len(ids) for ids in tokens.ids)
    if longest > lm.max_positions:
        raise RequestError(
            f"{where}: {longest} tokens {what}, but the model has {lm.max_positions} positions; "
            f"{remedy}"
        )


def _check_target(tokens: Tokens, request: EditRequest, template: str, where: str) -> None:
    """Refuse a target that adds no token to the prompt, which is the first text."""
    prompt = fill(template, request).with_subject(request.subject)
    if tokens.first_after(0, len(prompt)) >= len(tokens.ids[0]):
        raise RequestError(f"{where}: target_new: {request.target_new!r} has no tokens of its own")
