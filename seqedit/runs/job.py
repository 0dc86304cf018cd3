"""Prepares a run: loads and checks everything that it needs."""

import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..algebra.compact import CompactMoment
from ..base.paths import MOMENTS, WORLD
from ..editing.state import EditPlan
from ..evaluation.consistency import References, load_references
from ..evaluation.wild import wild_prompts
from ..lm.contexts import load_contexts, sample_contexts
from ..lm.fingerprint import fingerprint
from ..lm.keys import Contexts
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.validation import validate_requests
from ..moments.cache import check_layers, corpus_moments
from ..moments.files import check_belongs, load_moments
from ..requests.published import RequestSet, load_request_set
from ..requests.request import EditRequest, batched
from ..world.embedded import is_embedded
from ..world.vocabulary import SENTENCES
from .config import RunConfig, Say, ignore
from .resolve import resolve
from .settings import Settings


@dataclass(frozen=True)
class Job:
    """Everything a run needs, loaded and checked.

    Attributes:
        config: what was asked for.
        loaded: the request file.
        lm: the unedited model.
        rounds: the requests in the order and the rounds in which they are edited.
        settings: of the method.
        plan: what the editing loop needs beside the method.
        references: reference texts for consistency; None without.
        embedded: whether the unedited model is the one that comes along.
    """

    config: RunConfig
    loaded: RequestSet
    lm: LanguageModel
    rounds: list[list[EditRequest]]
    settings: Settings
    plan: EditPlan
    references: References | None
    embedded: bool

    @property
    def requests(self) -> list[EditRequest]:
        """The requests of all rounds, in order."""
        return [request for batch in self.rounds for request in batch]

    @property
    def world(self) -> Path | None:
        """The folder of the fictional world, whose model is edited; None for any other model."""
        return WORLD if self.embedded else None

    @property
    def edited_in(self) -> dict[int | str, int]:
        """case_id → round in which the request is edited."""
        return {request.case_id: i for i, batch in enumerate(self.rounds) for request in batch}


def prepare(config: RunConfig, say: Say = ignore) -> Job:
    """Load and check requests, model, settings, context templates and second moments.

    Raises:
        ValueError: names the record, field or setting that is wrong.
    """
    loaded = load_request_set(config.requests, clean=config.clean)
    for remark in loaded.remarks():
        say(f"{config.requests}: {remark}")
    references = load_references(config.references, SENTENCES) if config.references else None
    lm = load_model(config.model, device=config.device, dtype=getattr(torch, config.dtype))
    settings = resolve(config, lm, file_has_rounds=len(loaded.rounds) > 1, say=say)
    check_layers(lm, settings.layers)
    rounds = _divide(loaded.rounds, config, settings.batch_size)
    contexts = _contexts(config, lm, settings)
    validate_requests(lm, [request for batch in rounds for request in batch], contexts)
    plan = EditPlan(
        layers=settings.layers,
        moments=_moments(config, lm, settings.layers),
        contexts=contexts,
        target=settings.target,
        max_update_ratio=settings.max_update_ratio,
    )
    plan.check(lm)
    if config.wild:
        wild_prompts(lm, [request for batch in rounds for request in batch])
    return Job(config, loaded, lm, rounds, settings, plan, references, is_embedded(lm))


def _divide(
    in_file: list[list[EditRequest]], config: RunConfig, batch_size: int | None
) -> list[list[EditRequest]]:
    """The file's requests, shuffled and cut as asked, in rounds of `batch_size` or of the file's
    own sizes.
    """
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


def _contexts(config: RunConfig, lm: LanguageModel, settings: Settings) -> Contexts:
    """Context templates of the given file, or sampled from the model by the run's seed."""
    longest = max((length for length, _ in settings.context_lengths), default=0)
    if longest >= lm.max_positions:
        raise ValueError(
            f"context_lengths: {longest} tokens, but the model has {lm.max_positions} positions"
        )
    if config.contexts:
        return load_contexts(config.contexts)
    generator = torch.Generator().manual_seed(config.seed)
    return sample_contexts(lm, generator, settings.context_lengths)


def _moments(
    config: RunConfig, lm: LanguageModel, layers: tuple[int, ...]
) -> dict[int, Tensor | CompactMoment]:
    """layer → second moment, (d_ff, d_ff): from a file, or computed over a text and kept in the
    cache.
    """
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
            "moments: give second moments with --moments, or a text to compute them from with "
            "--corpus"
        )
    return {**corpus_moments(lm, corpus, layers)}
