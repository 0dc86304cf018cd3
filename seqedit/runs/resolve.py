"""From what a run is asked to do to its settings."""

import json
from pathlib import Path
from typing import Any

from ..base.paths import DATA
from ..lm.default_layers import DEPTH, default_layers
from ..lm.model import LanguageModel
from ..methods.catalogue import base_entry, canonical
from ..methods.ranges import TARGET, Choice
from ..world.embedded import is_embedded
from .config import RunConfig, Say, ignore
from .hyper_files import read_hyper
from .presets import PRESETS, find_preset, model_of
from .settings import Settings, build_settings

HYPER = DATA / "hyper"
"""Folder of the settings that were searched for the embedded model, one folder for each table; in
it, folders of the same form for other models, by their names in `seqedit.lm.registry.MODELS`.
"""

TARGET_FILE = "target.json"
"""How targets are optimised in the table `shared`."""


def resolve(
    config: RunConfig, lm: LanguageModel, *, file_has_rounds: bool = False, say: Say = ignore
) -> Settings:
    """The settings of a run, complete and checked; later code needs no other source of them.

    They start from one of: the file `config.hyper`; a preset that is asked for; what was searched
    for the method on this model; a preset found by the model's hub id; the way targets are
    optimised, if that was searched for this model; the method's defaults. Over these go
    `config.batch_size` and then `config.settings`. Layers that none of them names are those of
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
    return (
        _file(config, lm) is not None or find_published(config, lm) is not None or is_embedded(lm)
    )


def find_published(config: RunConfig, lm: LanguageModel) -> str | None:
    """Model whose preset a run takes: the one asked for, else the one that the model's hub id
    names, if nothing was searched for it.
    """
    if config.preset is not None:
        return config.preset
    if _file(config, lm) is not None:
        return None
    model = model_of(config.model)
    base = canonical(config.method).partition("+")[0]
    return model if model in PRESETS.get(base, {}) else None


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
    if published := find_published(config, lm):
        return _preset_values(method, published, file_has_rounds, say)
    path = _file(config, lm)
    if path is None:
        return _searched_target(config, method, say)
    values, remarks = read_hyper(path, method, lm, bool(config.moments or config.corpus))
    for remark in remarks:
        say(f"{path.name}: {remark}")
    if config.hyper is None:
        say(f"settings of data/hyper/{path.relative_to(HYPER)}, searched for this model")
    return values


def _searched_target(config: RunConfig, method: str, say: Say) -> dict[str, Any]:
    """How targets are optimised on a model, if that was searched and the method has such targets;
    also the layers, for a method that edits several.
    """
    search = base_entry(method).search
    path = HYPER / str(model_of(config.model)) / TARGET_FILE
    if not path.exists() or not search.items() >= TARGET.items():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(search.get("layers"), Choice):
        values.pop("layers", None)
    say(f"targets by data/hyper/{path.relative_to(HYPER)}, searched for this model")
    return values


def _preset_values(method: str, model: str, file_has_rounds: bool, say: Say) -> dict[str, Any]:
    preset = find_preset(method, model)
    say(f"settings for {model}: {preset.source} (`seqedit presets {method} {model}` shows all)")
    values = dict(preset.settings)
    if file_has_rounds:
        values.pop("batch_size", None)
    return values


def _file(config: RunConfig, lm: LanguageModel) -> Path | None:
    """The file of settings that a run starts from: the one given, else what was searched for its
    method on its model, else for what stands before the method's first "+".
    """
    if config.hyper is not None or config.preset is not None:
        return config.hyper
    name = model_of(config.model)
    if not is_embedded(lm) and name is None:
        return None
    folder = (HYPER if is_embedded(lm) else HYPER / str(name)) / config.table
    method = canonical(config.method)
    files = [folder / f"{one}.json" for one in (method, method.partition("+")[0])]
    return next((path for path in files if path.exists()), None)
