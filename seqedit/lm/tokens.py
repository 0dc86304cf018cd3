"""From text to tokens: batches, the token of the subject, the tokens of a continuation.

Sequences are padded on the right and no attention mask is used: in a causal model no real token ever sees
the padding after it. The text is always tokenised whole, with the tokenizer's own special tokens, and
positions are found by character offsets, so merges across a boundary cannot shift them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import normalize

import torch
from torch import Tensor

from ..requests.request import EditRequest, RequestError
from .model import LanguageModel


@dataclass(frozen=True)
class Tokens:
    """Token ids of some texts with the characters each token covers."""

    ids: list[list[int]]
    offsets: list[list[tuple[int, int]]]

    def token_at(self, row: int, character: int) -> int:
        """The last token that covers a character.

        Raises:
            LookupError: no token does.
        """
        found = [i for i, (start, end) in enumerate(self.offsets[row]) if start <= character < end]
        if not found:
            raise LookupError(f"no token covers character {character}")
        return found[-1]

    def first_after(self, row: int, characters: int) -> int:
        """The first token that reaches beyond the first `characters` characters."""
        return next(
            (i for i, (_, end) in enumerate(self.offsets[row]) if end > characters),
            len(self.ids[row]),
        )


def tokenise(lm: LanguageModel, texts: Sequence[str]) -> Tokens:
    """Tokenise whole texts, special tokens as the tokenizer's own configuration has them."""
    encoded = lm.tokenizer(list(texts), return_offsets_mapping=True)
    return Tokens(encoded["input_ids"], encoded["offset_mapping"])


def padded(lm: LanguageModel, ids: Sequence[Sequence[int]]) -> Tensor:
    """Right-padded ids (rows, longest) on the model's device; the padding, each row's last id again, is never seen."""
    longest = max(map(len, ids))
    return torch.tensor(
        [list(row) + [row[-1]] * (longest - len(row)) for row in ids], device=lm.device
    )


def fill(template: str, request: EditRequest) -> str:
    """The request's prompt inside a context template, subject still open as "{}"."""
    return template.replace("{}", request.prompt)


def subject_end(template: str, subject: str) -> int:
    """Character index of the subject's last character once `template` is filled."""
    return template.index("{}") + len(subject) - 1


def lookup_rows(
    lm: LanguageModel,
    templates: Sequence[str],
    subjects: Sequence[str],
    suffixes: Sequence[str] | None = None,
) -> tuple[Tokens, list[int]]:
    """Tokens of templates filled with subjects, and the position of each subject's last token.

    Args:
        templates: texts with "{}" for the subject.
        subjects: one for each template.
        suffixes: text appended to each, if any.
    """
    suffixes = suffixes or [""] * len(templates)
    texts = [t.replace("{}", s) + x for t, s, x in zip(templates, subjects, suffixes, strict=True)]
    tokens = tokenise(lm, texts)
    ends = [
        _with_token(tokens, row, text, subject_end(t, s))
        for row, (text, t, s) in enumerate(zip(texts, templates, subjects, strict=True))
    ]
    return tokens, [tokens.token_at(row, end) for row, end in enumerate(ends)]


def _with_token(tokens: Tokens, row: int, text: str, character: int) -> int:
    """The character, or the letter it belongs to where the tokenizer composed both and the offsets name the first."""
    covered = {i for start, end in tokens.offsets[row] for i in range(start, end)}
    while character not in covered and len(normalize("NFC", text[: character + 1])) == len(
        normalize("NFC", text[:character])
    ):
        character -= 1
    return character


def chunks(lengths: Sequence[int], budget: int) -> Iterator[slice]:
    """Consecutive slices whose padded size (rows × longest) stays within a budget of tokens, at least one row each."""
    start, longest = 0, 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > start and (i + 1 - start) * longest > budget:
            yield slice(start, i)
            start, longest = i, length
    if len(lengths):
        yield slice(start, len(lengths))


def validate_requests(
    lm: LanguageModel, requests: Sequence[EditRequest], contexts: Sequence[Sequence[str]]
) -> None:
    """Refuse, before anything is computed, what this model cannot read.

    Raises:
        RequestError: a prompt with its longest context and target, or a prompt for evaluation with its target, exceeds
            the model's positions, or no token covers the subject, or the target has no tokens, or BOS is written out in
            a text that the tokenizer begins with it; the message names the case_id and the field.
    """
    templates, bos = (
        [template for group in contexts for template in group],
        lm.tokenizer.bos_token_id,
    )
    for request in requests:
        where = f"case_id {request.case_id!r}"
        try:
            tokens, _ = lookup_rows(
                lm,
                [fill(t, request) for t in templates],
                [request.subject] * len(templates),
                [" " + request.target_new] * len(templates),
            )
        except LookupError as error:
            raise RequestError(
                f"{where}: subject: {request.subject!r} is not found in the prompt: {error}"
            ) from error
        if any(ids.count(bos) > 1 for ids in tokens.ids if ids[:1] == [bos]):
            raise RequestError(
                f"{where}: prompt: {lm.tokenizer.bos_token!r} is written out in it or in a context, and "
                "the tokenizer adds it already; leave it out of the text"
            )
        longest = max(map(len, tokens.ids))
        if longest > lm.max_positions:
            raise RequestError(
                f"{where}: prompt: {longest} tokens with context and target, but the model has "
                f"{lm.max_positions} positions; shorten the prompt"
            )
        if tokens.first_after(
            0, len(fill(templates[0], request).replace("{}", request.subject))
        ) >= len(tokens.ids[0]):
            raise RequestError(
                f"{where}: target_new: {request.target_new!r} has no tokens of its own"
            )
        for field in (
            "paraphrase_prompts",
            "neighborhood_prompts",
            "generation_prompts",
            "locality",
            "portability",
        ):
            if field in ("locality", "portability"):
                texts = [f"{prompt} {answer}" for prompt, answer in getattr(request, field)]
            else:
                texts = [
                    f"{prompt} {target}"
                    for prompt in getattr(request, field)
                    for target in (request.target_new, request.target_true)
                    if target is not None
                ]
            longest = max(map(len, tokenise(lm, texts).ids)) if texts else 0
            if longest > lm.max_positions:
                raise RequestError(
                    f"{where}: {field}: {longest} tokens with target, but the model has "
                    f"{lm.max_positions} positions; shorten it or leave it out"
                )
