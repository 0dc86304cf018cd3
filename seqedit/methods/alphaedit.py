"""Methods confined to directions that preserved keys hardly use: AlphaEdit and its descendants."""

from dataclasses import replace

import torch

from ..algebra import subspace
from . import ranges
from .entry import method
from .kinds.locate_then_edit import LocateThenEdit
from .kinds.pilot_anchor import PilotAnchored


@method(
    source="AlphaEdit (2410.02355); code: jianghoucheng/AlphaEdit, no licence",
    search=ranges.ALPHAEDIT,
    test={"threshold": 0.9, "l2": 0.5},
    colour="#2ca02c",
    ignored=frozenset({"mom2_adjustment", "mom2_update_weight", "layer_selection"}),
)
def alphaedit(threshold: float = 2e-2, l2: float = 10.0) -> LocateThenEdit:
    r"""Ridge in the null space of preserved keys, with the keys of all earlier edits.

    .. math::
        \Delta = R K^\top P\,(K_p K_p^\top P + K K^\top P + \text{L2} \cdot I)^{-1}

    :math:`P` projects on the eigenvectors of :math:`C` with an eigenvalue below τ. C itself has no
    price: within the subspace, movement costs L2 in every direction.

    Departs from the released code in how it solves, by a symmetric system in the coordinates of
    the subspace; the update is the same.

    Args:
        threshold: τ, eigenvalues of C, activations squared (published: 0.02).
        l2: L2, price of movement, activations squared (released: 10; paper: 1).

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(alphaedit(threshold=0.02, l2=1.0))
        [0.0, 0.667]
    """
    return LocateThenEdit(
        name="AlphaEdit",
        price=l2,
        history=1.0,
        directions=lambda C: subspace.null_space(C, threshold),
    )


@method(
    source="EvoEdit (2510.13851), from a secondary description",
    search=ranges.ALPHAEDIT,
    test={"threshold": 0.9, "l2": 0.5},
    colour="#7a9a01",
)
def evoedit(threshold: float = 2e-2, l2: float = 1.0) -> LocateThenEdit:
    r"""AlphaEdit whose subspace loses the span of every edited key.

    .. math::
        \Delta = R K^\top P_t\,(K^\top P_t K + \text{L2} \cdot I)^{-1}, \quad
        P_{t+1} = P_t - \operatorname{proj}(P_t K)

    This is AlphaEdit with a history of infinite weight.

    Args:
        threshold: τ, eigenvalues of C, activations squared (published: 0.02).
        l2: L2, price of movement, activations squared (published: 1).

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(evoedit(threshold=0.02, l2=1.0))
        [0.0, 0.0]
    """
    return replace(alphaedit(threshold, l2), name="EvoEdit", history=float("inf"))


@method(
    source="BetaEdit (2605.09285), commit 2934b3f of its code, no licence",
    search={
        "layers": ranges.ALL_LAYERS,
        "lam": ranges.LAMBDA,
        "l2": ranges.L2,
        "threshold": ranges.TAU,
    }
    | ranges.TARGET,
    test={"threshold": 0.9, "lam": 0.5, "l2": 0.5},
    colour="#006d2c",
)
def betaedit(threshold: float = 2e-2, lam: float = 3_000.0, l2: float = 10.0) -> LocateThenEdit:
    r"""AlphaEdit that still prices by λC what its subspace lets through.

    .. math::
        \Delta = R K^\top P\,(P(\lambda C + K_p K_p^\top + K K^\top) + \text{L2} \cdot I)^{-1}

    Departs from the released code, which also finds the subspace anew every thousand edits, from a
    second moment in which the edited keys count 1/(λ + 1).

    Args:
        threshold: τ, eigenvalues of C, activations squared (published: 0.02).
        lam: λ, weight of the preserved keys against one edit, dimensionless (released: 3,000).
        l2: L2, price of movement, activations squared (released: 10).

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(betaedit(threshold=0.02, lam=1.0, l2=1.0))
        [0.0, 0.664]
    """
    return replace(
        alphaedit(threshold, l2),
        name="BetaEdit",
        price=lambda C: lam * C + l2 * torch.eye(len(C)).to(C),
    )


@method(
    source="NAS (2602.02543), commit 38ac1c8 of its code; SasyaTitech/NAS, MIT",
    search=ranges.ALPHAEDIT,
    test={"threshold": 0.9, "l2": 0.5},
    colour="#3a9d5d",
    oracle="test_loop_of_methods.py::test_norm_anchor",
)
def nas(threshold: float = 2e-2, l2: float = 10.0) -> LocateThenEdit:
    r"""AlphaEdit with values rescaled to the norm that they have on the original model.

    .. math::
        \Delta = R K^\top P\,(K_p K_p^\top P + K K^\top P + \text{L2} \cdot I)^{-1}, \quad
        v^* \leftarrow \bar n\, v^* / \lVert v^* \rVert

    See `anchored_values` for the norm :math:`\bar n` and for the departures.

    Args:
        threshold: τ, eigenvalues of C, activations squared (published: 0.02).
        l2: L2, price of movement, activations squared (released: 10).

    Example:
        >>> nas().anchored
        True
    """
    return replace(alphaedit(threshold, l2), name="NAS", anchored=True)


@method(
    source="NAS (2602.02543), commit 5acab48c of its code; SasyaTitech/NAS, MIT",
    search=ranges.ALPHAEDIT | {"pilot": "calibration"},
    test={"threshold": 0.9, "l2": 0.5},
    colour="#4d7f17",
    oracle="test_pilot_anchor.py::test_values_have_the_norm_of_the_anchor",
)
def nas_pilot(threshold: float = 2e-2, l2: float = 10.0, pilot: str = "") -> PilotAnchored:
    r"""NAS with one norm for the model, found from pilot edits, and without values far beyond it.

    .. math::
        \Delta = R K^\top P\,(K_p K_p^\top P + K K^\top P + \text{L2} \cdot I)^{-1}, \quad
        v^* \leftarrow a\, v^* / \lVert v^* \rVert \text{ if } \lVert v^* \rVert \le 2a,
        \text{ else } v

    The anchor :math:`a` is the mean ‖v*‖ of pilot edits on the unedited model, without the largest
    5 %. See `PilotAnchored`.

    Args:
        threshold: τ, eigenvalues of C, activations squared (published: 0.02).
        l2: L2, price of movement, activations squared (released: 10).
        pilot: file of the pilot requests, or a name such as "calibration"; "" takes the requests of
            the first round.

    Example:
        >>> nas_pilot(pilot="calibration").pilot
        'calibration'
    """
    base = alphaedit(threshold, l2)
    return PilotAnchored(
        name="NAS (pilot)",
        price=base.price,
        history=base.history,
        directions=base.directions,
        anchored=True,
        pilot=pilot,
    )
