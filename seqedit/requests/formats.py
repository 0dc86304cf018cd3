"""Read files of edit requests and convert the benchmarks' schemas to the plain one.

The schema of a record is recognised by its fields:

| schema | recognised by | written by |
|---|---|---|
| CounterFact | `requested_rewrite` | ROME, MEMIT (MultiCounterFact), this project's world |
| ZsRE | `src` and `alt` | MEND, ROME, MEMIT |
| KnowEdit | `target_new`, and `ground_truth` or a dict of probes | KnowEdit, EasyEdit |
| QAEdit | `target` and `rephrase` | 2502.11177 |
| plain | anything else | you: `prompt`, `subject`, `target_new` and other fields of `EditRequest` |

KnowEdit keeps `locality` and `portability` as dicts of probes; the plain schema keeps them as
lists.
"""

import csv
import itertools
import json
from pathlib import Path
from typing import Any


class RequestError(ValueError):
    """A request that cannot be used as given; the message names the record and the field."""


LISTS = {
    "paraphrase_prompts",
    "neighborhood_prompts",
    "attribute_prompts",
    "generation_prompts",
    "questions",
    "locality",
    "portability",
}
"""Columns of a .csv file that hold a JSON list; a cell that is no list is a single prompt."""


def read_rounds(path: Path | str, suffix: str = "") -> list[list[Any]]:
    """Read the records of a file in the plain or CounterFact's schema, grouped by the file's
    rounds.

    A file without rounds is one round. Records of ZsRE, KnowEdit and QAEdit without a case_id,
    and rows of a .csv file without a column case_id, are numbered from 0 in file order.

    Args:
        path: the file.
        suffix: kind of file, one of `READERS`, if the name of the file does not say.

    Returns:
        Rounds of raw records. They are not checked; `parse_requests` does that.

    Raises:
        RequestError: the file cannot be read, is of an unknown kind, or holds no records.
    """
    path = Path(path)
    rounds = _rounds_of(_read_content(path, suffix or path.suffix), path)
    numbers = itertools.count()
    return [[in_our_schema(record, next(numbers)) for record in batch] for batch in rounds]


def _read_content(path: Path, suffix: str) -> Any:
    """What the reader for this kind of file returns; its errors as RequestError."""
    read = READERS.get(suffix)
    if read is None:
        raise RequestError(f"{path}: a file of requests ends in {', '.join(READERS)}")
    try:
        return read(path)
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: not valid JSON: {error}") from error
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise RequestError(f"{path}: cannot be read: {error}") from error


def _rounds_of(content: Any, path: Path) -> list[list[Any]]:
    """The rounds of a file's content, none of them empty."""
    rounds = content.get("rounds") if isinstance(content, dict) else [content]
    if not isinstance(rounds, list) or not all(isinstance(batch, list) for batch in rounds):
        raise RequestError(f'{path}: expected a list of records, or {{"rounds": [[…], …]}}')
    if not any(rounds):
        raise RequestError(f"{path}: holds no records")
    if not all(rounds):
        raise RequestError(f"{path}: round {rounds.index([])} holds no records; leave it out")
    return rounds


def in_our_schema(record: Any, number: int) -> Any:
    """Convert a record of ZsRE, KnowEdit or QAEdit to the plain schema; return others unchanged.

    Args:
        record: what the file holds, of any type.
        number: the case_id of a record that has none.
    """
    if not isinstance(record, dict):
        return record
    if "src" in record and "alt" in record:
        return from_zsre(record, number)
    if "target" in record and "rephrase" in record:
        return from_qaedit(record, number)
    if "target_new" in record and (
        "ground_truth" in record
        or isinstance(record.get("locality"), dict)
        or isinstance(record.get("portability"), dict)
    ):
        return from_knowedit(record, number)
    return record


def from_zsre(record: dict[str, Any], number: int) -> dict[str, Any]:
    """Convert a record of MEND's ZsRE, which edits `src` to `alt`, to the plain schema.

    The true answer is the first of `answers`. The locality prompt is MEND's question from Natural
    Questions with the question mark that the released evaluation appends; its answer is the gold
    answer.

    Args:
        record: with `src` and `alt`.
        number: the case_id if the record has none.

    Source:
        MEND (2110.11309), as released with ROME.
    """
    locality = []
    question = record.get("loc")
    if isinstance(question, str) and question:
        locality = [{"prompt": f"{question.rstrip('?')}?", "answer": record.get("loc_ans")}]
    return {
        "case_id": record.get("case_id", number),
        "prompt": record["src"],
        "subject": record.get("subject"),
        "target_new": record["alt"],
        "target_true": _first(record.get("answers")) or None,
        "paraphrase_prompts": [record["rephrase"]] if record.get("rephrase") else [],
        "questions": [record["src"]],
        "locality": locality,
    }


