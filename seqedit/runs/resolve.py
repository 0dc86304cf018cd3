"""From what a run is asked to do to its settings."""

from pathlib import Path
from typing import Any

from ..base.paths import DATA
from ..lm.default_layers import DEPTH, default_layers
from ..lm.model import LanguageModel
from ..methods.catalogue import base_entry, canonical
from ..methods.ranges import Choice
from ..world.embedded import is_embedded
from .config import RunConfig, Say, Table, ignore
from .hyper_files import read_hyper
from .presets import find_preset
from .settings import Settings, build_settings

HYPER = DATA / "hyper"
"""Folder of the settings that were chosen for the embedded model, one folder for each table."""

TARGET_FILE = "target.json"
"""How targets are optimised in the table `shared`."""


def resolve(
    config: RunConfig, lm: LanguageModel, *, file_has_rounds: bool = False, say: Say = ignore
) -> Settings:
    """The settings of a run, complete and checked; later code needs no other source of them.

    They start from one of: the file `config.hyper`; a preset, asked for or found by the model's hub
    id; for the embedded model, the settings tuned for the method; the method's defaults. Over these
    go `config.batch_size` and then `config.settings`. Layers that none of them names are those of
    `default_layers`; prices of a model without settings are scaled once its second moments are
    known (`seqedit.runs.scale`).

    Args:
        lm: the unedited model, whose architecture a released configuration file must fit.
        file_has_rounds: the request file divides its requests into rounds, which the batch size of
            a preset leaves.
        say: told where the settings come from, and which fields of a file have no effect.

    Raises:
        ValueError: a setting or file is wrong; the message names it.
    """
    method = canonical(config.method)
    values = _starting_values(config, method, lm, file_has_rounds, say)
    if config.batch_size is not None:
        values["batch_size"] = config.batch_size
    values |= config.settings
    if "layers" not in values:
        values["layers"] = _default_layers(method, lm)
        say(f"layers: {values['layers']}, by default the last ones up to a depth of {DEPTH}")
    return build_settings(method, values)


def is_chosen(config: RunConfig, lm: LanguageModel) -> bool:
    """Whether a run's settings come from a file or a preset, rather than being defaults."""
    return config.hyper is not None or config.published is not None or is_embedded(lm)


def _default_layers(method: str, lm: LanguageModel) -> list[int]:
    """The layers of a model for which there are no settings.

    They are one for a method whose search of settings is one for a single layer.
    """
    layers, searched = default_layers(lm.n_layers), base_entry(method).search.get("layers")
    one = isinstance(searched, Choice) and len(searched.values[0]) == 1
    return layers[-1:] if one else layers


def _starting_values(
    config: RunConfig, method: str, lm: LanguageModel, file_has_rounds: bool, say: Say
) -> dict[str, Any]:
    """Flat names → values of the one source that a run takes its settings from."""
    if config.published is not None:
        return _preset_values(method, config.published, file_has_rounds, say)
    path = config.hyper or (_tuned_file(method, config.table) if is_embedded(lm) else None)
    if path is None:
        return {}
    values, remarks = read_hyper(path, method, lm, bool(config.moments or config.corpus))
    for remark in remarks:
        say(f"{path.name}: {remark}")
    if config.hyper is None:
        say(f"settings of data/hyper/{config.table}/{path.name}, chosen for the embedded model")
    return values


def _preset_values(method: str, model: str, file_has_rounds: bool, say: Say) -> dict[str, Any]:
    preset = find_preset(method, model)
    say(f"settings for {model}: {preset.source} (`seqedit presets {method} {model}` shows all)")
    values = dict(preset.settings)
    if file_has_rounds:
        values.pop("batch_size", None)
    return values


def _tuned_file(method: str, table: Table) -> Path | None:
    """The settings chosen for a method on the embedded model, else those of what stands before its
    first "+".
    """
    names = (method, method.partition("+")[0])
    files = [HYPER / table / f"{name}.json" for name in names]
    return next((path for path in files if path.exists()), None)
