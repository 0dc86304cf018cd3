"""What a run needs: what it was asked for, checked, with model, settings and second moments."""

import random
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.paths import (
    DATA,
    MOMENTS,
    WORLD,
)
from ..editing.state import EditPlan
from ..evaluation.consistency import References, load_references
from ..lm.contexts import load_contexts, sample_contexts
from ..lm.fingerprint import fingerprint
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.validation import validate_requests
from ..methods.catalogue import canonical
from ..moments.cache import check_layers, corpus_moments
from ..moments.files import check_belongs, load_moments
from ..requests.published import RequestSet, load_request_set
from ..requests.request import EditRequest, batched
from ..world.embedded import is_embedded
from ..world.vocabulary import SENTENCES
from .presets import PRESETS, find_preset, model_of
from .settings import Settings, build_settings, read_hyper


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is asked to do; the command line's options, and the parameters of notebooks.

    Attributes:
        model: local folder, hub id, or "embedded" for the model that comes along.
        requests: file of edit requests, name of a benchmark in `seqedit.requests.published`, or
            "world" for the records of the embedded model's world.
        clean: leave out records that are wrong, repeated or contradictory; else they are refused by name.
        method: name in `seqedit.methods.catalogue.METHODS`, combinators after "+".
        settings: flat overrides of the method's settings (see `seqedit.runs.settings`).
        hyper: JSON file of settings, ours or a released repository's.
        preset: model whose published settings to take; without it and `hyper`, that of the model's hub id, if any.
        batch_size: requests per round; None keeps the rounds of the file, or makes one.
        n_edits: only so many requests, from the first; None takes all.
        shuffle: put the requests in an order drawn from the seed first.
        seed: of the context templates, the order and generated text.
        contexts, moments, corpus: files to use instead of sampling templates and computing second moments.
        evaluate_every: also evaluate after every so many rounds; 0 evaluates at the end only.
        fluency: generate text at the end and measure its entropy.
        references: with `fluency`, file of reference texts for consistency (see `load_references`).
        save_rounds: keep the edited matrices after every round.
        dtype: of the model's weights; the edited matrices are kept in float32 as well.
    """

    model: str
    requests: Path | str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    clean: bool = False
    hyper: Path | None = None
    preset: str | None = None
    batch_size: int | None = None
    n_edits: int | None = None
    shuffle: bool = False
    seed: int = 0
    contexts: Path | None = None
    moments: Path | None = None
    corpus: Path | None = None
    evaluate_every: int = 0
    fluency: bool = False
    references: Path | None = None
    save_rounds: bool = False
    dtype: str = "float32"
    device: str = "auto"

    def __post_init__(self):
        if self.references and not self.fluency:
            raise ValueError(
                "references: consistency needs generated text; ask for it with --fluency"
            )
        if self.preset and self.hyper:
            raise ValueError("preset: give --preset or --hyper, not both")
        object.__setattr__(self, "method", canonical(self.method))

    @property
    def published(self) -> str | None:
        """Model whose preset the run takes: the one asked for, or the one that the model's hub id names."""
        model = self.preset or (None if self.hyper else model_of(self.model))
        asked = self.preset is not None
        return model if asked or model in PRESETS.get(self.method.partition("+")[0], {}) else None


@dataclass(frozen=True)
class Job:
    """Everything a run needs, checked."""

    config: RunConfig
    loaded: RequestSet
    lm: LanguageModel
    rounds: list[list[EditRequest]]
    settings: Settings
    plan: EditPlan
    references: References | None
    embedded: bool

    @property
    def world(self) -> Path | None:
        """Where the tasks and texts of the embedded world are, if its model is edited."""
        return WORLD if self.embedded else None

    @property
    def requests(self) -> list[EditRequest]:
        """All requests of the run, in the order in which they are edited."""
        return [request for batch in self.rounds for request in batch]

    @property
    def edited_in(self) -> dict[int | str, int]:
        return {request.case_id: i for i, batch in enumerate(self.rounds) for request in batch}


