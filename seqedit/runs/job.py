"""Prepares a run: loads and checks everything that it needs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..algebra.compact import CompactMoment
from ..base.paths import FACTS, MOMENTS, WORLD
from ..editing.state import EditPlan
from ..editing.undo import check_undoable
from ..evaluation.abilities import read_facts
from ..evaluation.consistency import References, load_references
from ..evaluation.probes import long_after_the_edit
from ..evaluation.wild import long_wild_prompts
from ..lm.chat import as_read
from ..lm.contexts import load_contexts, sample_contexts
from ..lm.fingerprint import fingerprint
from ..lm.keys import Contexts
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.validation import validate_requests, without_long_probes
from ..moments.cache import check_layers, corpus_gradients, corpus_moments, read_corpus
from ..moments.files import check_belongs, load_moments
from ..requests.published import RequestSet, load_request_set
from ..requests.request import EditRequest, batched
from ..requests.streams import Stream, make_stream
from ..world.embedded import is_embedded
from ..world.vocabulary import SENTENCES
from .config import RunConfig, Say, ignore
from .resolve import is_chosen, resolve
from .scale import scaled_to
from .self_text import SELF, measured_text, self_text
from .settings import Settings


@dataclass(frozen=True)
class Job:
    """Everything a run needs, loaded and checked.

    Attributes:
        config: what was asked for.
        loaded: the request file.
        lm: the unedited model.
        stream: the edits in order, each with its fact.
        rounds: the edits of the stream in the rounds in which they are made.
        settings: of the method.
        plan: what the editing loop needs beside the method.
        references: reference texts for consistency; None without.
        texts: documents whose perplexity is measured.
        long_probes: messages about probes that are too long for the model.
        embedded: whether the unedited model is the one that comes along.
    """

    config: RunConfig
    loaded: RequestSet
    lm: LanguageModel
    stream: Stream
    rounds: list[list[EditRequest]]
    settings: Settings
    plan: EditPlan
    references: References | None
    texts: tuple[str, ...]
    embedded: bool
    long_probes: list[str] = field(default_factory=list)

    @property
    def requests(self) -> list[EditRequest]:
        """The edits of all rounds, in order."""
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
    stream = choose_edits(
        loaded.requests, config.stream, config.n_edits, config.shuffle, config.seed
    )
    references = load_references(config.references, SENTENCES) if config.references else None
    lm = load_model(config.model, device=config.device, dtype=getattr(torch, config.dtype))
    settings = resolve(config, lm, file_has_rounds=len(loaded.rounds) > 1, say=say)
    if config.undoable:
        check_undoable(settings.make())
    check_layers(lm, settings.layers)
    long, passes = [], []
    for own in stream.passes:
        read, left_out = without_long_probes(lm, as_read(lm, own, settings.separator, config.chat))
        passes.append(read)
        long += left_out
        if config.wild:
            long += long_wild_prompts(lm, read)
        if "neighborhood_plus" in config.measures:
            long += long_after_the_edit(lm, read)
    stream = replace(stream, passes=passes)
    if long:
        say(f"{len(long)} probes are too long for the model. The first: {long[0]}")
    config = with_files(config, lm, say)
    text = config.perplexity_text
    texts = tuple(read_corpus(text, "perplexity_text")) if text else ()
    if config.kept:
        read_facts(config.kept)
    sizes = [len(batch) for batch in loaded.rounds]
    rounds = [
        batch for edits in stream.passes for batch in _divide(edits, sizes, settings.batch_size)
    ]
    contexts = _contexts(config, lm, settings)
    validate_requests(lm, [request for batch in rounds for request in batch], contexts)
    plan = make_plan(config, lm, settings, contexts)
    if not is_chosen(config, lm):
        settings = scaled_to(settings, plan.moments, config.settings, say)
    return Job(
        config,
        loaded,
        lm,
        stream,
        rounds,
        settings,
        plan,
        references,
        texts,
        is_embedded(lm),
        long,
    )


def with_files(config: RunConfig, lm: LanguageModel, say: Say = ignore) -> RunConfig:
    """What a run is asked to do, with the files in place of what stands for them."""
    return replace(
        config,
        corpus=find_corpus(config, lm, say),
        kept=_kept(config, lm),
        perplexity_text=measured_text(lm, config.perplexity_text),
    )


def make_plan(
    config: RunConfig, lm: LanguageModel, settings: Settings, contexts: Contexts
) -> EditPlan:
    """What the editing loop needs, with the second moments that the configuration asks for.

    Raises:
        ValueError: they cannot be had, or do not fit the model.
    """
    plan = EditPlan(
        layers=settings.layers,
        moments=_moments(config, lm, settings.layers),
        contexts=contexts,
        target=settings.target,
        max_update_ratio=settings.max_update_ratio,
        gradients=_gradients(config, lm, settings),
        undoable=config.undoable,
    )
    plan.check(lm)
    return plan


def choose_edits(
    requests: Sequence[EditRequest],
    stream: str | None,
    n_edits: int | None,
    shuffle: bool,
    seed: int,
) -> Stream:
    """The edits of a run: the file's requests shuffled as asked, from which a stream is made.

    The arguments after the requests are those of `RunConfig`.

    Raises:
        ValueError: see `make_stream`.
    """
    ordered = list(requests)
    if shuffle:
        random.Random(seed).shuffle(ordered)
    return make_stream(stream, ordered, n=n_edits, seed=seed)


def _divide(
    edits: list[EditRequest], sizes: list[int], batch_size: int | None
) -> list[list[EditRequest]]:
    """A pass of a stream in rounds of `batch_size`, or of the sizes of the file's rounds."""
    if batch_size is not None:
        return list(batched(edits, batch_size))
    left = iter(edits)
    rounds = [list(islice(left, size)) for size in sizes]
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


def find_corpus(config: RunConfig, lm: LanguageModel, say: Say) -> Path | None:
    """The text that second moments are computed over; None where they are there already.

    Unless another is given, it is the world's for the embedded model, for others the model's own.
    """
    own = config.corpus is None and not config.moments and not is_embedded(lm)
    if not own and (config.corpus is None or Path(config.corpus) != SELF):
        return config.corpus
    say("second moments: over text that the model writes itself; --corpus FILE takes another")
    return self_text(lm)


def _kept(config: RunConfig, lm: LanguageModel) -> Path | None:
    """The facts of which it is measured how many are kept.

    The embedded model, which knows the fictional world alone, is asked for that world's.
    """
    if config.kept is None and config.requests == "facts" and not is_embedded(lm):
        return FACTS / "kept.jsonl"
    return config.kept


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
    if config.corpus is None and MOMENTS.exists():  # of the embedded model
        shipped = load_moments(MOMENTS)
        if shipped.fingerprint == fingerprint(lm) and set(layers) <= set(shipped.C):
            return shipped.C
    return {**corpus_moments(lm, config.corpus or WORLD / "corpus.txt", layers)}


def _gradients(config: RunConfig, lm: LanguageModel, settings: Settings) -> dict[int, Tensor]:
    """layer → second moment of gradients, (d_model, d_model), over the run's text and kept in the
    cache; none for a method that needs none.

    Raises:
        ValueError: the method needs them, and the second moments of keys came without their text.
    """
    if not settings.make().needs_gradients:
        return {}
    corpus = config.corpus or (WORLD / "corpus.txt" if is_embedded(lm) else None)
    if corpus is None:
        raise ValueError(
            f"corpus: {settings.method} needs second moments of gradients, which {config.moments} "
            "does not hold; give their text with --corpus beside --moments"
        )
    return corpus_gradients(lm, corpus, settings.layers)
