"""Say why a model could not be loaded, and what to do about it."""

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)


def why_not_loaded(name: str, error: BaseException) -> str:
    """Put an error of `transformers` on loading a model into one line that says what to do.

    Args:
        name: local folder or hub id.
        error: what was raised; the reason may be among its causes.
    """
    found = _hub_error(error)
    status = getattr(getattr(found, "response", None), "status_code", None)
    begin = f"no model could be loaded from {name!r}: "
    if isinstance(found, GatedRepoError):
        return begin + (
            f"it is gated; ask for access at https://huggingface.co/{name}, then log in with `hf "
            "auth login` (or set HF_TOKEN to a token that may read it)"
        )
    if isinstance(found, RepositoryNotFoundError):
        return begin + (
            "there is no such folder, and no such model on the hub that you may see; check the "
            "spelling, and for a private one log in with `hf auth login`"
        )
    if status in (401, 403):
        return begin + (
            f"the hub refused it (HTTP {status}); log in with `hf auth login` and see at "
            f"https://huggingface.co/{name} that you may read it"
        )
    if isinstance(found, LocalEntryNotFoundError):
        remedy = (
            "HF_HUB_OFFLINE forbids to look further: unset it once, or run "
            f"`hf download {name}` beforehand"
            if constants.HF_HUB_OFFLINE
            else "the hub could not be reached: check the network, or name a local folder"
        )
        return begin + "there is no such folder, and it is not in the cache of the hub; " + remedy
    if "model.safetensors" in (line := str(error).splitlines()[0]):
        return (
            begin + f"{line.rstrip('.')}; only safetensors are read, convert other weights with "
            "save_pretrained"
        )
    return begin + line


def why_not_built(name: str, error: BaseException) -> str:
    """Put an error of `transformers` on what it found in a model's files into one line."""
    line = (str(error).splitlines() or [""])[-1].strip()
    return (
        f"{name}: its files describe no model that transformers can build "
        f"({type(error).__name__}: {line}); take it as it was released"
    )


def _hub_error(error: BaseException) -> BaseException | None:
    """The first error of the hub among an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError | LocalEntryNotFoundError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
