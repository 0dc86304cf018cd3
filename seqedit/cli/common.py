"""What the commands share: options, remarks, and errors in one line."""

import sys
from functools import wraps
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..base.paths import find_model


def say(text: str) -> None:
    print(text, file=sys.stderr)


def _usable(device: str) -> str:
    """The device's name, if tensors can be made there."""
    if device not in ("auto", "spread"):
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise typer.BadParameter(
                f"{device!r} cannot be used: {str(error).splitlines()[0]}"
            ) from error
    return device


def _folder(model: str) -> str:
    """The folder of a model given by name."""
    return str(find_model(model))


Model = Annotated[
    str,
    typer.Option(
        help="Folder or hub id of a causal language model; embedded: the one that comes along.",
        callback=_folder,
    ),
]
Edited = Annotated[
    Path,
    typer.Option(
        help="Folder that `seqedit edit` wrote, or a file of factors that `seqedit "
        "export --as factors` wrote."
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda …, or spread: over all GPUs.", callback=_usable)
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(
        help="Of the model's weights; the edited matrices are also kept in float32, where edits add up."
    ),
]


def plain_errors(command):
    """Wrong input, or too little memory, ends in one line on stderr and exit code 1; anything else is a bug and shows
    its traceback."""

    @wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            say(f"error: {' '.join(str(error).split())}")
            raise typer.Exit(1) from error
        except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError
            if not out_of_memory(error):
                raise
            say(
                f"error: not enough memory: {' '.join(str(error).split('. ')[0].split())}. {LESS_MEMORY}"
            )
            raise typer.Exit(1) from error

    return wrapped


LESS_MEMORY = (
    "What takes how much: `seqedit plan`, before anything is loaded. What takes less: --dtype bfloat16 "
    "halves the weights; fewer requests at a time (--batch-size); compact second moments (`seqedit moments "
    "compact`); several GPUs (--device spread); the CPU's memory (--device cpu). An interrupted run goes on "
    "from its last round when it is started again."
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU (`torch.OutOfMemoryError`) or on the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "allocate memory" in str(error)
        or "not enough memory" in str(error)
    )


def parse_layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"--layers {text!r}: expected numbers separated by commas, e.g. 3,4,5"
        ) from error
