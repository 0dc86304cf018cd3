"""What every chapter needs at its start."""

import warnings

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython import get_ipython


def begin(*parameters: str) -> None:
    """Check the notebook's parameters and set the look of figures; the first call of a chapter.

    papermill accepts a misspelt `-p` with only a line in its log and runs with the defaults; here
    it is an error.

    Args:
        parameters: names of the chapter's parameters.

    Raises:
        ValueError: a name was injected that the chapter does not have; the message lists those it
            has.
    """
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm: no widgets here
    shell = get_ipython()
    given = {
        n
        for n, v in shell.user_ns.items()
        if not n.startswith("_") and n not in shell.user_ns_hidden and not callable(v)
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


def markdown_table(frame: pd.DataFrame, caption: str, name: str):
    """A numbered, referable table of the book."""
    from IPython.display import Markdown

    return Markdown(
        f":::{{table}} {caption}\n:name: {name}\n:align: center\n\n{frame.to_markdown(index=False)}\n:::"
    )
