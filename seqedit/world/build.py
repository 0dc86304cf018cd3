"""Builds the files of the fictional world from a seed: the same seed gives the same bytes."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.files import alone, write_text
from .corpus import Corpus
from .facts import World, build_world, fact_rows
from .records import make_records, reversal_records
from .streams import subject_records
from .tasks import test_items
from .vocabulary import BY_NAME

CORPUS_DOCUMENTS = 4000  # for second moments, about 75,000 tokens
HELDOUT_DOCUMENTS = 400  # for perplexity


def write_world(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write all files of the world.

    `records.json`, `calibration.json` and `reversal.json` follow CounterFact's schema. `corpus.txt`
    and `heldout.txt` hold one document per line; they are drawn from streams that training never
    reads. What is asked to see the damage that edits do, `unrelated.jsonl`, `tasks.jsonl` and
    `heldout.txt`, is about facts that are never edited; `calibration_unrelated.jsonl` has other
    such facts for the choice of settings.

    Args:
        folder: where the files go.
        seed: of names, facts, records and texts.

    Returns:
        File name → number of rows.

    Raises:
        ValueError: a file of such a name is there with other content; nothing is written then.
    """
    world = build_world(seed)
    files: dict[str, Sequence[Any]] = {
        "records.json": make_records(world, "edit", seed),
        "calibration.json": _calibration_records(world, seed),
        "reversal.json": reversal_records(world, seed),
        "facts.jsonl": fact_rows(world),
        "tasks.jsonl": test_items(world),
        "unrelated.jsonl": _unrelated_rows(world, "kept"),
        "calibration_unrelated.jsonl": _unrelated_rows(world, "calibration_kept"),
        "corpus.txt": Corpus(world, seed + 1).documents(0, CORPUS_DOCUMENTS),
        "heldout.txt": Corpus(world, seed + 2, splits=("kept",)).documents(0, HELDOUT_DOCUMENTS),
    }
    texts = {folder / name: _text(name, rows) for name, rows in files.items()}
    with alone(folder):
        for path, text in texts.items():
            there = path.exists() or path.is_symlink()
            if there and not (path.is_file() and path.read_bytes() == text.encode()):
                raise ValueError(
                    f"out: {path} exists already with other content; choose another folder, or "
                    "remove the file"
                )
        for path, text in texts.items():
            write_text(path, text)
    return {name: len(rows) for name, rows in files.items()}


def _calibration_records(world: World, seed: int) -> list[dict[str, Any]]:
    """Return one record of each calibration subject, then another of its other fact.

    So there are enough of them for trials that last as long as a run must be to show its damage.
    """
    seen: Counter[str] = Counter()
    places = []
    for record in subject_records(world, "calibration", seed):
        subject = record["requested_rewrite"]["subject"]
        places.append((seen[subject], record))
        seen[subject] += 1
    ordered = [record for _, record in sorted(places, key=lambda place: place[0])]
    return [record | {"case_id": 100_000 + i} for i, record in enumerate(ordered)]


def _unrelated_rows(world: World, split: str) -> list[dict[str, str]]:
    """Return prompt and target of the facts of a split whose subjects are never edited."""
    rows = []
    for fact in world.of_split(split):
        template = BY_NAME[fact.relation].train[0]
        rows.append({"prompt": template.format(fact.subject), "target": fact.object})
    return rows


def _text(name: str, rows: Sequence[Any]) -> str:
    """Return a file's content with one row per line, so that differences are easy to read."""
    if name.endswith(".txt"):
        return "\n".join(rows) + "\n"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if name.endswith(".json"):
        return "[\n" + ",\n".join(lines) + "\n]\n"
    return "\n".join(lines) + "\n"
