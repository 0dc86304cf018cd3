"""Methods in words and symbols, read off their fields, for tables of the book."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from ..editing.contract import EditMethod
from .entry import Constructor
from .kinds.gradients import FromGradients
from .kinds.least_squares import LeastSquares
from .kinds.lyaplock import LyapLock

PAST = r"\mathbf K_p\mathbf K_p^\top"
NEW = r"\mathbf K\mathbf K^\top"

_TARGET_WORDS: dict[str, Callable[[Any], str]] = {
    "site": lambda site: "z* of the MLP",
    "spread": lambda spread: "1/√(layers left) of the residual",
    "average": lambda average: "contexts averaged uniformly",
    "key": lambda key: "scaled by the mixed key",
    "rewind": lambda rewind: "original weights",
    "patience": lambda patience: "stops when most probable",
    "both_ways": lambda both_ways: "pulled both ways",
    "anchored": lambda anchored: "norm of the original model",
    "network": lambda network: "reshaped by a network",
    "normalisation": lambda normalisation: f"gradients {normalisation}",
    "statistics": lambda statistics: "statistics frozen",
    "warm_up": lambda warm_up: "warmed up on other edits",
    "warm_up_effect": lambda effect: "which are written",
    "neighbours": lambda neighbours: "neighbours keep their object",
    "merged": lambda merged: "one for each subject",
    "pilot": lambda pilot: "of pilot edits",
}
"""Fields that say how residuals are found → words for a value that is not the default."""

_ELSEWHERE = {
    *("name", "price", "history", "directions", "neurons", "mu", "passes", "eta", "budget"),
    *("one_at_a_time", "restrain_update", "restrain_total", "compensate", "output_damping"),
}
"""Fields that other columns show, or that need no words."""


def price_symbol(method: LeastSquares) -> str:
    """M₀ in LaTeX, found by evaluating the price at C = 0 and C = I."""
    at_zero, at_one = (method.metric(scale * torch.eye(2)) for scale in (0.0, 1.0))
    if not isinstance(at_zero, torch.Tensor) or not isinstance(at_one, torch.Tensor):
        return r"c\mathbf I"
    constant, slope = at_zero[0, 0].item(), (at_one - at_zero)[0, 0].item()
    terms = []
    if slope:
        terms.append(r"\mathbf C" if slope == 1 else r"\lambda\mathbf C")
    if constant:
        terms.append(r"\gamma\mathbf I")
    return " + ".join(terms)


def formula(method: LeastSquares) -> str:
    """Δ in LaTeX, by the theorem of the first-order condition."""
    price = price_symbol(method)
    past = {0.0: "", 1.0: f" + {PAST}", float("inf"): rf" + \infty\,{PAST}"}[method.history]
    metric = price + past
    if method.needs_gradients:
        return _formula_with_output_prices(method, price)
    if method.mu == 0:
        inverse = r"\mathbf K^\top\mathbf M^{-1}"
        return rf"\mathbf R\,({inverse}\mathbf K)^{{-1}}{inverse}, \quad \mathbf M = {metric}"
    if method.mu != 1:
        metric = rf"\mu({metric})" if "+" in metric else rf"\mu\,{metric}"
    if method.directions:
        reduced = rf"\bigl(\mathbf B^\top({metric} + {NEW})\mathbf B\bigr)^{{-1}}"
        return rf"\mathbf R\mathbf K^\top\mathbf B\,{reduced}\mathbf B^\top"
    if getattr(method, "neurons", None):
        system = rf"({metric} + {NEW})_{{SS}}^{{-1}}"
        return rf"\mathbf R\mathbf K_S^\top\,{system} \text{{ in the columns }} S"
    return rf"\mathbf R\mathbf K^\top\,({metric} + {NEW})^{{-1}}"


def _formula_with_output_prices(method: LeastSquares, price: str) -> str:
    """Δ in LaTeX by the theorem of the price of outputs; X and Y begin with past keys."""
    keys, residuals = (
        (r"\mathbf X", r"\mathbf Y") if method.history else (r"\mathbf K", r"\mathbf R")
    )
    mu = "" if method.mu == 1 else r"\mu\,"
    inverse = rf"({price})^{{-1}}"
    if method.directions:
        inverse = rf"\mathbf B(\mathbf B^\top({price})\mathbf B)^{{-1}}\mathbf B^\top"
    fit = rf"\frac{{(\mathbf U^\top{residuals}\mathbf V)_{{ij}}}}{{\gamma_j + {mu}s_i}}"
    return rf"\mathbf U\,\Bigl[{fit}\Bigr]\,\mathbf V^\top{keys}^\top{inverse}"


def describe(method: LeastSquares) -> dict[str, str]:
    """A row of the table of methods that solve for their update: column → text."""
    queue = isinstance(method, LyapLock)
    weight = {0.0: "0", 1.0: "1", float("inf"): "∞"}[method.history]
    passes = getattr(method, "passes", None)
    return {
        "method": method.name,
        "$\\mathbf M_0$": f"${price_symbol(method)}$" + _price_remark(method),
        "ω": "in $\\mathbf K$" if queue else weight,
        "$\\mathbf B$": _directions(method),
        "μ": f"{method.mu:g}",
        "targets": ", ".join(target_words(method)),
        "restraint": _restraint(method),
        "passes": str(passes.times if passes else 1),
    }


def target_words(method: EditMethod) -> list[str]:
    """How a method finds residuals: one phrase for every field that is not at its default.

    A field that this file does not know is named with its value, so that no difference is lost.
    """
    words = ["gradients"] if isinstance(method, FromGradients) else ["z* of the block"]
    for field in fields(method):
        value = getattr(method, field.name)
        if field.name in _ELSEWHERE or value == field.default:
            continue
        if field.name == "site":
            words[0] = _TARGET_WORDS["site"](value)
        elif field.name in _TARGET_WORDS:
            words.append(_TARGET_WORDS[field.name](value))
        else:
            words.append(f"{field.name} = {value}")
    return words


def _price_remark(method: LeastSquares) -> str:
    if method.needs_gradients:
        return ", outputs by $\\mathbf S$"
    return ", follows damage" if isinstance(method, LyapLock) else ""


def _directions(method: LeastSquares) -> str:
    if getattr(method, "neurons", None):
        return "neurons by mass"
    return "below τ" if method.directions else "all"


def _restraint(method: EditMethod) -> str:
    if method.restrain_update:
        return "of the round"
    return "of the total" if method.restrain_total else "–"


def code_of(make: Constructor) -> str:
    """The source of a constructor without its decorators and its docstring."""
    source = textwrap.dedent(inspect.getsource(make))
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef)
    lines, docstring = source.splitlines(), tree.body[0]
    head = lines[tree.lineno - 1 : docstring.lineno - 1]
    return "\n".join(head + lines[docstring.end_lineno :])
