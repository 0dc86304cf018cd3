"""What combinators share: the check that a change has an effect on a method, and the change."""

from dataclasses import replace
from typing import Any

from ..editing.contract import EditMethod


def needs(base: EditMethod, change: str, combinator: str) -> None:
    """Refuse a method on whose kind a change has no effect.

    Raises:
        ValueError: the change is not among those that `base` supports; the message lists them.
    """
    if change not in base.supports:
        supported = ", ".join(sorted(base.supports)) or "none of these changes"
        raise ValueError(
            f"{combinator}({base.name}): {type(base).__name__} methods do not support a change of "
            f"their {change}; they support: {supported}"
        )


def changed(base: EditMethod, suffix: str, **fields: Any) -> EditMethod:
    """`base` with other fields, which its kind has, and a longer name."""
    return replace(base, name=base.name + suffix, **fields)
