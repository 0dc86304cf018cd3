"""Requests as a chat: each prompt is a user's message, and the model's answer continues it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from ..requests.joining import SPACE
from ..requests.plain import PROBES, PROMPTS
from ..requests.record import Probe
from ..requests.request import EditRequest, RequestError, joined
from .model import LanguageModel


def as_read(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    separator: str = SPACE,
    chat: bool = False,
) -> list[EditRequest]:
    """The requests as a model is to read them, in edits and in all measures.

    Args:
        lm: the model whose tokenizer has the chat template.
        requests: of a file.
        separator: what joins prompts and continuations of requests that do not say it themselves.
        chat: see `as_chats`.
    """
    own = joined(requests, separator)
    return as_chats(lm, own) if chat else own


def as_chats(lm: LanguageModel, requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests with all their prompts in the tokenizer's own chat template.

    A prompt is what the user says, and its continuation follows the words with which the model's
    turn begins. The template decides about a system message. Context templates stand before the
    whole chat. Questions stay as they are, because evaluation in the wild puts them into a chat
    itself; a request without any keeps its plain prompt as one.

    Raises:
        ValueError: the tokenizer has no chat template.
        RequestError: the template alters the text of a prompt.
    """
    if not lm.tokenizer.chat_template:
        raise ValueError(
            "chat: the tokenizer has no chat template; leave --chat out, or take a model that was "
            "made for chats"
        )
    return [_as_chat(lm, request) for request in requests]


def _as_chat(lm: LanguageModel, request: EditRequest) -> EditRequest:
    chat, start = _chat(lm, request.text, f"case_id {request.case_id!r}: prompt")
    at = start + len(request.before_subject)
    end = at + len(request.subject)
    changes: dict[str, Any] = {
        "prompt": chat[:at] + "{}" + chat[end:],
        "subject_at": at,
        "questions": request.questions or (request.text,),
    }
    for name in (name for name in PROMPTS if name != "questions"):
        where = f"case_id {request.case_id!r}: {name}"
        changes[name] = tuple(_chat(lm, prompt, where)[0] for prompt in getattr(request, name))
    for name in PROBES:
        probes: tuple[Probe, ...] = getattr(request, name)
        where = f"case_id {request.case_id!r}: {name}"
        changes[name] = tuple(p._replace(prompt=_chat(lm, p.prompt, where)[0]) for p in probes)
    return replace(request, **changes)


def apply_template(lm: LanguageModel, prompt: str, **options: Any) -> Any:
    """What the tokenizer's chat template makes of a user's message, with an answer to follow.

    Args:
        lm: the model whose tokenizer has the template.
        prompt: the message.
        options: of `apply_chat_template`.

    Raises:
        ValueError: the template is wrong, or refuses such a chat.
    """
    messages = [{"role": "user", "content": prompt}]
    try:
        tokenizer: Any = lm.tokenizer
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
    except (TemplateError, TypeError) as error:
        raise ValueError(
            f"chat: the tokenizer's chat template cannot be used: {error}; take another model's, "
            "or leave the chat out"
        ) from error


def _chat(lm: LanguageModel, prompt: str, where: str) -> tuple[str, int]:
    """A chat in which the user has said the prompt, and where in it the prompt would begin.

    White space around the prompt goes where the template drops it. A BOS that the tokenizer adds
    anyway is left out.

    Raises:
        RequestError: the prompt is not in the chat.
    """
    chat = str(apply_template(lm, prompt, tokenize=False))
    bos, begin = lm.tokenizer.bos_token, lm.tokenizer("a")["input_ids"][0]
    if bos and begin == lm.tokenizer.bos_token_id:
        chat = chat.removeprefix(bos)
    start = chat.rfind(prompt.strip())
    if start < 0:
        raise RequestError(f"{where}: the chat template alters the text of {prompt!r}")
    return chat, start - (len(prompt) - len(prompt.lstrip()))
