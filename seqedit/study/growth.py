"""How norms grow along a run: exponentially, in proportion to the edits, or to their root."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import linregress


@dataclass(frozen=True)
class GrowthFit:
    """Three curves with two parameters each through the norms of one run.

    Attributes:
        rate: slope of log norm against the number of edits, per 100 edits.
        r2_log: share of the variance of log norm that this line explains.
        exponential: R² of exp(a + bn), of the norm itself, as the next two.
        linear: of a + bn.
        root: of a + b√n.
    """

    rate: float
    r2_log: float
    exponential: float
    linear: float
    root: float

    @property
    def shape(self) -> str:
        """The curve that explains most."""
        curves = {name: getattr(self, name) for name in ("exponential", "linear", "root")}
        return max(curves, key=lambda name: float(curves[name]))


def fit_growth(edits: Sequence[float], norms: Sequence[float]) -> GrowthFit:
    """Fit the three curves by least squares, the exponential one to log norm as its claim has it.

    All three are judged by the norm itself, so that the best can be named.

    Args:
        edits: numbers of edits, ascending.
        norms: a norm after each of them, positive.

    Raises:
        ValueError: there are fewer than four norms, or one is not a positive number.

    Source: the claim log ‖W‖ = a + bn is that of arXiv:2602.02543 (norms of targets and weights
    feed back on each other). Linear growth is that of updates that agree, growth by the root that
    of updates that are orthogonal (theorem thm-interference).
    """
    n, y = np.asarray(edits, dtype=float), np.asarray(norms, dtype=float)
    if len(y) < 4 or not (np.isfinite(y) & (y > 0)).all():
        raise ValueError(
            f"norms: a fit needs four or more positive numbers, found {len(y)} "
            f"of which {int((np.isfinite(y) & (y > 0)).sum())} are positive"
        )
    line = linregress(n, np.log(y))
    curves = {"exponential": np.exp(line.intercept + line.slope * n)}
    for name, x in (("linear", n), ("root", np.sqrt(n))):
        fit = linregress(x, y)
        curves[name] = fit.intercept + fit.slope * x
    spread = ((y - y.mean()) ** 2).sum()
    explained = {
        name: float(1 - ((y - curve) ** 2).sum() / spread) for name, curve in curves.items()
    }
    return GrowthFit(float(100 * line.slope), float(line.rvalue**2), **explained)


def growth_fits(rounds: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """`fit_growth` for every run, edited layer and column of the rounds of a study.

    Args:
        rounds: as `seqedit.study.compare.rounds` returns it.
        columns: norms in it: "weight_norm", ‖Wₙ‖, which records of the first edition lack;
            "sigma_max", the spectral norm ‖Wₙ‖₂; "total_norm", ‖Wₙ − W₀‖.

    Returns:
        One row per label, seed, layer and column ("norm"): the fields of `GrowthFit`, `shape`,
        `ratio` (last norm over first).
    """
    rows = []
    for (label, seed, layer), own in rounds.groupby(["label", "seed", "layer"], sort=False):
        own = own.sort_values("edits")
        for column in columns:
            norms = own[column].to_numpy(dtype=float)
            fit = fit_growth(own["edits"].tolist(), norms.tolist())
            rows.append(
                {"label": label, "seed": seed, "layer": layer, "norm": column}
                | asdict(fit)
                | {"shape": fit.shape, "ratio": norms[-1] / norms[0]}
            )
    return pd.DataFrame(rows)
