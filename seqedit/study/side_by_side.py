"""Edit the same facts by several methods, and put what came of them side by side on one page."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from ..base.files import write_json, write_text
from ..base.tensors import load_tensors
from ..evaluation.generation import greedy_answers
from ..lm.load import load_model
from ..lm.registry import origin_of
from ..lm.tokens import tokenise
from ..lm.weights import restored, write_weight
from ..methods.catalogue import canonical
from ..requests.request import EditRequest
from ..runs.checkpoint import BESIDE, put_weights
from ..runs.config import RunConfig, Say, ignore
from ..runs.job import prepare
from ..runs.records import Record, load_weights, read_run
from ..runs.settings import known_names
from .several import run_several

COLUMNS = {
    "edits.efficacy": "success",
    "edits.paraphrase": "paraphrase",
    "edits.neighborhood": "neighbourhood",
    "edits.efficacy_accuracy": "exact",
    "wild.wild_bare_contains": "wild",
    "kept_facts": "kept",
}
"""Column of a record's scores → what the table calls it."""

UNEDITED = "before"


def edit_side_by_side(
    config: RunConfig, methods: Sequence[str], out: Path, *, jobs: int = 1, say: Say = ignore
) -> Iterator[tuple[str, Record]]:
    """Make one run for each method, in a folder of its name; those that are there are kept.

    Args:
        config: of all runs, but for their method.
        methods: names as `RunConfig` takes them.
        out: folder of the runs.
        jobs: how many run at a time.

    Yields:
        Each method with its finished run.
    """
    prepare(replace(config, method=methods[0]), say)  # what all share is computed once, and cached
    runs = {out / method: replace(config, method=method) for method in methods}
    for folder, record in run_several(runs, jobs=jobs, title="methods"):
        yield folder.name, record


def score_table(records: dict[str, Record]) -> pd.DataFrame:
    """One row for each method and one for the unedited model, in percent; see `COLUMNS`."""
    rows = {}
    for method, record in records.items():
        last = record.scores.iloc[-1]
        rows[method] = {name: _percent(last.get(column)) for column, name in COLUMNS.items()}
        rows.setdefault(UNEDITED, _before(record))
    order = [UNEDITED, *(name for name in rows if name != UNEDITED)]
    return pd.DataFrame(rows).T.loc[order, list(COLUMNS.values())].astype(float).round(1)


def _before(record: Record) -> dict[str, float]:
    """The row of the unedited model; it was not asked to answer freely."""
    unedited = record.run["unedited"]
    return {
        name: _percent(unedited.get(column.partition(".")[2])) for column, name in COLUMNS.items()
    }


def _percent(share: float | None) -> float:
    """A share in percent; NaN of one that was not measured."""
    return float("nan") if share is None else 100 * share


def continuations(
    config: RunConfig, methods: Sequence[str], out: Path, requests: Sequence[EditRequest]
) -> pd.DataFrame:
    """What the model says after each prompt, before and after the edits of each method.

    Args:
        config: of the runs.
        methods: whose runs lie in `out`.
        out: see `edit_side_by_side`.
        requests: whose prompts are continued.

    Returns:
        Prompt, new object, and the greedy answers up to their natural end; "–" of a method that
        does not keep its edits in the weights.
    """
    frame = pd.DataFrame(
        {"prompt": [r.text for r in requests], "new object": [r.target_new for r in requests]}
    )
    lm = load_model(config.model, device=config.device, dtype=getattr(torch, config.dtype))
    prompts = tokenise(lm, [r.text for r in requests]).ids

    def answers() -> list[str]:
        return [answer.text for answer in greedy_answers(lm, prompts, new_tokens=20)]

    frame[UNEDITED] = answers()
    for method in methods:
        with restored(lm, load_weights(out / method)):
            try:
                put_weights(lm, out / method)
                frame[method] = answers()
            except ValueError:  # it keeps something beside the weights, which only its run has
                frame[method] = "–"
    return frame


