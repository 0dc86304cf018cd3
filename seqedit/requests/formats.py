"""Files of edit requests: how they are read, and the schemas of the benchmarks, told apart by their fields.

| schema | known by | who writes it |
|---|---|---|
| CounterFact | `requested_rewrite` | ROME, MEMIT (MultiCounterFact has the same), this project's world |
| ZsRE | `src`, `alt` | MEND, ROME, MEMIT |
| KnowEdit | `target_new` with `ground_truth`, `locality` or `portability` of KnowEdit's shape | KnowEdit, EasyEdit |
| plain | anything else | you: `prompt`, `subject`, `target_new`, and what else `EditRequest` has |
"""

import csv
import json
from pathlib import Path
from typing import Any


class RequestError(ValueError):
    """A request that cannot be edited as given; the message names the record and the field."""


LISTS = {
    "paraphrase_prompts",
    "neighborhood_prompts",
    "attribute_prompts",
    "generation_prompts",
    "locality",
    "portability",
}
"""Columns of a .csv file that hold a JSON list; a cell that is no list is a single prompt."""


def read_rounds(path: Path | str, suffix: str = "") -> list[list[Any]]:
    """Records of a file in this project's schema, in the rounds the file gives; one round where it gives none.

    Records of ZsRE and KnowEdit, and rows of a .csv file without a column case_id, are numbered from 0 in file order.

    Args:
        suffix: the kind of file, where its name does not tell.

    Raises:
        RequestError: the file cannot be read, is of an unknown kind, or holds no records.
    """
    path = Path(path)
    read = READERS.get(suffix or path.suffix)
    if read is None:
        raise RequestError(f"{path}: a file of requests ends in {', '.join(READERS)}")
    try:
        content = read(path)
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: not valid JSON: {error}") from error
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise RequestError(f"{path}: cannot be read: {error}") from error
    rounds = content.get("rounds") if isinstance(content, dict) else [content]
    if not isinstance(rounds, list) or not all(isinstance(batch, list) for batch in rounds):
        raise RequestError(f'{path}: expected a list of records, or {{"rounds": [[…], …]}}')
    if not any(rounds):
        raise RequestError(f"{path}: holds no records")
    if not all(rounds):
        raise RequestError(f"{path}: round {rounds.index([])} holds no records; leave it out")
    starts = [sum(map(len, rounds[:i])) for i in range(len(rounds))]
    return [
        [in_our_schema(record, start + i) for i, record in enumerate(batch)]
        for start, batch in zip(starts, rounds, strict=True)
    ]


def in_our_schema(record: Any, number: int) -> Any:
    """A record of ZsRE or KnowEdit as a plain one; any other as it is, for `parse_requests` to judge."""
    if not isinstance(record, dict):
        return record
    if "src" in record and "alt" in record:
        return zsre(record, number)
    if "target_new" in record and (
        "ground_truth" in record
        or isinstance(record.get("locality"), dict)
        or isinstance(record.get("portability"), dict)
    ):
        return knowedit(record, number)
    return record


def zsre(record: dict[str, Any], number: int) -> dict[str, Any]:
    """MEND's ZsRE: edits `src` to `alt`; the true answer is the first of `answers`.

    Source: MEND (2110.11309) as released with ROME; locality is its question from Natural Questions with its gold
    answer, and the question mark that the released evaluation appends.
    """
    loc = record.get("loc")
    return {
        "case_id": record.get("case_id", number),
        "prompt": record["src"],
        "subject": record.get("subject"),
        "target_new": record["alt"],
        "target_true": _first(record.get("answers")) or None,
        "paraphrase_prompts": [record["rephrase"]] if record.get("rephrase") else [],
        "locality": [{"prompt": f"{loc.rstrip('?')}?", "answer": record.get("loc_ans")}]
        if isinstance(loc, str) and loc
        else [],
    }


def knowedit(record: dict[str, Any], number: int) -> dict[str, Any]:
    """KnowEdit's WikiData_counterfact and its relatives; of several wordings of an answer the first counts.

    Source: KnowEdit (2401.01286); `rephrase` or `rephrase_prompt` is the paraphrase where there is one.
    """
    rephrase = record.get("rephrase") or record.get("rephrase_prompt") or []
    return {
        "case_id": record.get("case_id", number),
        "prompt": record.get("prompt"),
        "subject": record.get("subject"),
        "target_new": record["target_new"],
        "target_true": _first(record.get("ground_truth")) or None,
        "paraphrase_prompts": rephrase if isinstance(rephrase, list) else [rephrase],
        "locality": _probes(record.get("locality")),
        "portability": _probes(record.get("portability")),
    }


def _probes(groups: Any) -> Any:
    """{kind: [{"prompt", "ground_truth"}, …]} as one list; what is not of that shape stays, to be refused by name."""
    if not isinstance(groups, dict):
        return groups
    items = [
        item
        for group in groups.values()
        for item in (group if isinstance(group, list) else [group])
    ]
    return [
        {"prompt": _first(item.get("prompt")), "answer": _first(item.get("ground_truth"))}
        if isinstance(item, dict)
        else item
        for item in items
    ]


def _first(value: Any) -> Any:
    """The first of lists within lists: [["Berlin", "DE-BE"]] is "Berlin"."""
    while isinstance(value, list):
        value = value[0] if value else None
    return value


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _jsonl(path: Path) -> Any:
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def _csv(path: Path) -> Any:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [_row(row, i) for i, row in enumerate(csv.DictReader(file, strict=True))]


def _row(row: dict[str | None, Any], number: int) -> dict[str, Any]:
    """A row's cells; empty ones are left out, and more cells than columns are refused."""
    if None in row:
        raise csv.Error(
            f"row {number} has more cells than there are columns; put quotes around cells with commas"
        )
    record: dict[str, Any] = {name: cell for name, cell in row.items() if cell and cell.strip()}
    for name in LISTS & record.keys():
        record[name] = (
            json.loads(record[name]) if record[name].lstrip().startswith("[") else [record[name]]
        )
    case_id = record.get("case_id", number)
    return record | {
        "case_id": int(case_id) if isinstance(case_id, str) and case_id.isdecimal() else case_id
    }


def _parquet(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


READERS = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
"""Reader of each kind of file."""
