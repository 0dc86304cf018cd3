"""Starts a chapter: checks its parameters and sets the look of its figures."""

import re
import warnings

import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown

from .display import set_style, show_figures_as_svg


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
    show_figures_as_svg(shell)
    set_style()


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
    """A table of the book that has a number and can be referred to by its name.

    Numbers stand at the right of their column with the same number of decimals, minus signs are
    minus signs, and no cell breaks at its ±.
    """
    shown = {title: _as_text(column) for title, column in frame.items()}
    right = [all(_NUMBER.match(text) for text in texts) for texts in shown.values()]
    text = pd.DataFrame(shown).to_markdown(
        index=False,
        colalign=["right" if is_number else "left" for is_number in right],
        disable_numparse=True,
    )
    return Markdown(f":::{{table}} {caption}\n:name: {name}\n:align: center\n\n{text}\n:::")


_NUMBER = re.compile(r"[−+]?\d[\d.,]*(·10\S+)?(\s?(%|[a-zA-Z]{1,3}))?(\s?[±(–].*)?$|–?$")
"""A number with a short unit and an interval or range, if any; a dash or nothing counts as one."""
_POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _as_text(column: pd.Series) -> list[str]:
    """The cells of a column as they are printed; a dash for a number that is not there."""
    texts = [f"{v:g}" if isinstance(v, float) else "" if v is None else str(v) for v in column]
    if pd.api.types.is_float_dtype(column) and not any("e" in text for text in texts):
        decimals = max(len(text.partition(".")[2]) for text in [*texts, ""])
        texts = [f"{v:.{decimals}f}" for v in column]
    return [_typeset(text) for text in texts]


def _typeset(text: str) -> str:
    """A cell with minus signs, powers of ten and a ± that keeps its numbers together."""
    if text == "nan":
        return "–"
    if "`" in text:
        return text
    text = re.sub(r"^(-?[\d.]+)e([+-]\d+)$", _power, text)
    return re.sub(
        r"\s±\s",
        "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}",
        re.sub(r"(?<![\w.,)-])-(?=\d)", "−", text),
    )


def scientific(value: float) -> str:
    """A small or large number as text of one digit and a power of ten: "7·10⁻⁷", "10⁻¹³"."""
    return _typeset(f"{value:.0e}").removeprefix("1·") if value else "0"


def _power(found: re.Match[str]) -> str:
    """ "7e-07" as "7·10⁻⁷"."""
    return f"{found[1]}·10{str(int(found[2])).translate(_POWERS)}"
