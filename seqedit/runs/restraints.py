"""What restraints of a finished run's total update would have kept, without editing again.

PRUNE and averaging with the unedited weights act once, on W_T − W₀. So one run tells what each of
their settings trades: how much of the edits for how much of everything else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from jaxtyping import Float
from torch import Tensor

from ..algebra.diagnostics import spectrum
from ..algebra.restrain import check_alpha, check_share, compress
from ..lm.model import LanguageModel
from ..lm.weights import apply_update, read_weight, restored, write_weight

Matrix = Float[Tensor, "d_model d_ff"]
Restraint = Callable[[Matrix, Matrix], Matrix]
"""(W₀, W_T − W₀) → what is kept of the sum of all updates."""


def restraints(mix: Sequence[float], alpha: Sequence[float]) -> dict[tuple[str, float], Restraint]:
    """(method, setting) → restraint: `averaged` with shares of the new weights, `prune` with bases
    of the logarithm.

    Raises:
        ValueError: a setting is out of range.
    """
    for share in mix:
        check_share("mix", share)
    for base in alpha:
        check_alpha(base)
    found: dict[tuple[str, float], Restraint] = {
        ("averaged", share): partial(_shortened, share=share) for share in mix
    }
    found |= {("prune", base): partial(compress, alpha=base) for base in alpha}
    return found


def _shortened(W0: Matrix, total: Matrix, share: float) -> Matrix:
    return share * total


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


@contextmanager
def restrained(
    lm: LanguageModel, original: Mapping[int, Matrix], restraint: Restraint
) -> Iterator[float]:
    """Inside, the model holds what a restraint keeps of its edits; afterwards it is as before.

    Args:
        lm: the edited model.
        original: layer → W₀.

    Yields:
        ‖kept‖_F / ‖total‖_F over all layers, the share of the update's length that is kept.
    """
    kept_square = total_square = 0.0
    with restored(lm, original):
        for layer, W0 in original.items():
            total = read_weight(lm, layer) - W0.to(lm.device)
            kept = restraint(W0.to(lm.device), total)
            write_weight(lm, layer, W0)
            apply_update(lm, layer, kept)
            kept_square += kept.square().sum().item()
            total_square += total.square().sum().item()
        yield (kept_square / total_square) ** 0.5 if total_square else 1.0
