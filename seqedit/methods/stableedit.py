"""StableEdit: UltraEdit with whitened gradients, and the switches of its ablations."""

from typing import Any, get_args

from . import ranges
from .entry import method
from .kinds.stable import Normalisation, StableGradients, Statistics, WarmUp


@method(
    source="StableEdit (2605.11836); code: MINE-USTC/StableEdit, no licence",
    search={
        "layers": ranges.ALL_LAYERS,
        "ridge": ranges.Range(1e-2, 1e4),
        "eta": ranges.Range(1e-6, 1e-1),
        "warm_up": "calibration",
    },
    test={"eta": 1e-3, "ridge": 1.0},
    colour="#b8860b",
    oracle="test_stableedit.py::test_stableedit_is_its_closed_form",
)
def stableedit(
    eta: float = 1e-6,
    ridge: float = 1.0,
    normalisation: str = "whitened",
    statistics: str = "running",
    warm_up: str = "",
    warm_up_effect: str = "statistics",
) -> StableGradients:
    r"""UltraEdit whose gradients are whitened by the covariance of all gradients so far.

    .. math::
        \Delta = R X^\top (X X^\top + \text{ridge} \cdot I)^{-1}, \quad
        R_i = -\eta\, \lVert \hat x_i \rVert^2\, \Sigma_g^{-1/2} (g_i - \mu_g)

    Keys are standardised component by component, as in `ultraedit`. So are gradients, until there
    are more of them than :math:`d_{\text{model}} + 1`. See `StableGradients` for the departures.

    Args:
        eta: η, step, dimensionless (published: 1e-6).
        ridge: α, price of movement, activations squared (published: 1; released script: 10).
        normalisation: "whitened"; "standardised", which is UltraEdit; "none".
        statistics: "running"; "frozen" after the warm-up, or without one after the first round.
        warm_up: file of other requests, or a name such as "calibration", which pass through before
            the first round (published: 20 rounds of 100); "" for none.
        warm_up_effect: "statistics" of the warm-up alone, or its "edits" too, which the released
            code writes into the model.

    Example:
        >>> stableedit().normalisation
        'whitened'
    """
    return StableGradients(
        name="StableEdit",
        price=ridge,
        eta=eta,
        normalisation=_one_of("normalisation", normalisation, Normalisation),
        statistics=_one_of("statistics", statistics, Statistics),
        warm_up=warm_up,
        warm_up_effect=_one_of("warm_up_effect", warm_up_effect, WarmUp),
    )


def _one_of(name: str, value: str, kind: Any) -> Any:
    """A value of a setting, if it is one of those that the Literal `kind` lists."""
    if value not in (allowed := get_args(kind)):
        raise ValueError(f"{name} = {value!r}: must be one of {', '.join(allowed)}")
    return value
