"""GRACE: no weight is written; a codebook beside one layer answers near stored keys."""

from . import ranges
from .entry import method
from .kinds.codebook import Codebook


@method(
    source="GRACE (2211.11031); code: Thartvigsen/GRACE, MIT",
    search={
        "layers": ranges.EACH_LAYER,
        "radius": ranges.Range(0.1, 300.0),
        "clamp": 10.0,
        "kl": 0.0,
        "lr": 1.0,
        "weight_decay": 0.0,
    },
    test={"radius": 0.5},
    colour="#000000",
    oracle="test_editors.py::test_grace_answers_near_its_keys_only",
)
def grace(radius: float = 1.0) -> Codebook:
    r"""A codebook beside one layer answers for inputs near stored keys; no weight is written.

    .. math::
        h(k) = v_i \text{ if } \lVert k - k_i \rVert \le \epsilon_i
        \text{ for the nearest stored key } k_i, \quad\text{else } W k

    See `Codebook` for the rule that places keys, and for the departures.

    Args:
        radius: ε, initial radius of a stored key, in units of key space.

    Example:
        >>> grace(radius=2.0).radius
        2.0
    """
    return Codebook(name="GRACE", radius=radius)
