"""The subject's last token under tokenizers of every kind that models come with, for every awkward
text.

The expected place is counted in bytes of the tokens themselves, never read from offsets: the token
with the last byte of the text up to the subject's end.
"""

import json
import re
from dataclasses import replace
from functools import cache
from unicodedata import normalize

import pytest
from conftest import END, SENTENCES, build_lm, build_tokenizer
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from seqedit.lm.tokens import (
    fill,
    lookup_rows,
    marked,
    subject_end,
)
from seqedit.lm.validation import validate_requests
from seqedit.requests.request import RequestError, parse_requests

CASES = {
    "at the start": ("{} is a", "Danielle Darrieux"),
    "at the end": ("The mother tongue of {}", "Danielle Darrieux"),
    "twice, the second": ("The town of Elvinn is {}", "Elvinn"),
    "twice, the first": ("{} is in Elvinn, and Elvinn is quiet", "Elvinn"),
    "inside another word": ("The town of townsend is a {}", "town"),
    "apostrophe after": ("{}'s mother tongue is", "Thomas Joannes Stieltjes"),
    "typographic apostrophe after": ("{}’s cello is", "Zoë O’Brien"),
    "full stop after": ("It is {}. The town", "Elvinn"),
    "full stop inside": ("{}. is in", "the U.S."),
    "comma after": ("In {}, the town", "Łódź"),
    "quoted": ('The song "{}" is', "Old Town"),
    "bracketed": ("The town ({}) is", "New York"),
    "merges with what follows": ("The {}ieux is", "Darr"),
    "merges with a digit": ("In {}0 it rained", "199"),
    "line break after": ("{}\nis a teacher", "Gamith"),
    "two spaces inside": ("{} is a", "New  York"),
    "accents": ("The {} plays", "café"),
    "accents, decomposed": ("The {} plays", normalize("NFD", "café")),
    "decomposed inside": ("{}'s cello", normalize("NFD", "Zoë Łódź")),
    "Vietnamese": ("{} is a", "Nguyễn Ái Quốc"),
    "Chinese": ("{}的首都是", "中华人民共和国"),
    "Japanese": ("{}の母語は", "東京タワー"),
    "Korean": ("{}의 수도는", "대한민국"),
    "Korean, decomposed": ("{}의 수도는", normalize("NFD", "서울")),
    "Hebrew": ("{} היא בירת", "ירושלים"),
    "Arabic": ("ولد {} في", "محمد علي"),
    "Arabic in English": ("The song {}, today, is", "يا مسافر وحدك"),
    "Hindi": ("{} is a", "महात्मा गांधी"),
    "emoji at the end": ("The song {} is", "Love 🎻"),
    "emoji joined": ("{} is", "👩‍🚀"),
    "emoji, then more": ("{}🎶 is a song", "🎻"),
    "flag": ("{}: the town", "🇫🇷"),
    "outside the basic plane": ("{} is", "𝒜da"),
    "one letter": ("{} is a", "I"),
}
TEMPLATES = ("{}", "I heard a song. {}", "Elvinn's café is quiet. {}", "東京 🎻: {}")
DECOMPOSED = ("accents, decomposed", "Korean, decomposed")


def wrapped(tokenizer: Tokenizer, **more) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END, **more
    )


def begin_with_bos(tokenizer: Tokenizer) -> None:
    front = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    trim = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = processors.Sequence([trim, front])


