"""All studies of the book by name: what is compared with what."""

from .newcomers import newcomers
from .real_models import real
from .small_world import (
    choices,
    growth,
    horizon,
    instrument,
    lifelong,
    matters,
    methods,
    nse,
    pilot,
    projection,
    prune,
)

STUDIES = {
    study.__name__: study
    for study in (
        methods,
        choices,
        growth,
        lifelong,
        projection,
        prune,
        nse,
        matters,
        horizon,
        instrument,
        pilot,
        newcomers,
        real,
    )
}
"""Name of a study → its runs."""
