"""What a finished run edited, found again from its record."""

from pathlib import Path
from typing import Any

from ..requests.published import load_request_set
from ..requests.request import EditRequest
from .job import choose_edits
from .records import read_run


def reading_of(edited: Path) -> dict[str, Any]:
    """How a run read its requests, as arguments of `seqedit.lm.chat.as_read`.

    Args:
        edited: folder of the run; anything else, such as a file of edits, does not say it.
    """
    if not (edited / "run.json").is_file():
        return {}
    parameters = read_run(edited)["parameters"]
    return {name: parameters[name] for name in ("separator", "chat") if name in parameters}


def dtype_of(edited: Path) -> str | None:
    """The type of weights that a run had, by name; None if `edited` is no folder of a run."""
    if not (edited / "run.json").is_file():
        return None
    return read_run(edited)["parameters"].get("dtype", "float32")


def edited_requests(run: dict[str, Any], source: Path | str) -> list[EditRequest]:
    """The facts that a run edited, each as the last edit of it.

    Args:
        run: content of its run.json.
        source: the requests that it was made with, see `load_request_set`.

    Raises:
        ValueError: the requests are others than those of the run, or cannot be loaded.
    """
    parameters = run["parameters"]
    loaded = load_request_set(source, clean=parameters.get("clean", False))
    if loaded.origin != parameters["files"]["requests"]:
        raise ValueError(
            f"requests: {source} is not what the run was made with (digest {loaded.origin}, the "
            f"record has {parameters['files']['requests']}); give the run's own requests"
        )
    stream = choose_edits(
        loaded.requests,
        parameters.get("stream"),
        run["stream"]["facts"] if "stream" in run else run["n_edits"],
        parameters["shuffle"],
        parameters["seed"],
    )
    return stream.current([edit for edits in stream.passes for edit in edits])