def like_llama3() -> PreTrainedTokenizerFast:
    """Byte-level BPE after a split by a pattern; a post-processor adds BOS."""
    tokenizer = build_tokenizer().backend_tokenizer
    pattern = Regex(r"'s|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    begin_with_bos(tokenizer)
    return wrapped(tokenizer)


def like_qwen() -> PreTrainedTokenizerFast:
    """Byte-level BPE of composed characters."""
    tokenizer = build_tokenizer().backend_tokenizer
    tokenizer.normalizer = normalizers.NFC()
    return wrapped(tokenizer)


def like_llama2(*, metaspace: bool) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE: "▁" for spaces, one more in front, and bytes for what is not in the
    vocabulary.

    Args:
        metaspace: by a pre-tokenizer, as newer conversions have it, instead of by normalisation of
            the whole text.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=[END, "<unk>"], show_progress=False
    )
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.train_from_iterator(SENTENCES, trainer)
    learned = json.loads(pieces.to_str())["model"]
    vocab = learned["vocab"] | {
        f"<0x{byte:02X}>": len(learned["vocab"]) + byte for byte in range(256)
    }
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[tuple(pair) for pair in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens([END])
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    return wrapped(tokenizer, unk_token="<unk>")


KINDS = {
    "byte-level": build_tokenizer,
    "byte-level, BOS": lambda: build_tokenizer(bos=True),
    "Llama 3": like_llama3,
    "Qwen": like_qwen,
    "Llama 2": lambda: like_llama2(metaspace=False),
    "Metaspace": lambda: like_llama2(metaspace=True),
}


@cache
def language_model(kind: str):
    return fitted(KINDS[kind]())


def fitted(tokenizer: PreTrainedTokenizerFast):
    """A tiny model with this tokenizer, and a row of the embedding for each of its tokens."""
    lm = replace(build_lm("gpt2"), tokenizer=tokenizer)
    lm.model.resize_token_embeddings(max(tokenizer.get_vocab().values()) + 1)
    return lm


def size(token: str, sentencepiece: bool) -> int:
    """Bytes of text in a token."""
    if not sentencepiece:
        return len(token)  # one symbol stands for one byte
    return 1 if re.fullmatch("<0x..>", token) else len(token.replace("▁", " ").encode())


def last_byte(lm, text: str, characters: int, sentencepiece: bool = False) -> int:
    """The token that holds the last byte of the first `characters` characters."""
    composed = "NFC" in str(lm.tokenizer.backend_tokenizer.normalizer)
    wanted = (
        len((normalize("NFC", text[:characters]) if composed else text[:characters]).encode())
        + sentencepiece
    )
    seen = 0
    for position, token in enumerate(
        lm.tokenizer.convert_ids_to_tokens(lm.tokenizer(text)["input_ids"])
    ):
        seen += 0 if token == END else size(token, sentencepiece)
        if seen >= wanted:
            return position
    raise AssertionError("the text is longer than its tokens")


def check(lm, case: str, template: str, sentencepiece: bool = False) -> None:
    prompt, subject = CASES[case]
    request = parse_requests(
        [{"case_id": 0, "prompt": prompt, "subject": subject, "target_new": "New York"}]
    )[0]
    filled = fill(template, request)
    tokens, (position,) = lookup_rows(lm, [filled], [request.subject], [" New York"])
    before, after = filled
    text = f"{before}{request.subject}{after}"
    assert subject_end(filled, request.subject) == len(before + request.subject) - 1
    assert position == last_byte(
        lm, text + " New York", len(before + request.subject), sentencepiece
    )
    assert (
        lm.tokenizer.decode(tokens.ids[0][tokens.first_after(0, len(text)) :]).strip() == "New York"
    )
    validate_requests(lm, [request], ((template,),))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_subject(case, kind):
    """Alone and after prefixes; the marked occurrence counts, whatever else the text holds."""
    for template in TEMPLATES:
        check(language_model(kind), case, template, sentencepiece=kind in ("Llama 2", "Metaspace"))


@pytest.fixture(scope="module", params=[False, True], ids=["as it is", "BOS"])
def real(request, benchmarks):
    """GPT-2's own vocabulary, as it is and with BOS in front."""
    tokenizer = AutoTokenizer.from_pretrained(benchmarks / "gpt2_tokenizer")
    if request.param:
        begin_with_bos(tokenizer.backend_tokenizer)
    assert (tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id) == request.param
    return fitted(tokenizer)


@pytest.mark.parametrize("case", CASES)
def test_subject_under_the_real_tokenizer(real, case):
    for template in TEMPLATES:
        check(real, case, template)


def test_the_cases_are_what_they_claim(benchmarks):
    """Subjects that merge with what follows, characters of several tokens, letters composed with
    their marks.
    """
    tokenizer = AutoTokenizer.from_pretrained(benchmarks / "gpt2_tokenizer")
    lm = fitted(tokenizer)
    for case in ("merges with a digit", "inside another word"):
        prompt, subject = CASES[case]
        tokens, (position,) = lookup_rows(lm, [marked(prompt)], [subject])
        start, end = tokens.offsets[0][position]
        assert (end > subject_end(marked(prompt), subject) + 1) == (case == "merges with a digit")
    tokens, (position,) = lookup_rows(lm, [marked("{}🎶 is a song")], ["🎻"])
    assert [offset for offset in tokens.offsets[0] if offset[0] == 0] == tokens.offsets[0][
        : position + 1
    ]
    assert position > 0 and not any(
        "<unk>" in language_model("Llama 2").tokenizer.tokenize(subject)
        for _, subject in CASES.values()
    )
    for case in DECOMPOSED:  # the last character has no token of its own
        prompt, subject = CASES[case]
        tokens, _ = lookup_rows(language_model("Qwen"), [marked(prompt)], [subject])
        with pytest.raises(LookupError):
            tokens.token_at(0, subject_end(marked(prompt), subject))


def test_without_a_mark_the_last_occurrence_counts():
    """A plain record names its subject inside the prompt; written "{}", the mark decides."""
    (request,) = parse_requests(
        [
            {
                "case_id": 0,
                "prompt": "Elvinn is quiet; Elvinn is",
                "subject": "Elvinn",
                "target_new": "old",
            }
        ]
    )
    assert request.prompt == "Elvinn is quiet; {} is"


def test_bos_written_out(requests):
    """In a prompt or a context, where the tokenizer adds it already, it would stand there twice:
    refused.
    """
    lm = language_model("byte-level, BOS")
    validate_requests(lm, requests, (("{}",),))
    with pytest.raises(
        RequestError,
        match="case_id 0: prompt: '<|endoftext|>' is written out in it or in a context",
    ):
        validate_requests(lm, requests, (("{}", f"{END}I heard a song. {{}}"),))
    validate_requests(
        language_model("byte-level"), requests, ((f"{END}I heard a song. {{}}",),)
    )  # once, by hand
