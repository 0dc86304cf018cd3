"""Where the subject ends among the tokens, and where a continuation begins, for every awkward text.

The expected places are counted in bytes: in byte-level BPE each symbol of a token stands for one
byte.
"""

from dataclasses import replace
from functools import cache

import pytest
from conftest import END, build_lm
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoTokenizer

from seqedit.lm.tokens import (
    Marked,
    chunks,
    continuation_rows,
    fill,
    lookup_rows,
    marked,
    padded,
    subject_end,
    tokenise,
)
from seqedit.lm.validation import validate_requests
from seqedit.requests.joining import join
from seqedit.requests.published import load_request_set
from seqedit.requests.request import RequestError, parse_requests

CASES = {
    "start": ("{} is a", "Danielle Darrieux"),
    "end": ("The mother tongue of {}", "Danielle Darrieux"),
    "only": ("{}", "Gamith"),
    "twice": ("The teacher is {}", "teacher"),
    "twice, first asked": ("{} knows a teacher", "teacher"),
    "apostrophe inside": ("{} plays the", "Zoë O'Brien"),
    "apostrophe after": ("{}'s mother tongue is", "Thomas Joannes Stieltjes"),
    "accent at the end": ("The birthplace of {} is", "café"),
    "accents": ("In {}, the town", "Łódź"),
    "emoji": ("The song {} is quiet", "Love 🎻"),
    "only emoji": ("{} is", "👩‍🚀"),
    "merges with what follows": ("The {}ish song", "town"),
    "merges with what follows, no space": ("{}ieux is", "Darr"),
    "punctuation after": ("The town of {}, today, is", "Elvinn"),
    "unknown script": ("{} is a", "東京"),
    "one letter": ("{} is a", "I"),
}
TEMPLATES = ("{}", "I heard a song. {}", "The old café's quiet. {}", "Zoë 🎻: {}")


def byte_position(tokenizer, text: str, characters: int, bos: bool) -> int:
    """The token that holds the last byte of the first `characters` characters."""
    wanted, seen = len(text[:characters].encode()), 0
    for position, token in enumerate(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])):
        seen += 0 if token == END and bos and position == 0 else len(token)
        if seen >= wanted:
            return position
    raise AssertionError("the text is longer than its tokens")


@cache
def with_tokenizer(bos: bool = False):
    """One model with 64 positions for all tests that only read."""
    return build_lm("gpt2", bos=bos)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("case", CASES)
def test_subject_and_target(case, template, bos):
    """The last token of the subject and the first of the target, alone and after prefixes, with and
    without BOS.
    """
    lm = with_tokenizer(bos)
    prompt, subject = CASES[case]
    request = parse_requests(
        [{"case_id": 0, "prompt": prompt, "subject": subject, "target_new": "New York"}]
    )[0]
    filled = fill(template, request)
    tokens, (position,) = lookup_rows(lm, [filled], [subject], [" New York"])
    text = filled.with_subject(subject) + " New York"
    length = len(filled.with_subject(subject))
    end = len(filled.before) + len(subject)
    assert tokens.ids[0] == lm.tokenizer(text)["input_ids"]
    assert subject_end(filled, subject) == end - 1
    assert position == byte_position(lm.tokenizer, text, end, bos)
    start = tokens.first_after(0, length)
    assert lm.tokenizer.decode(tokens.ids[0][start:]) == " New York"
    assert start == byte_position(lm.tokenizer, text, length, bos) + 1


# Letters that the tokenizer has merged, blanks, quotes, characters of several bytes or code points,
# and any other; no braces, which mark the subject, and no "<", with which END begins.
CHARACTERS = st.sampled_from(" Danielpy'sé東🎻\u0301\u200d\n") | st.characters(
    exclude_categories=["Cs"], exclude_characters="{}<"
)
texts = st.text(CHARACTERS, max_size=12)
words = st.text(CHARACTERS, min_size=1, max_size=12)


