"""Fine-tuning in directions of low curvature: CrispEdit, and CrispEdit for sequences."""

from dataclasses import replace
from typing import cast, get_args

from . import ranges
from .entry import method
from .kinds.low_curvature import Factors, LowCurvatureFineTuning, Projected

SEARCH: ranges.Search = {
    "layers": ranges.Choice(((1,), (3,), (4,))),
    "lr": ranges.Range(2e-3, 5e-2),
    "share": ranges.Range(0.8, 0.99, below=1.0),
}
SOURCE = "CrispEdit (2602.15823); code: zarifikram/CrispEdit, no licence"


@method(
    source=SOURCE,
    search=SEARCH,
    test={"lr": 1e-2, "epochs": 3, "share": 0.5},
    colour="#5d4037",
    oracle="test_low_curvature.py::test_crispedit_is_adam_projected",
)
def crispedit(
    lr: float = 5e-4,
    epochs: int = 25,
    batch: int = 32,
    stop_loss: float = 1e-2,
    share: float = 0.9,
    project: str = "step",
    factors: str = "both",
) -> LowCurvatureFineTuning:
    r"""Adam in epochs, in those directions alone that the loss of a text hardly minds.

    .. math::
        \Delta \leftarrow U_S\,\bigl((U_S^\top \Delta\, U_A) \odot M\bigr)\,U_A^\top, \quad
        M_{ij} = 1 \text{ where } \lambda^S_i \lambda^A_j < \tau_\gamma

    :math:`A` and :math:`S` are the second moments of the matrix's inputs and of the gradients at
    its outputs over a text, with eigenvectors :math:`U` and eigenvalues :math:`\lambda`. The
    products of at least :math:`\tau_\gamma` hold the share γ of the sum of all products. See
    `LowCurvatureFineTuning` for the departures.

    Args:
        lr: Adam's step, in entries of the matrix (published: 5e-4).
        epochs: largest number of passes over a round (published: 25).
        batch: requests of a mini-batch (published: 32).
        stop_loss: mean loss below which a mini-batch makes no step and, of a whole pass, a round
            ends.
        share: γ, share of the curvature in the directions that are left out (published: 0.9, and
            0.7 for ZsRE).
        project: "step" projects the steps of Adam; "gradient" what Adam is given, as in the
            released code, whose steps then leave the allowed directions.
        factors: "both", or "inputs" for the identity in the place of S, which is Adam-NSCL.

    Example:
        >>> crispedit().needs_gradients, crispedit(factors="inputs").needs_gradients
        (True, False)
    """
    for name, value, known in (
        ("project", project, get_args(Projected)),
        ("factors", factors, get_args(Factors)),
    ):
        if value not in known:
            raise ValueError(f"{name} = {value!r}: it must be one of {', '.join(known)}")
    return LowCurvatureFineTuning(
        name="CrispEdit",
        lr=lr,
        epochs=epochs,
        batch=batch,
        stop_loss=stop_loss,
        share=share,
        project=cast(Projected, project),
        factors=cast(Factors, factors),
    )


@method(
    source=SOURCE,
    search=SEARCH,
    test={"lr": 1e-2, "epochs": 3, "share": 0.5},
    colour="#ff3d00",
    oracle="test_low_curvature.py::test_crispedit_seq_merges_the_curvature_of_its_edits",
)
def crispedit_seq(
    lr: float = 5e-4,
    epochs: int = 25,
    batch: int = 32,
    stop_loss: float = 1e-2,
    share: float = 0.999,
    text_weight: float = 30.0,
    project: str = "step",
    factors: str = "both",
) -> LowCurvatureFineTuning:
    r"""CrispEdit that after every round also spares what the loss of its edits minds.

    .. math::
        A \leftarrow \frac{n A + n' A'}{n + n'}, \quad S \leftarrow \frac{n S + n' S'}{n + n'},
        \quad n \leftarrow n + n'

    :math:`A'` and :math:`S'` are those of the :math:`n'` edits of the round, read as texts under
    the weights after it.

    Args:
        lr: see `crispedit`.
        epochs: see `crispedit`.
        batch: see `crispedit`.
        stop_loss: see `crispedit`.
        share: see `crispedit` (published: 0.999, and 0.995 for WikiBigEdit).
        text_weight: n at first, the number of edits as which the text counts (published: 30, and
            200 for WikiBigEdit).
        project: see `crispedit`.
        factors: see `crispedit`.

    Example:
        >>> crispedit_seq().text_weight
        30.0
    """
    one = crispedit(lr, epochs, batch, stop_loss, share, project, factors)
    return replace(one, name="CrispEdit-Seq", text_weight=text_weight)
