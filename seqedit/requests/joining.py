"""How a prompt and what continues it become one text: the same rule for edits and all measures."""

SPACE = " "
"""What stands between a prompt and its continuation unless a request or a run says otherwise."""


def join(prompt: str, continuation: str, separator: str = SPACE) -> str:
    """The prompt and its continuation as one text.

    A prompt that ends in white space is continued as it stands, since "Answer:" and a line end are
    followed by the answer. After any other prompt comes the separator.

    Args:
        prompt: never altered.
        continuation: without white space in front.
        separator: a space; "" for scripts that write none, such as Chinese.
    """
    return prompt + ("" if prompt[-1:].isspace() else separator) + continuation


def split_target(prompt: str, target: str) -> tuple[str, str, str | None]:
    """Give the white space in front of a target its place, so that the text stays as it was given.

    Returns:
        The prompt, the target without white space around it, and the separator that the target
        asks for; None if it asks for none. After a prompt that ends in white space the target's own
        goes to the prompt's end.
    """
    bare = target.lstrip()
    lead = target[: len(target) - len(bare)]
    if lead and prompt[-1:].isspace():
        return prompt + lead, bare.rstrip(), None
    return prompt, bare.rstrip(), lead or None


def split_answer(prompt: str, answer: str) -> tuple[str, str]:
    """A probe's prompt and answer, the answer without white space around it.

    A single space in front of the answer is the usual separator; other white space goes to the
    prompt's end.
    """
    prompt, answer, lead = split_target(prompt, answer)
    return prompt + lead if lead and lead != SPACE else prompt, answer
