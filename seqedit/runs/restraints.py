"""What restraints of a finished run's total update would have kept, without editing again.

PRUNE and averaging with the unedited weights act once, on W_T − W₀. So one run tells what each of
their settings trades: how much of the edits for how much of everything else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..algebra.diagnostics import spectrum
from ..editing.contract import EditMethod
from ..editing.sequential import restrain_sums
from ..lm.model import LanguageModel
from ..lm.weights import read_weight, restored
from ..methods.restraints import averaged, prune

Matrix = Float[Tensor, "d_model d_ff"]
Measure = Callable[[LanguageModel], dict[str, Any]]


def restrained_methods(
    method: EditMethod, mix: Sequence[float], alpha: Sequence[float]
) -> dict[tuple[str, float], EditMethod]:
    """(restraint, setting) → the method with it: averages with shares of the new weights, PRUNE
    with bases of the logarithm.

    Raises:
        ValueError: there is none, one is out of range, or the method restrains its sum already.
    """
    if not mix and not alpha:
        raise ValueError("mix: no restraint is asked for; give --mix, --alpha or both")
    if method.restrain_total:
        raise ValueError(
            f"edited: {method.name} restrains its sum already; give a run without that"
        )
    found = {("averaged", share): averaged(method, share) for share in mix}
    return found | {("prune", base): prune(method, base) for base in alpha}


def measure_restrained(
    lm: LanguageModel,
    original: Mapping[int, Matrix],
    methods: Mapping[tuple[str, float], EditMethod],
    measure: Measure,
) -> Iterator[dict[str, Any]]:
    """Measure what each method would have handed over; afterwards the model is as before.

    Args:
        lm: the edited model.
        original: layer → W₀.
        methods: as `restrained_methods` returns them.
        measure: what is measured, by name.

    Yields:
        `restraint`, `setting`, `length`, the share ‖kept‖_F / ‖total‖_F over all layers, and what
        was measured.
    """
    whole = _length(lm, original)
    for (name, setting), method in methods.items():
        assert method.restrain_total is not None  # see `restrained_methods`
        with restored(lm, original):
            restrain_sums(lm, original, method.restrain_total)
            length = _length(lm, original) / whole if whole else 1.0
            found = {"restraint": name, "setting": setting, "length": length} | measure(lm)
        yield found


def _length(lm: LanguageModel, original: Mapping[int, Matrix]) -> float:
    """‖W − W₀‖_F over all layers."""
    sums = (read_weight(lm, layer) - W0.to(lm.device) for layer, W0 in original.items())
    return sum(total.square().sum().item() for total in sums) ** 0.5


def sums(lm: LanguageModel, original: Mapping[int, Matrix]) -> list[dict[str, float]]:
    """What PRUNE looks at, for each edited layer.

    Args:
        lm: the edited model.
        original: layer → W₀.

    Returns:
        Of each layer: `layer`; `limit`, σ_max(W₀); `largest`, σ_max(W_T − W₀); `above`, how many
        singular values of the sum exceed the limit; `wide`, how many of the largest hold nine
        tenths of its squared length; `count`, of how many.
    """
    rows = []
    for layer, W0 in original.items():
        limit = spectrum(W0)[0].item()
        values = spectrum(read_weight(lm, layer) - W0.to(lm.device))
        above = int((values > limit).sum())
        held = values.square().cumsum(0) / values.square().sum()
        rows.append(
            {"layer": layer, "limit": limit, "largest": values[0].item()}
            | {"above": above, "wide": int((held < 0.9).sum()) + 1, "count": len(values)}
        )
    return rows
