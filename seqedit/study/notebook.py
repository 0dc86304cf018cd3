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
        ValueError: a name was injected that the chapter does not have; the message lists those it
            has.
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


def markdown_table(frame: pd.DataFrame, caption: str, name: str) -> Markdown:
    """A table of the book that has a number and can be referred to by its name."""
    return Markdown(
        f":::{{table}} {caption}\n:name: {name}\n:align: center\n\n"
        f"{frame.to_markdown(index=False)}\n:::"
    )
