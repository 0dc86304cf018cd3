"""All studies of the book by name: what is compared with what."""

from .newcomers import newcomers
from .real_models import real, real_presets
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
        real_presets,
    )
}
"""Name of a study → its runs."""
