"""What all commands share: the app factory with its error handling, common options, and remarks.

Every group of commands is an app made by `make_app`. A command ends with exit code

* 0 when it did what was asked;
* 1 when the input is wrong or memory is too small (or when a check that was asked for failed);
* 2 when the command line is wrong: an unknown option, a value of the wrong type or out of range;
* 70 when it met a bug of its own;
* 130 when it was interrupted by Ctrl-C.

Whatever the reason, one line on stderr states it. `seqedit --debug COMMAND …`, or SEQEDIT_DEBUG=1,
also prints the traceback.
"""

import math
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from ..base.paths import find_model

WRONG_INPUT, BUG, INTERRUPTED = 1, 70, 130
LARGEST_SEED = 2**63 - 1  # that every generator takes
SHOW_TRACEBACK = "`seqedit --debug …` or SEQEDIT_DEBUG=1 shows the traceback"
LESS_MEMORY = (
    "`seqedit plan` estimates what a run needs before anything is loaded. To need less: halve the "
    "weights with --dtype bfloat16, take fewer requests at a time (--batch-size), use compact "
    "second moments (`seqedit moments compact`), several GPUs (--device spread) or the CPU's "
    "memory (--device cpu). A run that was interrupted goes on from its last round when it is "
    "started again."
)


Undoable = Annotated[
    bool, typer.Option("--undoable", help="Keep keys and residuals for `seqedit undo`.")
]


class OneLineErrors(TyperGroup):
    """A group of commands in which every error ends in one line on stderr and an exit code."""

    context_class = typer.Context  # what the annotations of commands say that they get

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an empty word, which as a path would be the current folder."""
        if "" in args:
            raise typer.BadParameter(
                "an empty word is no value; was it a variable of the shell that is not set?"
            )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command of this group or of a group inside it.

        Raises:
            typer.Exit: with the exit code of the error that ended the command.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Abort, BrokenPipeError):
            raise  # a prompt was declined, or a reader such as `head` left: no error of ours
        except Exception as error:
            if hasattr(error, "exit_code"):
                raise  # typer's own: a usage error, or an exit that the command chose
            if ctx.find_root().params.get("debug"):
                traceback.print_exception(error)
            line, code = describe(error)
            say(line)
            raise typer.Exit(code) from error


def describe(error: Exception) -> tuple[str, int]:
    """The line that tells a user of an error, and the exit code that goes with it.

    ValueError, OSError and a damaged file of tensors mean wrong input. Any other exception is a
    bug, unless an allocation failed.
    """
    text = " ".join(str(error).split())
    if out_of_memory(error):
        return f"error: not enough memory: {text.split('. ')[0]}. {LESS_MEMORY}", WRONG_INPUT
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"error: {error.filename}: {error.strerror}", WRONG_INPUT
    if isinstance(error, ValueError | OSError) or type(error).__name__ == "SafetensorError":
        return f"error: {text}", WRONG_INPUT
    return f"error: this is a bug in seqedit: {type(error).__name__}: {text}; {SHOW_TRACEBACK}", BUG


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU (`torch.OutOfMemoryError`) or on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("allocate memory", "not enough memory")  # of torch's plain RuntimeError on the CPU
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def make_app(**options: Any) -> typer.Typer:
    """A group of commands with one-line errors and plain help.

    Args:
        options: of `typer.Typer`, e.g. `help`.
    """
    common: dict[str, Any] = {
        "cls": OneLineErrors,
        "no_args_is_help": True,
        "rich_markup_mode": None,
        "pretty_exceptions_enable": False,
    }
    return typer.Typer(**(common | options))


def say(text: str) -> None:
    """Print a remark to stderr; results go to stdout."""
    print(text, file=sys.stderr)


Jobs = Annotated[
    int,
    typer.Option("--jobs", "-j", min=1, max=1024, help="Runs at a time, one thread each."),
]


def parse_names(text: str | None) -> tuple[str, ...]:
    """Names from text such as "attribute,negated"; none without a text."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def is_number(text: str) -> bool:
    """Whether a text is a whole number in plain digits: no sign, no "_", no other script."""
    return text.isascii() and text.isdecimal()


def parse_numbers(option: str, text: str | None) -> list[float]:
    """Numbers from text such as "0.5,0.7"; none without a text.

    Raises:
        ValueError: the text is not finite numbers separated by commas.
    """
    try:
        numbers = [float(word) for word in text.split(",")] if text else []
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"--{option} {text!r}: expected numbers separated by commas, e.g. 0.5,0.7")
    return numbers


def parse_layers(text: str) -> tuple[int, ...]:
    """Layers from text such as "3,4,5".

    Raises:
        ValueError: the text is not numbers separated by commas.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(map(is_number, words)):
        raise ValueError(f"--layers {text!r}: expected numbers separated by commas, e.g. 3,4,5")
    return tuple(int(word) for word in words)


def usable(device: str) -> str:
    """The name of a device on which tensors can be made; "auto" and "spread" are resolved later.

    Raises:
        typer.BadParameter: no tensor can be made there.
    """
    if device not in ("auto", "spread"):
        import torch

        try:
            torch.zeros(1, device=device).item()  # "meta" makes tensors without content
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise typer.BadParameter(f"{device!r} cannot be used: {reason}") from error
    return device


def chosen_dtype(dtype: str, model: str, device: str = "auto", edited: Path | None = None) -> str:
    """The name of the type of weights that --dtype asks for.

    Args:
        dtype: what was asked for; "auto" is decided here.
        model: the model that is loaded.
        device: where it is loaded.
        edited: what is put into it; a run says which type it had.
    """
    from ..lm.dtype import choose_dtype
    from ..runs.edited import dtype_of

    if dtype == "auto" and edited is not None:
        dtype = dtype_of(edited) or dtype
    return choose_dtype(dtype, model, device)


def model_folder(model: str) -> str:
    """The folder of a model given by name; anything else as it is."""
    return str(find_model(model))


def usable_alone(device: str) -> str:
    """Like `usable`, for work that runs on a single device.

    Raises:
        typer.BadParameter: the device is "spread", or no tensor can be made there.
    """
    if device == "spread":
        raise typer.BadParameter("'spread' cannot be used here; name one device")
    return usable(device)


Model = Annotated[
    str,
    typer.Option(
        help="Folder, hub id or .gguf file of a causal language model; embedded: the one that "
        "comes along; or a name of `seqedit model list`.",
        callback=model_folder,
    ),
]
Edited = Annotated[
    Path,
    typer.Option(
        help="Folder written by `seqedit edit`, or a file written by `seqedit export --as factors`."
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda …, or spread: over all GPUs.", callback=usable)
]
OneDevice = Annotated[str, typer.Option(help="auto, cpu or cuda.", callback=usable_alone)]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "auto"],
    typer.Option(
        help="Type of the model's weights. The edited matrices are also kept in float32, in which "
        "edits add up. auto: that of the run, where one is given; else bfloat16 where the hardware "
        "multiplies it natively, but for the embedded model; else float32."
    ),
]
PerplexityText = Annotated[
    Path | None,
    typer.Option(
        help="Text, one document a line, whose perplexity is measured before the edits and at each "
        "evaluation; self: about 4,000 tokens that the unedited model writes.",
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of everything that is random.")
]
