"""The settings of a run: typed, in range, complete."""

import json
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..editing.contract import EditMethod
from ..lm.target_loss import TargetConfig
from ..methods.catalogue import make_method, method_parameters
from ..requests.fields import nearest
from ..requests.joining import SPACE

Lengths = tuple[tuple[int, int], ...]
MOST_CONTEXTS = 10_000
"""Largest number of context templates of a group, and of their tokens."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run's method, complete and checked.

    Attributes:
        method: name in `seqedit.methods.catalogue.METHODS`, combinators after "+".
        parameters: those of the method and of its combinators.
        layers: edited layers.
        target: how targets are optimised.
        separator: what stands between prompts and their continuations, in edits and all measures,
            where a request does not say it itself; "" for scripts without spaces.
        context_lengths: (tokens, count) of each group of sampled context templates.
        max_update_ratio: see `EditPlan`.
        batch_size: requests per round; None keeps the rounds of the file.
    """

    method: str
    parameters: dict[str, float | int | str]
    layers: tuple[int, ...]
    target: TargetConfig
    separator: str = SPACE
    context_lengths: Lengths = ((10, 5),)
    max_update_ratio: float = 10.0
    batch_size: int | None = None

    def make(self) -> EditMethod:
        """The method with these parameters."""
        return make_method(self.method, **self.parameters)


_TARGET: dict[str, Any] = {field.name: field.type for field in fields(TargetConfig)}
_PLAIN: dict[str, Any] = {
    "layers": tuple[int, ...],
    "separator": str,
    "context_lengths": Lengths,
    "max_update_ratio": float,
    "batch_size": int,
}
_LARGEST = {
    "lr": 1e3,
    "adaptor_lr": 1e3,
    "clamp": 1e3,
    "kl": 1e6,
    "weight_decay": 1e6,
    "radius": 1e4,
    "max_update_ratio": 1e3,
    "steps": 100_000,
    "adaptor_steps": 100_000,
    "batch_size": 10**9,
    "patience": 100_000,
}
"""Largest value of a setting that can make sense: far beyond what any paper or search has used."""
_HUGE = 1e12
"""The same for all other numbers, such as prices, whose unit differs from model to model."""
_POSITIVE = {"lr", "clamp", "max_update_ratio", "batch_size"}


def known_names(method: str) -> list[str]:
    """Names of all settings that a method takes."""
    return list(dict.fromkeys([*method_parameters(method), *_TARGET, *_PLAIN]))


def build_settings(method: str, values: dict[str, Any]) -> Settings:
    """Typed settings from flat names; those that are missing have their defaults.

    Raises:
        ValueError: a name that the method does not know (the message lists those it does), a
            value of the wrong type or range, or what the method itself refuses.
    """
    defaults = method_parameters(method)
    parameters, target, plain = dict(defaults), {}, {}
    for name, value in values.items():
        if name in defaults:
            positive = defaults[name] != 0  # 0 is a value where it is the default
            parameters[name] = _typed(name, value, type(defaults[name]), positive)
        elif name in _TARGET:
            target[name] = _typed(name, value, _TARGET[name], positive=name in _POSITIVE)
        elif name in _PLAIN:
            plain[name] = _typed(name, value, _PLAIN[name], positive=name in _POSITIVE)
        else:
            close = nearest(name, known_names(method))
            hint = f"{close!r}, which is most like it, of " if close else ""
            raise ValueError(
                f"{method} has no setting {name!r}; it takes {hint}{', '.join(known_names(method))}"
            )
    if "layers" not in plain:
        raise ValueError("layers: none given; name the layers to edit, for example --layers 3,4,5")
    _check(target, plain)
    settings = Settings(
        method=method, parameters=parameters, target=replace(TargetConfig(), **target), **plain
    )
    settings.make()  # what a method itself refuses, before anything is edited
    return settings


def parse_assignments(items: list[str]) -> dict[str, Any]:
    """Words of the form `key=value` as a dict; a value that is JSON is read as such, any other as
    text.

    Raises:
        ValueError: a word has no "=".
    """
    values: dict[str, Any] = {}
    for item in items:
        name, sign, text = item.partition("=")
        if not sign:
            raise ValueError(f"--set {item!r}: expected key=value")
        if name in values:
            raise ValueError(f"--set {name}: is given twice; leave one out")
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):  # no JSON, or a number of thousands of digits
            values[name] = text
    return values


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind, config={"allow_inf_nan": False})


def _typed(name: str, value: Any, kind: Any, positive: bool) -> Any:
    """A value as `kind`; a number must be finite and not negative, and where `positive` not zero
    either.
    """
    if kind is not bool and _holds_truth(value):
        raise ValueError(f"{name} = {value!r:.60}: true and false are no numbers")
    if kind in (int, float) and isinstance(value, str) and "_" in value:
        raise ValueError(f"{name} = {value!r:.60}: write the number without _")
    try:
        typed = _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name} = {value!r:.60}: {error.errors()[0]['msg']}") from error
    except OverflowError as error:
        raise ValueError(f"{name} = {value!r:.60}: is too large") from error
    if isinstance(typed, int | float) and (typed < 0 or positive and typed == 0):
        raise ValueError(
            f"{name} = {value!r:.60}: must {'be positive' if positive else 'not be negative'}"
        )
    if isinstance(typed, int | float) and typed > (largest := _LARGEST.get(name, _HUGE)):
        raise ValueError(f"{name} = {value!r:.60}: must be at most {largest:g}")
    return typed


def _holds_truth(value: Any) -> bool:
    """Whether a value is true or false, or a list with one in it."""
    if isinstance(value, list | tuple):
        return any(map(_holds_truth, value))
    return isinstance(value, bool)


def _check(target: dict[str, Any], plain: dict[str, Any]) -> None:
    """Refuse values that have the right type and make no sense. Raises ValueError."""
    if target.get("steps", 2) < 2:
        raise ValueError(
            f"steps = {target['steps']}: must be at least 2, the last one only measures"
        )
    if target.get("kl_prompt", "{}").count("{}") != 1:
        raise ValueError(
            f'kl_prompt = {target["kl_prompt"]!r}: must hold "{{}}" once, for the subject'
        )
    for name, value in (("separator", plain.get("separator")), *target.items()):
        if name.endswith("separator") and value not in (None, "", SPACE):
            raise ValueError(f'{name} = {value!r}: must be " " or ""')
    lengths = plain.get("context_lengths", ())
    if any(not 1 <= number <= MOST_CONTEXTS for group in lengths for number in group):
        raise ValueError(
            f"context_lengths = {lengths!r:.60}: tokens and counts must be positive, at "
            f"most {MOST_CONTEXTS}"
        )