def prepare(config: RunConfig, say=lambda text: None) -> Job:
    """Load and check requests, model, settings, context templates and second moments.

    Raises:
        ValueError: names the record, field or setting that is wrong.
    """
    loaded = load_request_set(config.requests, clean=config.clean)
    if loaded.left_out:
        say(f"{config.requests}: {loaded.summary()}")
    references = load_references(config.references, SENTENCES) if config.references else None
    lm = load_model(config.model, device=config.device, dtype=getattr(torch, config.dtype))
    settings = _settings(config, lm, len(loaded.rounds) > 1, say)
    check_layers(lm, settings.layers)
    rounds = _select(loaded.rounds, config, settings.batch_size)
    generator = torch.Generator().manual_seed(config.seed)
    longest = max((length for length, _ in settings.context_lengths), default=0)
    if longest >= lm.max_positions:
        raise ValueError(
            f"context_lengths: {longest} tokens, but the model has {lm.max_positions} positions"
        )
    contexts = (
        load_contexts(config.contexts)
        if config.contexts
        else sample_contexts(lm, generator, settings.context_lengths)
    )
    validate_requests(lm, [request for batch in rounds for request in batch], contexts)
    plan = EditPlan(
        layers=settings.layers,
        moments=_moments(config, lm, settings.layers),
        contexts=contexts,
        target=settings.target,
        max_update_ratio=settings.max_update_ratio,
    )
    plan.check(lm)
    return Job(config, loaded, lm, rounds, settings, plan, references, is_embedded(lm))


def settings_of(config: RunConfig, lm: LanguageModel) -> Settings:
    """The settings that a run has on a model, of requests that are in no rounds of their own."""
    return _settings(config, lm, False, lambda text: None)


def _select(
    in_file: list[list[EditRequest]], config: RunConfig, batch_size: int | None
) -> list[list[EditRequest]]:
    """The file's requests shuffled and cut as asked, in rounds of `batch_size` or else of the file's own sizes."""
    requests = [request for batch in in_file for request in batch]
    if config.shuffle:
        random.Random(config.seed).shuffle(requests)
    if config.n_edits is not None and not 1 <= config.n_edits <= len(requests):
        raise ValueError(f"n_edits is {config.n_edits}; the file has {len(requests)} requests")
    requests = requests[: config.n_edits]
    if batch_size is not None:
        return list(batched(requests, batch_size))
    left = iter(requests)
    rounds = [list(islice(left, len(batch))) for batch in in_file]
    return [batch for batch in rounds if batch]


def _settings(config: RunConfig, lm: LanguageModel, own_rounds: bool, say) -> Settings:
    """Overrides over the --hyper file or a preset over the embedded model's tuned settings over the defaults.

    Args:
        own_rounds: the file has rounds, which a preset's batch size does not override.
    """
    values: dict[str, Any] = {}
    own = [
        DATA / "hyper" / f"{name}.json" for name in (config.method, config.method.partition("+")[0])
    ]
    tuned = next((path for path in own if path.exists()), None)
    path = config.hyper or (tuned if is_embedded(lm) and not config.preset else None)
    if path is not None:
        given = bool(config.moments or config.corpus)
        values, remarks = read_hyper(path, config.method, lm, given)
        for remark in remarks:
            say(f"{path.name}: {remark}")
        if config.hyper is None:
            say(f"settings of data/hyper/{path.name}, tuned for the embedded model")
    if (model := config.published) is not None:
        preset = find_preset(config.method, model)
        values = {
            name: value
            for name, value in preset.settings.items()
            if name != "batch_size" or not own_rounds
        }
        say(
            f"published settings for {model}: {preset.source} (`seqedit presets {config.method} {model}` shows all)"
        )
    if config.batch_size is not None:
        values["batch_size"] = config.batch_size
    return build_settings(config.method, values | config.settings)


def _moments(config: RunConfig, lm: LanguageModel, layers: tuple[int, ...]) -> dict[int, Tensor]:
    """Second moments from a file, or computed over a text and kept in the cache."""
    if config.moments:
        moments = load_moments(config.moments)
        check_belongs(config.moments, moments, lm)
        return moments.C
    embedded = is_embedded(lm)
    if config.corpus is None and embedded and MOMENTS.exists():
        shipped = load_moments(MOMENTS)
        if shipped.fingerprint == fingerprint(lm) and set(layers) <= set(shipped.C):
            return shipped.C
    corpus = config.corpus or (WORLD / "corpus.txt" if embedded else None)
    if corpus is None:
        raise ValueError(
            "moments: give second moments with --moments, or a text to compute them from with --corpus"
        )
    return corpus_moments(lm, corpus, layers)