def from_qaedit(record: dict[str, Any], number: int) -> dict[str, Any]:
    """Convert a record of QAEdit, whose prompts are questions, to the plain schema.

    Args:
        record: with `target` and `rephrase`.
        number: the case_id; the benchmark's `id` occurs more than once.

    Source:
        QAEdit (2502.11177).
    """
    probes = record.get("locality")
    if isinstance(probes, list):
        probes = [
            {"prompt": p.get("loc"), "answer": p.get("loc_ans")} if isinstance(p, dict) else p
            for p in probes
        ]
    return {
        "case_id": record.get("case_id", number),
        "prompt": record.get("prompt"),
        "subject": record.get("subject"),
        "target_new": record["target"],
        "paraphrase_prompts": [record["rephrase"]] if record["rephrase"] else [],
        "questions": [record.get("prompt")],
        "locality": probes,
    }


def from_knowedit(record: dict[str, Any], number: int) -> dict[str, Any]:
    """Convert a record of KnowEdit's WikiData_counterfact, or of a relative, to the plain schema.

    If an answer has several wordings the first is used.

    Args:
        record: with `target_new`; `rephrase` or `rephrase_prompt` is its paraphrase.
        number: the case_id if the record has none.

    Source:
        KnowEdit (2401.01286).
    """
    rephrase = record.get("rephrase") or record.get("rephrase_prompt") or []
    return {
        "case_id": record.get("case_id", number),
        "prompt": record.get("prompt"),
        "subject": record.get("subject"),
        "target_new": record["target_new"],
        "target_true": _first(record.get("ground_truth")) or None,
        "paraphrase_prompts": rephrase if isinstance(rephrase, list) else [rephrase],
        "locality": _flat_probes(record.get("locality")),
        "portability": _flat_probes(record.get("portability")),
    }


def _flat_probes(groups: Any) -> Any:
    """{kind: [{"prompt", "ground_truth"}, …]} as one list of {"prompt", "answer"}.

    Anything of another shape is kept, so that `parse_requests` can refuse it by name.
    """
    if not isinstance(groups, dict):
        return groups
    probes = []
    for group in groups.values():
        for item in group if isinstance(group, list) else [group]:
            probes.append(_probe(item) if isinstance(item, dict) else item)
    return probes


def _probe(item: dict[str, Any]) -> dict[str, Any]:
    """One of KnowEdit's probes in the plain schema, with its first prompt and first answer."""
    return {"prompt": _first(item.get("prompt")), "answer": _first(item.get("ground_truth"))}


def _first(value: Any) -> Any:
    """The first leaf of nested lists, "Berlin" of [["Berlin", "DE-BE"]]; None of an empty list."""
    while isinstance(value, list):
        value = value[0] if value else None
    return value


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_jsonl(path: Path) -> Any:
    """One record per line, of any type; blank lines are skipped."""
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would split at U+2028, too
    return [json.loads(line) for line in lines if line.strip()]


def _read_csv(path: Path) -> Any:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [_row(row, i) for i, row in enumerate(csv.DictReader(file, strict=True))]


def _row(row: dict[str | None, Any], number: int) -> dict[str, Any]:
    """The record of a .csv row without its empty cells. Raises csv.Error for too many cells."""
    if None in row:
        raise csv.Error(
            f"row {number} has more cells than there are columns; put quotes around cells with "
            "commas"
        )
    record = {str(name): cell for name, cell in row.items() if cell and cell.strip()}
    for name in LISTS & record.keys():
        cell = record[name]
        record[name] = json.loads(cell) if cell.lstrip().startswith("[") else [cell]
    case_id = record.get("case_id", number)
    if isinstance(case_id, str) and case_id.isdecimal():
        case_id = int(case_id)
    return record | {"case_id": case_id}


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""The reader of each kind of file."""