@given(before=texts, subject=words, after=texts, bos=st.booleans())
@example(before="The ", subject="Darr", after="ieux is", bos=False)  # merges with what follows
@example(before="", subject="🎻", after="🎶", bos=True)  # shares bytes with what follows
def test_the_subject_is_found_in_any_text(before, subject, after, bos):
    """Its last token is the one with the last byte of its last character, wherever tokens merge."""
    lm = with_tokenizer(bos)
    tokens, (position,) = lookup_rows(lm, [Marked(before, after)], [subject])
    text, end = before + subject + after, len(before + subject)
    assert tokens.ids[0] == lm.tokenizer(text)["input_ids"]
    assert position == byte_position(lm.tokenizer, text, end, bos)
    assert tokens.offsets[0][position][0] < end <= tokens.offsets[0][position][1]
    assert all(start >= end for start, _ in tokens.offsets[0][position + 1 :])


@given(pairs=st.lists(st.tuples(texts, words), min_size=1, max_size=4), bos=st.booleans())
def test_continuations_of_any_text(pairs, bos):
    """Rows hold all tokens but the last; the continuation's tokens end beyond the prompt."""
    lm = with_tokenizer(bos)
    rows = continuation_rows(lm, *zip(*pairs, strict=True))
    for row, (prompt, continuation) in zip(rows, pairs, strict=True):
        tokens = tokenise(lm, [join(prompt, continuation)])
        (ids,), (offsets,) = tokens.ids, tokens.offsets
        assert [*row.ids, ids[-1]] == ids
        assert row.continuation == [
            token for token, (_, end) in zip(ids, offsets, strict=True) if end > len(prompt)
        ]
        assert [ids[position + 1] for position in row.positions] == row.continuation


def test_the_merging_cases_do_merge():
    """The cases above are what they claim: a token that reaches across the subject's end."""
    lm = with_tokenizer()
    tokens, (position,) = lookup_rows(lm, [marked("The {}ieux is")], ["Darr"])
    start, end = tokens.offsets[0][position]
    assert start < len("The Darr") < end


def test_target_tokens_are_those_of_the_target_alone():
    """ " New York" after a prompt has the tokens it has alone: a leading space, no merge across the
    boundary.
    """
    lm = with_tokenizer(bos=True)
    tokens, _ = lookup_rows(lm, [marked("{} plays")], ["Zoë"], [" polo in New York"])
    start = tokens.first_after(0, len("Zoë plays"))
    assert (
        tokens.ids[0][start:]
        == lm.tokenizer(" polo in New York", add_special_tokens=False)["input_ids"]
    )


def test_no_token():
    """A character outside the text has no token; no continuation begins at the number of tokens."""
    tokens = tokenise(with_tokenizer(bos=True), ["ab"])
    with pytest.raises(LookupError, match="no token covers character 2"):
        tokens.token_at(0, 2)
    assert tokens.first_after(0, 2) == len(tokens.ids[0])


def test_padding_repeats_the_last_token():
    assert padded(with_tokenizer(), [[5, 6, 7], [8]]).tolist() == [[5, 6, 7], [8, 8, 8]]


@pytest.mark.parametrize(
    ("lengths", "budget", "sizes"),
    [
        ([3, 3, 3, 3], 6, [2, 2]),
        ([1, 1, 5, 1], 5, [2, 1, 1]),
        ([9, 9], 4, [1, 1]),
        ([2, 2, 2], 100, [3]),
        ([], 5, []),
    ],
)
def test_chunks(lengths, budget, sizes):
    """Rows × longest stays within the budget, in order, and one row always goes."""
    parts = list(chunks(lengths, budget))
    assert [len(lengths[part]) for part in parts] == sizes
    assert [length for part in parts for length in lengths[part]] == lengths


