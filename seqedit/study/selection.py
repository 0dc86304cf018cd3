"""The runs of a study and their ids."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..base.files import cache_folder, write_text
from ..base.paths import WORLD
from ..lm.fingerprint import fingerprint
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.registry import models_folder
from ..requests.benchmarks import is_at_hand
from ..requests.published import load_request_set
from ..runs.config import RunConfig
from ..runs.identity import run_id, run_parameters
from ..runs.resolve import resolve
from .studies import STUDIES
from .study_run import EMBEDDED, StudyRun

QUICK = "-quick"
"""What follows the name of a study whose runs are cut to a few edits, as in "methods-quick"."""


def study_runs(study: str) -> list[StudyRun]:
    """The runs of a study, in its order; those of "NAME-quick" have one seed and four edits in
    rounds of two.

    Raises:
        ValueError: there is no such study.
    """
    name = study.removesuffix(QUICK)
    if name not in STUDIES:
        raise ValueError(f"study: {study!r}; there are {', '.join(STUDIES)}")
    if name == study:
        return [*STUDIES[name]()]
    return [
        replace(one, n_edits=4, batch_size=2, evaluate_every=0, evaluate_sample=None)
        for one in STUDIES[name]()
        if one.seed == 1
    ]


def select_runs(name: str) -> dict[str, StudyRun]:
    """id → run, of all runs of a study, or of the single run that a name means.

    Args:
        name: a study; or a run, by its id or as STUDY-LABEL-sSEED.

    Raises:
        ValueError: there is no such study or run.
    """
    if name.removesuffix(QUICK) in STUDIES:
        return {identify(one): one for one in study_runs(name)}
    every = [(study, one) for study in _all_studies() for one in study_runs(study)]
    found = next((one for study, one in every if name == f"{study}-{one.label}-s{one.seed}"), None)
    if found is None:
        found = next((one for _, one in every if is_here(one) and name == identify(one)), None)
    if found is None:
        raise ValueError(
            f"study: {name!r}; there are {', '.join(STUDIES)}, and their runs by id or as "
            "STUDY-LABEL-sSEED, e.g. methods-memit-s1"
        )
    return {identify(found): found}


def is_here(one: StudyRun) -> bool:
    """Whether the model and the requests of a run are on this machine."""
    if one.model == EMBEDDED:
        return True
    return (models_folder() / one.model).is_dir() and is_at_hand(one.requests)


def identify(one: StudyRun) -> str:
    """The id of a run, known before it is made.

    Raises:
        ValueError: its model or benchmark is not on the machine; the message says how to get it.
    """
    lm = _model(one.model, one.dtype)
    config = run_config(one)
    parameters = run_parameters(
        config,
        resolve(config, lm),
        fingerprint=_fingerprint(one.model, one.dtype),
        n_edits=one.n_edits,
        requests=_origin(config.requests),
    )
    return run_id(parameters)


def run_config(one: StudyRun) -> RunConfig:
    """What the engine is asked to do for a run of a study."""
    config = one.config()
    if one.corpus_lines is None:
        return config
    return replace(config, corpus=_first_lines(WORLD / "corpus.txt", one.corpus_lines))


def edited_layers(runs: Iterable[StudyRun]) -> list[int]:
    """The layers of the embedded model whose second moments these runs need, by the tuned settings
    of their methods.
    """
    lm = _model(EMBEDDED, "float32")
    embedded = (one for one in runs if one.model == EMBEDDED)
    return sorted({layer for one in embedded for layer in resolve(one.config(), lm).layers})


def _all_studies() -> list[str]:
    return [*STUDIES, *(f"{name}{QUICK}" for name in STUDIES)]


@cache
def _model(name: str, dtype: str) -> LanguageModel:
    return load_model(name, device="cpu", dtype=getattr(torch, dtype))


@cache
def _fingerprint(name: str, dtype: str) -> str:
    return fingerprint(_model(name, dtype))


@cache
def _origin(requests: Path | str) -> str | dict[str, Any]:
    """What identifies requests in a record, see `RequestSet`."""
    return load_request_set(requests).origin


def _first_lines(path: Path, count: int) -> Path:
    """A file of the first lines of a text, in the cache."""
    part = cache_folder() / f"{path.stem}-{count}{path.suffix}"
    write_text(part, "\n".join(path.read_text(encoding="utf-8").splitlines()[:count]) + "\n")
    return part
