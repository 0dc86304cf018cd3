"""Which layers to edit where nothing was published: the same edits at every depth of a model."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..lm.default_layers import SPAN
from ..lm.load import load_model
from ..runs.config import RunConfig
from .several import run_several

MEASURES = {
    "edits.efficacy_accuracy": "exact",
    "edits.paraphrase": "paraphrase",
    "edits.neighborhood": "neighbourhood",
    "wild.wild_bare_contains": "wild",
    "kept_facts": "kept",
}
"""Column of a record's scores → what the table calls it."""


@dataclass(frozen=True, kw_only=True)
class Depths:
    """What is edited at which depths.

    Attributes:
        model: as `RunConfig` takes it.
        method: with which the facts are edited.
        requests: the facts, as `RunConfig` takes them.
        n_edits: how many of them, in one round.
        windows: how many groups of `SPAN` consecutive layers, evenly spread over the model.
    """

    model: str
    method: str = "memit_seq"
    requests: str = "facts"
    n_edits: int = 20
    windows: int = 7


def edit_at_depths(asked: Depths, work: Path, *, jobs: int = 1) -> pd.DataFrame:
    """Edit the same facts in each group of layers; what is finished in `work` is not made again.

    Returns:
        One row for each group: its first and last layer, the depth at which it ends as a share of
        all layers, and the scores of `MEASURES`, shares.
    """
    n_layers = load_model(asked.model, device="cpu").n_layers
    ends = _ends(n_layers, asked.windows)
    config = {
        end: RunConfig(
            model=asked.model,
            requests=asked.requests,
            method=asked.method,
            settings={"layers": list(range(max(end - SPAN + 1, 0), end + 1))},
            n_edits=asked.n_edits,
            batch_size=asked.n_edits,
            wild=True,
        )
        for end in ends
    }
    runs = {work / f"layer-{end}": one for end, one in config.items()}
    found = dict(run_several(runs, jobs=jobs, title="layers"))
    rows = []
    for end in ends:
        last = found[work / f"layer-{end}"].scores.iloc[-1]
        layers = config[end].settings["layers"]
        about = {"first": layers[0], "last": end, "depth": end / n_layers}
        rows.append(about | {name: last.get(column) for column, name in MEASURES.items()})
    return pd.DataFrame(rows)


def _ends(n_layers: int, windows: int) -> list[int]:
    """Last layers of groups from the first possible one to the last but one of the model.

    The target is sought at the last edited layer, so that layers have to follow it.
    """
    first, last = min(SPAN, n_layers - 1) - 1, n_layers - 2
    steps = max(windows - 1, 1)
    return sorted({round(first + (last - first) * i / steps) for i in range(windows)})
