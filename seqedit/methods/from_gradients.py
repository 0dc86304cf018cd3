"""Methods that start from gradients instead of targets: UltraEdit, RLEdit, MEND."""

from dataclasses import replace

from . import ranges
from .entry import method
from .kinds.gradients import FromGradients, Mend


@method(
    source="UltraEdit (2505.14679); code: XiaojieGu/UltraEdit, no licence",
    search={
        "layers": ranges.ALL_LAYERS,
        "ridge": ranges.Range(1e-2, 1e4),
        "eta": ranges.Range(1e-6, 1e-1),
    },
    test={"eta": 1e-3, "ridge": 1.0},
    colour="#8f8200",
    oracle="test_editors.py::test_ultraedit_is_its_closed_form",
)
def ultraedit(eta: float = 1e-6, ridge: float = 1.0) -> FromGradients:
    r"""Ridge that writes standardised gradients at the inputs they came with, in one pass.

    .. math::
        \Delta = R X^\top (X X^\top + \text{ridge} \cdot I)^{-1}, \quad
        R_i = -\eta\, \lVert \hat x_i \rVert^2\, \hat g_i

    :math:`x_i` is the matrix's input and :math:`g_i` the gradient at its output, one column for
    each token that predicts a token of a target. See `FromGradients` for the departures.

    Args:
        eta: η, step, dimensionless (published: 1e-6).
        ridge: price of movement, activations squared (published: 1).

    Example:
        >>> ultraedit(eta=1e-3).eta
        0.001
    """
    return FromGradients(name="UltraEdit", price=ridge, eta=eta)


@method(
    source="RLEdit (2502.05759); code: zhrli324/RLEdit, no licence",
    search={"layers": ranges.ALL_LAYERS},
    test={},
    colour="#8c564b",
    oracle="test_editors.py::test_editors_with_networks",
)
def rledit(network: str = "rledit") -> FromGradients:
    r"""Ridge that writes what a network, trained along sequences of edits, makes of gradients.

    .. math::
        \Delta = R X^\top (X X^\top + \rho I)^{-1}, \quad
        R_i = -\eta\, (x_i \cdot \tilde x_i)\, \tilde g_i

    Args:
        network: a .safetensors file of the trained network, or the name of one in data/editors.

    Example:
        >>> rledit().network
        'rledit'
    """
    return FromGradients(name="RLEdit", price=1.0, network=network)


@method(
    source="RLEdit (2502.05759); code: zhrli324/RLEdit, no licence",
    search={"layers": ranges.ALL_LAYERS},
    test={},
    colour="#a0695a",
    oracle="test_editors.py::test_editors_with_networks",
)
def rledit_released(network: str = "rledit_released") -> FromGradients:
    r"""RLEdit whose network took a single step of its optimiser, as the released defaults do.

    .. math::
        \Delta = R X^\top (X X^\top + \rho I)^{-1}, \quad
        R_i = -\eta\, (x_i \cdot \tilde x_i)\, \tilde g_i

    Args:
        network: a .safetensors file of the trained network, or the name of one in data/editors.

    Example:
        >>> rledit_released().name
        'RLEdit (released)'
    """
    return replace(rledit(network), name="RLEdit (released)")


@method(
    source="MEND (2110.11309); code: eric-mitchell/mend, MIT",
    search={"layers": ranges.ALL_LAYERS},
    test={},
    colour="#7f7f7f",
    oracle="test_editors.py::test_editors_with_networks",
)
def mend(network: str = "mend") -> Mend:
    r"""Gradients at all tokens, reshaped by a trained network and added up.

    .. math::
        \Delta = -\eta \sum_i \tilde g_i \tilde x_i^\top

    Args:
        network: a .safetensors file of the trained network, or the name of one in data/editors.

    Example:
        >>> mend().network
        'mend'
    """
    return Mend(name="MEND", network=network)
