"""The studies on pretrained models, as lists of runs."""

import json
from collections.abc import Iterator
from typing import Any

from ..runs.resolve import HYPER
from .study_run import StudyRun

SMOLLM2 = ("memit_seq", "alphaedit")
"""The methods of `real` and `real_presets`."""

LONG = HYPER / "smollm2-135m-200-facts" / "shared"
"""Settings of long runs on SmolLM2, searched where damage can be seen: on two hundred facts."""


def real() -> Iterator[StudyRun]:
    """A thousand facts of MultiCounterFact in SmolLM2, a hundred in a round as the papers have it,
    one order; settings were searched on two hundred facts.
    """
    for name in SMOLLM2:
        settings = json.loads((LONG / f"{name}.json").read_text(encoding="utf-8"))
        yield _thousand(name, settings)


def real_presets() -> Iterator[StudyRun]:
    """The same with the settings of the presets, whose prices follow a rule."""
    for name in SMOLLM2:
        yield _thousand(name, {})


def _thousand(name: str, settings: dict[str, Any]) -> StudyRun:
    return StudyRun(
        name,
        name,
        settings=settings,
        model="smollm2-135m",
        requests="mcf-1000",
        n_edits=1000,
        batch_size=100,
        evaluate_every=2,
        evaluate_sample=100,
        wild=True,
    )
