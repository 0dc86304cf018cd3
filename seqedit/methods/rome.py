"""Methods that fit their keys exactly: ROME, r-ROME, EMMET."""

from dataclasses import replace

from . import ranges
from .entry import method
from .kinds.locate_then_edit import LocateThenEdit


@method(
    source="ROME (2202.05262); code: kmeng01/rome, MIT",
    search=ranges.ROME,
    test={},
    colour="#d62728",
    oracle="test_methods.py::test_rome_scale_is_the_released_one",
    ignored=frozenset({"mom2_update_weight"}),
)
def rome() -> LocateThenEdit:
    r"""ROME as released: one exact edit at one layer, its scale taken from the bare prompt's key.

    .. math::
        \Delta = \frac{v^* - W k}{k^\top C^{-1} \bar k}\,(C^{-1}\bar k)^\top

    :math:`\bar k` is the key averaged over contexts and :math:`k` that of the bare prompt. The
    paper's equation 2 has one key; the released code mixes the two, and so does this method.
    `r_rome` does not.

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(rome())
        [0.02, 1.98]
    """
    return replace(r_rome(), name="ROME", key="mixed")


@method(
    source="r-ROME (2403.07175); code: scalable-model-editing/rebuilding-rome",
    search=ranges.ROME,
    test={},
    colour="#e7298a",
    oracle="test_methods.py::test_r_rome_interpolates_at_its_averaged_key",
    ignored=frozenset({"mom2_update_weight"}),
)
def r_rome() -> LocateThenEdit:
    r"""ROME with the averaged key throughout: the edit is exact where it is read.

    .. math::
        \Delta = \frac{v^* - W \bar k}{\bar k^\top C^{-1} \bar k}\,(C^{-1}\bar k)^\top

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(r_rome())
        [0.02, 1.98]
    """
    return LocateThenEdit(
        name="r-ROME",
        price=lambda C: C,
        mu=0.0,
        site="mlp",
        average="uniform",
        one_at_a_time=True,
    )


@method(
    source="EMMET (2403.14236); code: scalable-model-editing/unified-model-editing",
    search=ranges.ROME | {"lam": ranges.LAMBDA},
    test={"lam": 1.0, "ridge": 0.5},
    colour="#b15928",
)
def emmet(lam: float = 10_000.0, ridge: float = 0.1) -> LocateThenEdit:
    r"""ROME's constraint for many requests at once, with a ridge on its n × n system.

    .. math::
        \Delta = R\,\bigl(K^\top (\lambda C)^{-1} K + \epsilon I\bigr)^{-1} K^\top (\lambda C)^{-1}

    This is MEMIT with the price :math:`\epsilon\lambda C`, by the Woodbury identity.

    Args:
        lam: λ, weight of the preserved keys, dimensionless (published: 10,000).
        ridge: ε, dimensionless; 0 makes the fit exact (published: 0.1).

    Example:
        >>> from seqedit.methods.example import example_update
        >>> example_update(emmet(lam=1.0, ridge=1.0))
        [0.02, 1.961]
    """
    return LocateThenEdit(name="EMMET", price=lambda C: lam * C, mu=ridge)
