"""Does bfloat16 change what edits come to? The same edits with weights of both types."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from ..runs.config import RunConfig
from ..runs.records import Record
from .several import run_several
from .statistics import end_outcomes, mean_estimate, paired_estimate, probe_groups

DTYPES = ("float32", "bfloat16")

MEASURES: dict[str, tuple[str, Literal["success", "exact"]]] = {
    "efficacy": ("efficacy", "success"),
    "paraphrase": ("paraphrase", "success"),
    "neighbourhood": ("neighborhood", "success"),
    "exact": ("efficacy", "exact"),
}
"""What the table calls a measure → kind of probes, and when one of them is right."""


@dataclass(frozen=True, kw_only=True)
class Dtypes:
    """What is edited with weights of both types.

    Attributes:
        model: as `RunConfig` takes it.
        requests: the facts, as `RunConfig` takes them; wrong records are left out.
        methods: each with its usual settings for the model.
        orders: how many orders of the facts, which seeds from 1 on draw.
        n_edits: how many of them, in one round.
        moments: file of second moments; None computes each run's own.
    """

    model: str
    requests: str
    methods: tuple[str, ...] = ("memit_seq", "alphaedit")
    orders: int = 1
    n_edits: int = 100
    moments: Path | None = None

    def runs(self, work: Path) -> dict[Path, RunConfig]:
        """Folder → run. Contexts are each run's own, as a user has them."""
        return {
            work / f"{method}-{dtype}-s{seed}": RunConfig(
                model=self.model,
                requests=self.requests,
                method=method,
                clean=True,
                moments=self.moments,
                n_edits=self.n_edits,
                batch_size=self.n_edits,
                shuffle=True,
                seed=seed,
                dtype=dtype,
            )
            for seed in range(1, self.orders + 1)
            for method in self.methods
            for dtype in DTYPES
        }


def edit_in_both(asked: Dtypes, work: Path, *, jobs: int = 1) -> pd.DataFrame:
    """Make the runs that are not in `work` yet and compare the types.

    Returns:
        See `compare_dtypes`.
    """
    runs = asked.runs(work)
    found = {
        (runs[out].method, runs[out].dtype, runs[out].seed): record
        for out, record in run_several(runs, jobs=jobs, title="types")
    }
    return compare_dtypes(found)


def compare_dtypes(records: Mapping[tuple[str, str, int], Record]) -> pd.DataFrame:
    """One row for each method and measure, in percent.

    Args:
        records: method, type of weights and seed → finished run.

    Returns:
        The means in both types; that of their difference, bfloat16 less float32, with its 95 %
        interval (`low`, `high`), paired by order and request. A measure without probes is left out.
    """
    rows = []
    groups = probe_groups(pd.concat([record.outcomes for record in records.values()]))
    for method in dict.fromkeys(method for method, _, _ in records):
        for name, (kind, measure) in MEASURES.items():
            values = {
                dtype: end_outcomes(
                    {
                        seed: r.probes
                        for (m, d, seed), r in records.items()
                        if (m, d) == (method, dtype)
                    },
                    kind,
                    measure,
                )
                for dtype in DTYPES
            }
            if values[DTYPES[0]].isna().all(axis=None):
                continue
            change = paired_estimate(values["bfloat16"], values["float32"], groups)
            rows.append(
                {"method": method, "measure": name}
                | {dtype: mean_estimate(own).mean for dtype, own in values.items()}
                | {"difference": change.mean, "low": change.low, "high": change.high}
            )
    return pd.DataFrame(rows)
