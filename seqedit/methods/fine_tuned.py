"""Fine-tuning of the edited matrix: FT, FT-L, FT-M."""

from dataclasses import replace

from . import ranges
from .entry import method
from .kinds.fine_tuning import FineTuning

ORACLE = "test_editors.py::test_fine_tuning"


@method(
    source="FT in ROME (2202.05262); code: kmeng01/rome, MIT",
    search=ranges.FINE_TUNING,
    test={"lr": 1e-2, "steps": 3},
    colour="#393b79",
    oracle=ORACLE,
)
def ft(lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2) -> FineTuning:
    r"""Adam on the edited matrix; every target token is predicted from the end of the prompt.

    .. math::
        \min_W\; -\textstyle\sum_j \log p(\text{target}_j \mid \text{prompt})

    This is what the released code does. It is wrong for targets of several tokens, see `ft_m`.

    Args:
        lr: Adam's step, in entries of the matrix (published: 5e-4).
        steps: largest number of updates in a round (published: 25).
        stop_loss: loss of every request below which a round ends (published: 1e-2).

    Example:
        >>> ft().objective
        'end of prompt'
    """
    return FineTuning(name="FT", lr=lr, steps=steps, stop_loss=stop_loss, objective="end of prompt")


@method(
    source="FT-L (2012.00363), as released with ROME; code: kmeng01/rome, MIT",
    search={
        "layers": ranges.EACH_LAYER,
        "steps": 25,
        "lr": ranges.Range(1e-5, 3e-2),
        "epsilon": ranges.Range(
            1e-4, 0.3, high_may_stay="25 steps of the best size move no weight so far"
        ),
    },
    test={"lr": 1e-2, "steps": 3, "epsilon": 5e-3},
    colour="#6b6ecf",
    oracle=ORACLE,
)
def ft_l(
    lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2, epsilon: float = 5e-4
) -> FineTuning:
    r"""FT that keeps every entry within ±ε of where the round found it.

    .. math::
        \min_W\; -\textstyle\sum_j \log p(\text{target}_j \mid \text{prompt})
        \quad\text{with}\quad \lVert W - W_{\text{before}} \rVert_\infty \le \epsilon

    Args:
        lr: Adam's step, in entries of the matrix (published: 5e-4).
        steps: largest number of updates in a round (published: 25).
        stop_loss: loss of every request below which a round ends (published: 1e-2).
        epsilon: ε, in entries of the matrix (published: 5e-4).

    Example:
        >>> ft_l().epsilon
        0.0005
    """
    return replace(ft(lr, steps, stop_loss), name="FT-L", epsilon=epsilon)


@method(
    source="FT-M, as in EasyEdit; zjunlp/EasyEdit, MIT",
    search=ranges.FINE_TUNING,
    test={"lr": 1e-2, "steps": 3},
    colour="#3f51b5",
    oracle=ORACLE,
)
def ft_m(lr: float = 5e-4, steps: int = 25, stop_loss: float = 1e-2) -> FineTuning:
    r"""Adam on the edited matrix; every target token is predicted from the tokens before it.

    .. math::
        \min_W\; -\textstyle\sum_j \log p(\text{target}_j \mid \text{prompt}, \text{target}_{<j})

    Args:
        lr: Adam's step, in entries of the matrix (published: 5e-4).
        steps: largest number of updates in a round (published: 25).
        stop_loss: loss of every request below which a round ends (published: 1e-2).

    Example:
        >>> ft_m().objective
        'every token'
    """
    return replace(ft(lr, steps, stop_loss), name="FT-M", objective="every token")