def answers_by_round(
    config: RunConfig, methods: Sequence[str], out: Path, requests: Sequence[EditRequest]
) -> pd.DataFrame:
    """What the model says to each edited prompt after every round, also before the fact's own.

    Args:
        config: of the runs, which kept the matrices of every round (`RunConfig.save_rounds`).
        methods, out, requests: see `continuations`.

    Returns:
        One row for each prompt and method: prompt, new object, method, the answer before, and a
        column for each number of edits, "after 20" and so on. Methods that keep something beside
        the weights are left out.
    """
    lm = load_model(config.model, device=config.device, dtype=getattr(torch, config.dtype))
    prompts = tokenise(lm, [r.text for r in requests]).ids

    def answers() -> list[str]:
        return [answer.text for answer in greedy_answers(lm, prompts, new_tokens=20)]

    before, rows = answers(), []
    for method in methods:
        run, layers = read_run(out / method), load_weights(out / method)
        tensors = load_tensors(out / method / "weights.safetensors")[0]
        if any(name.startswith(BESIDE) for name in tensors):
            continue
        size, said = config.batch_size or run["n_edits"], {}
        with restored(lm, layers):
            for i in range(run["rounds_done"]):
                for layer in layers:
                    write_weight(lm, layer, tensors[f"W.{i}.{layer}"])
                said[f"after {min(size * (i + 1), run['n_edits'])}"] = answers()
        rows += [
            {"prompt": r.text, "new object": r.target_new, "method": method, UNEDITED: before[j]}
            | {name: texts[j] for name, texts in said.items()}
            for j, r in enumerate(requests)
        ]
    return pd.DataFrame(rows)


def write_tables(
    path: Path, records: dict[str, Record], said: pd.DataFrame, facts: pd.DataFrame
) -> None:
    """Write the scores, the continuations, the answers by round and what they come from as JSON."""
    first = next(iter(records.values())).run
    scores = score_table(records).astype(object).where(score_table(records).notna(), None)
    about = {
        "parameters": {
            name: first["parameters"][name] for name in ("model", "n_edits", "batch_size")
        },
        "known_facts": _last(records, "known_facts"),
        "seconds": {name: record.run["seconds"] for name, record in records.items()},
        "provenance": first["provenance"],
    }
    content = {"about": about, "scores": scores.to_dict("index"), "said": said.to_dict("records")}
    write_json(path, content | {"facts": facts.to_dict("records")})


def _last(records: dict[str, Record], column: str) -> int | None:
    """A number that is the same in all records; None if it was not measured."""
    value = next(iter(records.values())).scores.iloc[-1].get(column)
    return None if value is None else int(value)


def write_page(
    path: Path, config: RunConfig, records: dict[str, Record], said: pd.DataFrame
) -> None:
    """Write the table of scores and the continuations as one HTML page without scripts.

    Raises:
        ValueError: another page is there.
    """
    check_page(path)
    edits = next(iter(records.values())).run["n_edits"]
    origin = origin_of(config.model)
    weights = f"Weights: {origin['weights']}. " if origin and "weights" in origin else ""
    seconds = ", ".join(f"{name} {record.run['seconds']:.0f} s" for name, record in records.items())
    table = score_table(records).to_html(na_rep="–", border=0)
    write_text(
        path,
        _PAGE.format(
            title=html.escape(f"{edits} edits of {Path(config.model).name}, side by side"),
            about=html.escape(
                f"{edits} facts of {Path(config.requests).name}, "
                f"{config.batch_size or 'all'} a round. {weights}Editing took: {seconds}."
            ),
            table=table,
            said=said.to_html(index=False, border=0),
        ),
    )


def check_methods(methods: Sequence[str]) -> None:
    """Raises ValueError if there is no method of one of these names."""
    for method in methods:
        known_names(canonical(method))


def check_page(path: Path) -> None:
    """Raises ValueError if a file is there that is no page of this command."""
    if path.exists() and "side by side</title>" not in path.read_text("utf-8", "replace"):
        raise ValueError(f"out: {path} exists already and is another page; choose another folder")


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
.wide {{ overflow-x: auto }}
th, td {{ padding: .35rem .6rem; text-align: left; vertical-align: top }}
th, td {{ border-bottom: 1px solid #ddd }}
.scores td {{ text-align: right; font-variant-numeric: tabular-nums }}
.scores thead th:not(:first-child) {{ text-align: right }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #111; color: #ddd }}
  th, td {{ border-color: #444 }}
}}
</style>
<h1>{title}</h1>
<p>{about}</p>
<h2>Scores, in percent</h2>
<div class="wide scores">{table}</div>
<p><b>Success</b>: the new object is more probable than the old one. <b>Paraphrase</b>: also after
other wordings. <b>Neighbourhood</b>: other subjects, never edited, keep their object. <b>Exact</b>:
every token of the new object is the most probable one. <b>Wild</b>: the new object is in what the
model says by itself after the prompt. <b>Kept</b>: of facts that are never edited, those that the
model said before and still says.</p>
<h2>What the model says</h2>
<div class="wide">{said}</div>
</html>
"""
