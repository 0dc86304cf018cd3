"""Starts a chapter: checks its parameters and sets the look of its figures."""

import warnings

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import Markdown


def begin(*parameters: str) -> None:
    """Check the parameters of a chapter and set the look of its figures; a chapter calls this
    first.

    A misspelt `-p` is an error here; papermill alone writes a line to its log and uses the
    defaults.

    Args:
        parameters: names of the chapter's parameters.

    Raises:
        ValueError: a name was injected that the chapter does not have (the message lists those it
            has), or a value of another type than the parameter's, or out of range.
    """
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm: no widgets here
    shell = get_ipython()
    given = {
        name
        for name, value in shell.user_ns.items()
        if not name.startswith("_") and name not in shell.user_ns_hidden and not callable(value)
    }
    unknown = sorted(given - set(parameters))
    if unknown:
        raise ValueError(
            f"this chapter has no parameter {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(parameters) or 'none'}"
        )
    kinds = shell.user_ns.get("__annotations__", {})
    for name in parameters:
        if name in kinds and name in shell.user_ns:
            check_parameter(name, shell.user_ns[name], kinds[name])
    sns.set_theme(
        style="whitegrid",
        palette="colorblind",
        context="notebook",
        rc={
            "figure.facecolor": "white",
            "figure.figsize": (7, 3.6),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "seqedit",
        },
    )
    plt.rcParams["savefig.dpi"] = plt.rcParams["figure.dpi"] = 110


FROM_ZERO = {"seed", "layer", "case", "evaluate_every"}
"""Parameters that may be 0; other numbers are counts and sizes."""
LARGEST = 10**9


def check_parameter(name: str, value: object, kind: type | str) -> None:
    """Check the value of a chapter's parameter against the type in the chapter's own text.

    Args:
        name: of the parameter.
        value: what it is, possibly injected by papermill.
        kind: int, float, str or bool, as the type or by name.

    Raises:
        ValueError: the value has another type, is not finite, or is out of range.
    """
    wanted = {"int": int, "float": float, "str": str, "bool": bool}.get(
        kind if isinstance(kind, str) else kind.__name__
    )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = type(value) is wanted or (wanted is float and number)
    if wanted is not None and not fits:
        raise ValueError(
            f"{name} = {value!r:.60}: expected {wanted.__name__}, found {type(value).__name__}"
        )
    if isinstance(value, int | float) and number:
        least = 0 if name in FROM_ZERO else 1 if wanted is int else 1e-12
        if not least <= value <= LARGEST:  # NaN is neither
            raise ValueError(f"{name} = {value!r:.60}: must lie between {least:g} and {LARGEST:g}")


def markdown_table(frame: pd.DataFrame, caption: str, name: str) -> Markdown:
    """A table of the book that has a number and can be referred to by its name."""
    return Markdown(
        f":::{{table}} {caption}\n:name: {name}\n:align: center\n\n"
        f"{frame.to_markdown(index=False)}\n:::"
    )
