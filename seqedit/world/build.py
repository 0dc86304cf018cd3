"""Writes the world's records: everything under data/world is made here from a seed, byte for byte."""

import json
import os
from pathlib import Path

from .corpus import Corpus
from .facts import (
    build_world,
    fact_rows,
    make_records,
    reversal_records,
)
from .tasks import test_items
from .vocabulary import BY_NAME

CORPUS_DOCUMENTS = 4000  # for second moments, about 75,000 tokens
HELDOUT_DOCUMENTS = 400  # for perplexity


def write_world(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write all files of the world into `folder`; returns how many rows each file has.

    records.json, calibration.json and reversal.json follow CounterFact's schema; corpus.txt and heldout.txt
    hold one document a line, drawn from streams that training never reads.
    """
    world = build_world(seed)
    records = make_records(world, "edit", seed)
    files = {
        "records.json": records,
        "calibration.json": make_records(world, "calibration", seed, first_id=100_000),
        "reversal.json": reversal_records(world, seed),
        "facts.jsonl": fact_rows(world),
        "tasks.jsonl": test_items(world),
        "unrelated.jsonl": [
            {"prompt": template.format(fact.subject), "target": fact.object}
            for fact in world.of_split("kept")
            for template in BY_NAME[fact.relation].train[:1]
        ],
        "corpus.txt": Corpus(world, seed + 1).documents(0, CORPUS_DOCUMENTS),
        "heldout.txt": Corpus(world, seed + 2).documents(0, HELDOUT_DOCUMENTS),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        part = folder / (name + ".part")
        part.write_text(_text(name, rows), encoding="utf-8")
        os.replace(part, folder / name)
    return {name: len(rows) for name, rows in files.items()}


def _text(name: str, rows: list) -> str:
    """One row a line, so that differences between versions are readable."""
    if name.endswith(".txt"):
        return "\n".join(rows) + "\n"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return (
        "[\n" + ",\n".join(lines) + "\n]\n" if name.endswith(".json") else "\n".join(lines) + "\n"
    )