@given(lengths=st.lists(st.integers(1, 40)), budget=st.integers(1, 120))
def test_chunks_of_any_lengths(lengths, budget):
    """Every row once and in order; no chunk of several rows exceeds the budget, none could take one
    more.
    """
    parts = list(chunks(lengths, budget))
    assert [i for part in parts for i in range(len(lengths))[part]] == list(range(len(lengths)))
    for part in parts:
        rows = lengths[part]
        assert rows and (len(rows) == 1 or len(rows) * max(rows) <= budget)
        more = lengths[part.start : part.stop + 1]
        assert part.stop == len(lengths) or len(more) * max(more) > budget


def request(**changes):
    return parse_requests(
        [{"case_id": "c-1", "prompt": "{} is a", "subject": "Ada", "target_new": "poet"} | changes]
    )


def test_validation_accepts(requests):
    validate_requests(with_tokenizer(bos=True), requests, (TEMPLATES,))


def test_validation_names_case_and_field():
    lm = with_tokenizer()
    with pytest.raises(RequestError, match="'c-1': prompt: [0-9]+ tokens .* but the model has 64"):
        validate_requests(lm, request(prompt="{} " + "said " * 70), (TEMPLATES,))
    long = request(prompt="{} " + "said " * 9)
    validate_requests(lm, long, (("{}",),))  # fits alone, not with this context:
    with pytest.raises(RequestError, match="'c-1': prompt"):
        validate_requests(lm, long, (("{}", "said " * 40 + "{}"),))


@pytest.mark.parametrize(
    "field",
    [
        "paraphrase_prompts",
        "neighborhood_prompts",
        "attribute_prompts",
        "generation_prompts",
        "questions",
        "locality",
        "portability",
    ],
)
def test_validation_of_every_text_of_an_evaluation(field):
    """A text that is too long with its answer is refused, in whichever field it stands."""
    lm = with_tokenizer()
    probes = field in ("locality", "portability")

    def given_prompt(prompt):
        return request(**{field: [{"prompt": prompt, "answer": "poet"} if probes else prompt]})

    (short,) = given_prompt("Ada said")
    assert short.evaluated_texts()[field] == ["Ada said poet"]
    validate_requests(lm, [short], (TEMPLATES,))
    with pytest.raises(
        RequestError, match=f"'c-1': {field}: [0-9]+ tokens with target, .* 64 positions"
    ):
        validate_requests(lm, given_prompt("said " * 70), (TEMPLATES,))


def test_validation_of_unlocatable_text():
    """A tokenizer that drops characters leaves a subject, or a target, without a token: refused,
    not guessed.
    """
    lm = build_lm("gpt2")
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("ö", "")
    with pytest.raises(RequestError, match="'c-1': subject: 'Adö' .* no token covers character 2"):
        validate_requests(lm, request(subject="Adö"), (("{}",),))
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ö", "")
    with pytest.raises(RequestError, match="'c-1': target_new: 'ö' has no tokens"):
        validate_requests(lm, request(target_new="ö"), (("{}",),))


def test_real_records_with_the_real_tokenizer(benchmarks):
    """Five hundred CounterFact requests with GPT-2's tokenizer: the byte count always agrees."""
    lm = replace(
        with_tokenizer(), tokenizer=AutoTokenizer.from_pretrained(benchmarks / "gpt2_tokenizer")
    )
    requests = load_request_set(benchmarks / "counterfact_500.json", clean=True).requests
    filled = [fill("Therefore, I am. {}", r) for r in requests]
    tokens, positions = lookup_rows(
        lm, filled, [r.subject for r in requests], [" " + r.target_new for r in requests]
    )
    for row, (template, r) in enumerate(zip(filled, requests, strict=True)):
        text = template.with_subject(r.subject)
        end = len(template.before) + len(r.subject)
        assert positions[row] == byte_position(lm.tokenizer, text + " " + r.target_new, end, False)
        assert (
            lm.tokenizer.decode(tokens.ids[row][tokens.first_after(row, len(text)) :])
            == " " + r.target_new
        )
