"""What the commands share: options, and wrong input told in one line."""

import sys
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="Folder or hub id of a causal language model, e.g. data/model.")]
Edited = Annotated[Path, typer.Option(help="Folder that `seqedit edit` wrote, or a file of factors that `seqedit "
                                           "export --as factors` wrote.")]


def say(text: str) -> None:
    print(text, file=sys.stderr)


def usable(device: str) -> str:
    """The device's name, if tensors can be made there."""
    if device != "auto":
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise typer.BadParameter(f"{device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


Device = Annotated[str, typer.Option(help="auto, cpu, cuda …", callback=usable)]


def plain_errors(command):
    """Wrong input ends in one line on stderr and exit code 1; anything else is a bug and shows its traceback."""
    @wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            say(f"error: {' '.join(str(error).split())}")
            raise typer.Exit(1) from error
    return wrapped
