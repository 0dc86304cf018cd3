"""From text to token ids: batches, the token where a subject ends, the tokens of a continuation.

Texts are tokenised whole, with the tokenizer's own special tokens, and places in them are found by
the characters that each token covers; so it does not matter if tokens merge across a boundary.
Batches are padded on the right, without an attention mask: in a causal model no token sees the
padding after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from unicodedata import normalize

import torch
from jaxtyping import Int
from torch import Tensor

from ..requests.joining import SPACE, join
from ..requests.request import EditRequest
from .model import LanguageModel


@dataclass(frozen=True)
class Tokens:
    """Tokens of several texts.

    Attributes:
        ids: token ids of each text.
        offsets: characters that each token covers, (start, end), end excluded; (0, 0) for special
            tokens.
    """

    ids: list[list[int]]
    offsets: list[list[tuple[int, int]]]

    def token_at(self, row: int, character: int) -> int:
        """Return the position of the last token of a text that covers a character.

        Raises:
            LookupError: no token covers it.
        """
        covering = [
            i for i, (start, end) in enumerate(self.offsets[row]) if start <= character < end
        ]
        if not covering:
            raise LookupError(f"no token covers character {character}")
        return covering[-1]

    def first_after(self, row: int, characters: int) -> int:
        """Return the position of the first token that reaches beyond so many characters.

        This is the number of tokens if none does.
        """
        for i, (_, end) in enumerate(self.offsets[row]):
            if end > characters:
                return i
        return len(self.ids[row])


def tokenise(lm: LanguageModel, texts: Sequence[str]) -> Tokens:
    """Tokenise whole texts, with special tokens as the tokenizer is configured to add them."""
    encoded = lm.tokenizer(list(texts), return_offsets_mapping=True)
    return Tokens(encoded["input_ids"], encoded["offset_mapping"])


def padded(lm: LanguageModel, ids: Sequence[Sequence[int]]) -> Int[Tensor, "rows longest"]:
    """Return token ids of all rows as one tensor on the model's device.

    Shorter rows are filled up with their own last id, which no other token ever sees.
    """
    longest = max(len(row) for row in ids)
    filled = [[*row, *[row[-1]] * (longest - len(row))] for row in ids]
    return torch.tensor(filled, device=lm.device)


class ContinuationRow(NamedTuple):
    """A prompt with a continuation, as a model reads them to predict the continuation's tokens.

    Attributes:
        ids: token ids of the whole text without its last token, which is predicted but never read.
        continuation: the continuation's token ids.
    """

    ids: list[int]
    continuation: list[int]

    @property
    def positions(self) -> range:
        """Positions in `ids` at which the continuation's tokens are predicted."""
        return range(len(self.ids) - len(self.continuation), len(self.ids))


def continuation_rows(
    lm: LanguageModel,
    prompts: Sequence[str],
    continuations: Sequence[str],
    end: Sequence[int] = (),
    separators: Sequence[str] | None = None,
) -> list[ContinuationRow]:
    """Tokenise each prompt with its continuation as one text, joined by `join`.

    The continuation's tokens are those that reach beyond the prompt's characters, and then those of
    `end`. A prompt has before it what `LanguageModel.in_front` puts there.

    Args:
        lm: the model whose tokenizer is used.
        prompts: n prompts.
        continuations: n continuations.
        end: tokens after each continuation.
        separators: what stands between each prompt and its continuation; None for a space.
    """
    prompts = [f"{front}{p}" for front, p in zip(lm.in_front(prompts), prompts, strict=True)]
    separators = separators or [SPACE] * len(prompts)
    tokens = tokenise(lm, [*map(join, prompts, continuations, separators)])
    rows = []
    for i, (prompt, ids) in enumerate(zip(prompts, tokens.ids, strict=True)):
        start = tokens.first_after(i, len(prompt))
        whole = [*ids, *end]
        rows.append(ContinuationRow(whole[:-1], whole[start:]))
    return rows


class Marked(NamedTuple):
    """A text with a place for the subject.

    Attributes:
        before: what stands before the subject.
        after: what follows it.
    """

    before: str
    after: str

    def with_subject(self, subject: str) -> str:
        """Return the whole text."""
        return self.before + subject + self.after


def marked(template: str) -> Marked:
    """Return a template in which "{}" marks the subject's place, once."""
    before, _, after = template.partition("{}")
    return Marked(before, after)


def fill(template: str, request: EditRequest) -> Marked:
    """Return the request's prompt in a context template, with the place of its subject."""
    before, _, after = template.partition("{}")
    return Marked(before + request.before_subject, request.after_subject + after)


def subject_end(text: Marked, subject: str) -> int:
    """Return the index of the subject's last character in the whole text."""
    return len(text.before) + len(subject) - 1


def lookup_rows(
    lm: LanguageModel,
    templates: Sequence[Marked],
    subjects: Sequence[str],
    suffixes: Sequence[str] | None = None,
) -> tuple[Tokens, list[int]]:
    """Tokenise templates filled with subjects, and find each subject's last token.

    Args:
        lm: the model whose tokenizer is used.
        templates: texts with a place for the subject.
        subjects: one for each template.
        suffixes: text appended to each, if any.

    Returns:
        The tokens, and in each row the position of the last token that covers the subject's last
        character.

    Raises:
        LookupError: no token covers that character.
    """
    suffixes = suffixes or [""] * len(templates)
    texts = [
        template.with_subject(subject) + suffix
        for template, subject, suffix in zip(templates, subjects, suffixes, strict=True)
    ]
    tokens = tokenise(lm, texts)
    positions = []
    for row, text in enumerate(texts):
        end = subject_end(templates[row], subjects[row])
        positions.append(tokens.token_at(row, _base_character(tokens, row, text, end)))
    return tokens, positions


def _base_character(tokens: Tokens, row: int, text: str, character: int) -> int:
    """The index of a character that a token covers: `character`, or the letter that it modifies.

    A tokenizer that composes a letter with the combining marks after it names the letter in its
    offsets only, so that no token covers the marks.
    """
    covered = {i for start, end in tokens.offsets[row] for i in range(start, end)}
    while character not in covered and _is_combined(text, character):
        character -= 1
    return character


def _is_combined(text: str, character: int) -> bool:
    """Whether a character and those before it compose, so that it adds nothing to their number."""
    return len(normalize("NFC", text[: character + 1])) == len(normalize("NFC", text[:character]))


def chunks(lengths: Sequence[int], budget: int) -> Iterator[slice]:
    """Cut rows of these lengths into consecutive slices, of at least one row each.

    Args:
        lengths: number of tokens of each row.
        budget: what rows × longest row of a slice of several rows may not exceed.
    """
    start, longest = 0, 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > start and (i + 1 - start) * longest > budget:
            yield slice(start, i)
            start, longest = i, length
    if len(lengths):
        yield slice(start, len(lengths))
