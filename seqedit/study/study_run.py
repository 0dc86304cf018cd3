"""One run of a study."""

from dataclasses import dataclass, field
from typing import Any

from ..base.paths import DATA, FACTS, MODEL, WORLD
from ..runs.config import RunConfig, Table

EMBEDDED = "embedded"
"""The name of the model that comes along."""

TEXTS = DATA / "real"
"""Folder of the texts that pretrained models wrote unedited."""


@dataclass(frozen=True)
class StudyRun:
    """A run of a study.

    Attributes:
        label: what the run is called in its study; labels and seeds together are unique there.
        method: name of the method, combinators after "+".
        settings: those that differ from the tuned ones.
        model: the embedded one, or a name in `seqedit.lm.registry.MODELS`, which has to be on the
            machine.
        n_edits: number of edits.
        batch_size: edits in a round.
        seed: of context templates and of the order of the requests.
        requests: file of requests in the folder of the fictional world; for another model the
            name of a benchmark.
        evaluate_every: also evaluate after every so many rounds; 0 evaluates at the end only.
        evaluate_sample: at evaluations before the last, measure only so many requests; None
            measures all.
        corpus_lines: second moments come from so many lines of the corpus; None takes the shipped
            ones, or for another model those of its own text.
        dtype: of the model's weights.
        table: which chosen settings to start from, see `RunConfig`.
        stream: name of a stream of edits, see `seqedit.requests.streams`.
        measures: kinds of prompts that are measured beside the usual ones.
        wild: let the model answer freely at the end.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = EMBEDDED
    n_edits: int = 100
    batch_size: int = 25
    seed: int = 1
    requests: str = "records.json"
    evaluate_every: int = 0
    evaluate_sample: int | None = None
    corpus_lines: int | None = None
    dtype: str = "float32"
    table: Table = "shared"
    stream: str | None = None
    measures: tuple[str, ...] = ()
    wild: bool = False

    def config(self) -> RunConfig:
        """What the engine is asked to do, but for the text of the second moments of the embedded
        model.

        Of a pretrained model it is also measured which facts about the real world it keeps, and the
        perplexity of text that it wrote unedited. That text, and another one behind its second
        moments, are in `data/real`, since another kind of machine would draw others
        (`seqedit.runs.self_text`).
        """
        embedded = self.model == EMBEDDED
        return RunConfig(
            model=str(MODEL) if embedded else self.model,
            requests=WORLD / self.requests if embedded else self.requests,
            method=self.method,
            settings=self.settings,
            n_edits=self.n_edits,
            batch_size=self.batch_size,
            shuffle=True,
            seed=self.seed,
            evaluate_every=self.evaluate_every,
            evaluate_sample=self.evaluate_sample,
            kept=None if embedded else FACTS / "kept.jsonl",
            corpus=None if embedded else TEXTS / f"text-{self.model}.txt",
            perplexity_text=None if embedded else TEXTS / f"measured-{self.model}.txt",
            dtype=self.dtype,
            table=self.table,
            stream=self.stream,
            measures=self.measures,
            wild=self.wild,
            device="cpu",
        )
