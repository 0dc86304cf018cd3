"""Evaluation in the wild: what an edited model answers when nobody holds its hand.

The other edit metrics feed the right answer to the model, token by token, and stop where it stops.
Here the model writes, greedily, until it ends by itself; see `generation.greedy_answers` for the
rule. An edited model that knows the fact but not when to stop does well there and badly here.
"""

import re
import string
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..lm.chat import apply_template
from ..lm.model import LanguageModel
from ..lm.tokens import tokenise
from ..requests.request import EditRequest
from .generation import greedy_answers

FRAME = "Please answer the question:\n\nQ: {}\nA:"
"""The frame around a question, as released."""

MEASURES = ("exact", "contains", "ended")
"""What is measured of each answer, see `score_wild`."""

LEFT_OUT = "left_out"
"""What says that a prompt leaves no room for an answer, see `score_wild`."""

Prompts = dict[str, dict[int, list[int]]]
"""Kind of prompt → number of the request → token ids; requests without such a prompt are absent."""


def score_wild(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    new_tokens: int = 32,
    texts: bool = False,
) -> pd.DataFrame:
    """Let the model answer each request's prompts freely, and judge the answers.

    Kinds of prompts:

    * `bare`: the prompt itself.
    * `question`: `FRAME` around the request's first question, or its prompt if it has none.
    * `chat`: the same question as a user's message in the tokenizer's chat template; only for
      tokenizers that have one.
    * `paraphrase`: the first paraphrase, bare.

    Args:
        lm: the model, edited or not.
        requests: what to measure.
        new_tokens: largest number of tokens of an answer.
        texts: also return the answers themselves.

    Returns:
        One row per request: case_id, and for each kind, with NaN where a request has no such
        prompt,

        * `wild_KIND_exact`: whether answer and new object are the same, both `normalised`;
        * `wild_KIND_contains`: whether the answer contains the new object as whole words, both
          `normalised`;
        * `wild_KIND_ended`: whether the answer ended by itself within `new_tokens`;
        * `wild_KIND_text`, with `texts`: the answer;
        * `wild_KIND_left_out`: whether the prompt leaves no room for an answer in the model's
          positions; the other columns are NaN then.

        The first two are also NaN where nothing is left of the new object when it is normalised.

    Source:
        WILD (2502.11177). Departs from it: the match by words is ours, beside the released exact
        match; no other language model judges; and chats have no system message of our own.
    """
    scores = pd.DataFrame({"case_id": [request.case_id for request in requests]})
    for kind, prompts in wild_prompts(lm, requests).items():
        asked = {i: ids for i, ids in prompts.items() if _has_room(lm, ids)}
        answers = greedy_answers(lm, list(asked.values()), new_tokens=new_tokens)
        rows = [
            (*_judge(answer.text, requests[i].target_new), float(answer.ended))
            for i, answer in zip(asked, answers, strict=True)
        ]
        judged = pd.DataFrame(rows, index=list(asked), columns=[*MEASURES], dtype=float)
        if texts:
            judged["text"] = [answer.text for answer in answers]
        judged = judged.reindex(scores.index)
        judged[LEFT_OUT] = pd.Series({i: float(i not in asked) for i in prompts}, dtype=float)
        scores = scores.join(judged.add_prefix(f"wild_{kind}_"))
    return scores


def summarise_wild(scores: pd.DataFrame) -> dict[str, float]:
    """Mean of every measure of `score_wild` over the requests that have it; NaN if none has.

    `wild_KIND_left_out` is the share of prompts that leave no room for an answer.
    """
    measures = scores.filter(regex=rf"^wild_.*_({'|'.join((*MEASURES, LEFT_OUT))})$")
    return {str(name): float(mean) for name, mean in measures.mean().items()}


def wild_prompts(lm: LanguageModel, requests: Sequence[EditRequest]) -> Prompts:
    """Token ids of all prompts of `score_wild`.

    What `LanguageModel.in_front` puts before a prompt stands before the question in a frame or a
    chat.
    """
    questions = [r.questions[0] if r.questions else r.text for r in requests]
    asked = _with_fronts(lm, questions)
    others = {i: r.paraphrase_prompts[0] for i, r in enumerate(requests) if r.paraphrase_prompts}
    paraphrases = dict(zip(others, _with_fronts(lm, list(others.values())), strict=True))
    prompts = {
        "bare": _tokens(lm, dict(enumerate(_with_fronts(lm, [r.text for r in requests])))),
        "question": _tokens(lm, dict(enumerate(map(FRAME.format, asked)))),
    }
    if lm.tokenizer.chat_template is not None:
        prompts["chat"] = {i: _chat(lm, question) for i, question in enumerate(asked)}
    prompts["paraphrase"] = _tokens(lm, paraphrases)
    return prompts


def long_wild_prompts(lm: LanguageModel, requests: Sequence[EditRequest]) -> list[str]:
    """A message for each prompt of `score_wild` that leaves no room for an answer.

    Such a prompt is left out; its request is edited and measured all the same.
    """
    return [
        f"case_id {requests[i].case_id!r}: {kind} prompt in the wild: left out, because its "
        f"{len(ids)} tokens leave no room for an answer in the model's {lm.max_positions} positions"
        for kind, prompts in wild_prompts(lm, requests).items()
        for i, ids in prompts.items()
        if not _has_room(lm, ids)
    ]


def _has_room(lm: LanguageModel, ids: Sequence[int]) -> bool:
    return len(ids) < lm.max_positions


def _with_fronts(lm: LanguageModel, texts: Sequence[str]) -> list[str]:
    """Each text with what stands before it."""
    return [front + text for front, text in zip(lm.in_front(texts), texts, strict=True)]


def _tokens(lm: LanguageModel, texts: dict[int, str]) -> dict[int, list[int]]:
    """Token ids of each text, with special tokens as the tokenizer adds them."""
    ids = tokenise(lm, list(texts.values())).ids if texts else []
    return dict(zip(texts, ids, strict=True))


def _chat(lm: LanguageModel, question: str) -> list[int]:
    """Token ids of a chat in which the user has asked and the model is to answer."""
    return list(apply_template(lm, question, return_dict=True)["input_ids"])


def _judge(answer: str, target: str) -> tuple[float, float]:
    """Whether an answer is the target, and whether it contains it; see `score_wild`."""
    said, wanted = normalised(answer), normalised(target)
    if not wanted:
        return np.nan, np.nan
    return float(said == wanted), float(f" {wanted} " in f" {said} ")


def normalised(text: str) -> str:
    """A text in lower case, without ASCII punctuation and English articles, words one space apart.

    Source:
        SQuAD's answer normalisation, as WILD's released code has it. Punctuation is deleted, not
        replaced by a space.
    """
    words = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", words).split())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
