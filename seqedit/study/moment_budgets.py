"""How much text second moments need, and of which kind: the model's own, or a given one.

Second moments are collected over budgets of each text and compared with those of a long stretch of
the given text that no budget reads. Then the same facts are edited with each of them. The budgets
are multiples of d_ff, the length of a key: fewer tokens cannot span key space.
"""

from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path

import pandas as pd

from ..algebra.compact import whole
from ..base.files import write_text
from ..lm.load import load_model
from ..lm.model import LanguageModel
from ..lm.second_moments import Reading
from ..lm.tokens import tokenise
from ..lm.weights import read_weight
from ..moments.cache import read_corpus
from ..moments.collect import collect_to_file
from ..moments.compare import compare_moments
from ..moments.corpus import Corpus
from ..moments.files import load_moments
from ..runs.config import RunConfig, Say, ignore
from ..runs.resolve import resolve
from ..runs.self_text import self_text
from .several import run_several

OWN, GIVEN = "the model's own", "given"
"""The two kinds of text."""

SCORES = ("efficacy", "paraphrase", "neighborhood", "efficacy_accuracy")


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What is compared.

    Attributes:
        model: as `RunConfig` takes it.
        corpus: the given text, one document a line.
        multiples: numbers of tokens, in multiples of d_ff.
        reference: tokens of the reference, in the same multiples; they follow the largest budget.
        methods: with which the facts are edited.
        requests: the facts, as `RunConfig` takes them.
        n_edits: how many of them.
        batch_size: how many a round.
        threshold: τ of the null spaces that are compared.
    """

    model: str
    corpus: Path
    multiples: tuple[int, ...] = (1, 2, 5, 10, 40)
    reference: int = 100
    methods: tuple[str, ...] = ("alphaedit", "memit_seq")
    requests: str = "facts"
    n_edits: int = 60
    batch_size: int = 20
    threshold: float = 2e-2


def compare_budgets(
    budgets: Budgets, work: Path, *, jobs: int = 1, say: Say = ignore
) -> pd.DataFrame:
    """Collect, compare and edit; what is finished in the folder `work` is not made again.

    Returns:
        One row for each text, budget and layer with the fields of `Difference`, and beside them,
        the same in all layers, the scores of the edits, METHOD.SCORE.
    """
    read_corpus(budgets.corpus)  # raises ValueError before minutes are spent
    lm = load_model(budgets.model, device="cpu")
    work.mkdir(parents=True, exist_ok=True)
    files = _collect(lm, budgets, work, say)
    reference = load_moments(_collect_reference(lm, budgets, work, say)).C
    edits = _edit(budgets, files, work, jobs)
    rows = []
    for (text, multiple), file in files.items():
        moments = load_moments(file)
        for layer, C in moments.C.items():
            about = {"text": text, "budget": multiple, "tokens": moments.counts[layer]}
            found = compare_moments(whole(C), whole(reference[layer]), budgets.threshold)
            rows.append(about | {"layer": layer} | asdict(found) | edits[text, multiple])
    return pd.DataFrame(rows)


def _collect(
    lm: LanguageModel, budgets: Budgets, work: Path, say: Say
) -> dict[tuple[str, int], Path]:
    """(text, budget) → file of its second moments."""
    most = _tokens(lm, max(budgets.multiples))
    texts = {OWN: ("own", self_text(lm, most)), GIVEN: ("given", budgets.corpus)}
    files = {}
    for text, (short, path) in texts.items():
        for multiple in budgets.multiples:
            files[text, multiple] = file = work / f"{short}-{multiple}.safetensors"
            reading = Reading(tokens=_tokens(lm, multiple))
            collect_to_file(lm, Corpus(file=path), _layers(lm, budgets), file, reading, say=say)
    return files


def _collect_reference(lm: LanguageModel, budgets: Budgets, work: Path, say: Say) -> Path:
    """File of the second moments of the given text after what the largest budget reads of it."""
    rest, file = work / "rest.txt", work / "reference.safetensors"
    write_text(rest, _after(lm, budgets.corpus, _tokens(lm, max(budgets.multiples))))
    reading = Reading(tokens=_tokens(lm, budgets.reference))
    collect_to_file(lm, Corpus(file=rest), _layers(lm, budgets), file, reading, say=say)
    return file


def _tokens(lm: LanguageModel, multiple: int) -> int:
    return multiple * read_weight(lm, 0).shape[1]


def _layers(lm: LanguageModel, budgets: Budgets) -> tuple[int, ...]:
    """The layers that the methods edit."""
    return resolve(_config(budgets), lm).layers


def _config(budgets: Budgets) -> RunConfig:
    """What all runs are asked to do, with the first of the methods."""
    return RunConfig(
        model=budgets.model,
        requests=budgets.requests,
        method=budgets.methods[0],
        n_edits=budgets.n_edits,
        batch_size=budgets.batch_size,
    )


def _after(lm: LanguageModel, corpus: Path, tokens: int) -> str:
    """The documents of a text after those that hold the first `tokens` tokens.

    Raises:
        ValueError: nothing is left.
    """
    texts = read_corpus(corpus)
    ends = accumulate(len(row) for row in tokenise(lm, texts).ids)
    rest = [text for text, end in zip(texts, ends, strict=True) if end >= tokens][1:]
    if not rest:
        raise ValueError(
            f"corpus: {corpus} has no more than {tokens} tokens; the reference is to follow them"
        )
    return "\n".join(rest) + "\n"


def _edit(
    budgets: Budgets, files: dict[tuple[str, int], Path], work: Path, jobs: int
) -> dict[tuple[str, int], dict[str, float | None]]:
    """(text, budget) → scores after editing with its second moments, METHOD.SCORE."""
    runs = {
        work / f"{file.stem}-{method}": replace(_config(budgets), method=method, moments=file)
        for file in files.values()
        for method in budgets.methods
    }
    made = dict(run_several(runs, jobs=jobs, title="edits"))
    found: dict[tuple[str, int], dict[str, float | None]] = {name: {} for name in files}
    for name, file in files.items():
        for method in budgets.methods:
            last = made[work / f"{file.stem}-{method}"].scores.iloc[-1]
            found[name] |= {f"{method}.{score}": last[f"edits.{score}"] for score in SCORES}
    return found
