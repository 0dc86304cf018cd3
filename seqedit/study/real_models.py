"""The studies on pretrained models, as lists of runs."""

from collections.abc import Iterator

from ..runs.resolve import HYPER
from .study_run import StudyRun

SMOLLM2 = ("memit_seq", "alphaedit")
"""The methods of `real`."""

LONG = HYPER / "smollm2-135m-200-facts" / "shared"
"""Settings of long runs on SmolLM2, searched where damage can be seen: on two hundred facts."""


def real() -> Iterator[StudyRun]:
    """A thousand facts of MultiCounterFact in SmolLM2, a hundred in a round as the papers have it,
    one order, with the settings of the presets.
    """
    for name in SMOLLM2:
        yield StudyRun(
            name,
            name,
            model="smollm2-135m",
            requests="mcf-1000",
            n_edits=1000,
            batch_size=100,
            evaluate_every=2,
            evaluate_sample=100,
            wild=True,
        )
