"""What a run is asked to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..evaluation.probes import find_extra_kinds
from ..lm.dtype import choose_dtype

Say = Callable[[str], None]
"""Receives remarks, one line each."""


Table = Literal["shared", "own"]
"""Settings whose targets are optimised alike for all methods, or as is best for each."""


def ignore(remark: str) -> None:
    """Drop a remark."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is asked to do: the options of the command line, and the parameters of notebooks.

    Attributes:
        model: local folder, hub id, or "embedded" for the embedded model.
        requests: file of edit requests, name of a benchmark in `seqedit.requests.benchmarks`, or
            "world" for the records of the embedded world, "facts" for those about the real one.
        method: name in `seqedit.methods.catalogue.METHODS`, combinators after "+".
        settings: flat names → values that override all other sources of settings (see
            `seqedit.runs.resolve`).
        clean: leave out records that are wrong, repeated or contradictory; otherwise such a record
            is an error.
        hyper: JSON file of settings, ours or that of a released repository.
        preset: model whose published settings to take. Without it and `hyper`, a model takes those
            that were searched for it, or published.
        table: which of the searched settings to take: "shared", whose targets are optimised alike
            for all methods, or "own", as is best for each.
        batch_size: requests per round; None keeps the rounds of the file, or makes one.
        n_edits: only so many requests, from the first; None takes all. A stream may make several
            edits of each.
        stream: name in `seqedit.requests.streams.STREAMS` of what is made of the requests; None
            edits each once.
        shuffle: put the requests in an order drawn from the seed first.
        seed: of the context templates, the order and generated text.
        contexts: JSON file of context templates; None samples them.
        moments: file of second moments; None computes them, or takes the shipped ones for the
            embedded model.
        corpus: text to compute second moments from; "self" for what the model writes itself, which
            is also what None stands for with any model but the embedded one.
        perplexity_text: text, one document a line, whose perplexity every evaluation measures and
            the record also states of the unedited model; "self" for what the unedited model writes.
        evaluate_every: also evaluate after every so many rounds; 0 evaluates at the end only.
        measures: kinds of prompts that are measured beside the usual ones, see
            `seqedit.evaluation.probes.EXTRA_KINDS`.
        evaluate_sample: at evaluations before the last, measure only so many of the requests edited
            so far, drawn from the seed (see `sample_by_round`); None measures all.
        kept: facts that are never edited, JSON lines of prompt and target: how many of those that
            the unedited model says does it still say? Those about a subject that the run edits
            are left out. None takes the facts that come with "facts".
        fluency: generate text at the end and measure its entropy.
        references: with `fluency`, file of reference texts for consistency (see `load_references`).
        chat: put every prompt into the tokenizer's chat template, see `seqedit.lm.chat.as_chats`.
        wild: let the model answer freely at the end and judge the answers (see `score_wild`).
        save_rounds: keep the edited matrices after every round.
        undoable: also keep the keys and residuals of all edits, which undoing one of them takes.
        dtype: of the model's weights; the edited matrices are kept in float32 as well. "auto" is
            replaced by the type that it stands for, see `choose_dtype`.
        device: where the model is loaded, see `seqedit.lm.load.load_model`.

    Raises:
        ValueError: two options contradict each other, or there is no such kind of prompts.
    """

    model: str
    requests: Path | str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    clean: bool = False
    hyper: Path | None = None
    preset: str | None = None
    table: Table = "shared"
    batch_size: int | None = None
    n_edits: int | None = None
    stream: str | None = None
    shuffle: bool = False
    seed: int = 0
    contexts: Path | None = None
    moments: Path | None = None
    corpus: Path | None = None
    perplexity_text: Path | None = None
    evaluate_every: int = 0
    measures: tuple[str, ...] = ()
    evaluate_sample: int | None = None
    kept: Path | None = None
    fluency: bool = False
    references: Path | None = None
    chat: bool = False
    wild: bool = False
    save_rounds: bool = False
    undoable: bool = False
    dtype: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        dtype = choose_dtype(self.dtype, self.model, self.device)
        object.__setattr__(self, "dtype", dtype)  # no record ever says "auto"
        find_extra_kinds(self.measures)
        if self.references and not self.fluency:
            raise ValueError(
                "references: consistency needs generated text; ask for it with --fluency"
            )
        if self.evaluate_sample is not None:
            if self.evaluate_sample < 1:
                raise ValueError(
                    f"evaluate_sample is {self.evaluate_sample}; a sample has at least one request"
                )
            if not self.evaluate_every:
                raise ValueError(
                    "evaluate_sample: only evaluations before the last are sampled; ask for some "
                    "with --evaluate-every"
                )
        if self.preset and self.hyper:
            raise ValueError("preset: give --preset or --hyper, not both")
