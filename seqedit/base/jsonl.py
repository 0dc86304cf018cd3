"""JSON lines."""

import json
from pathlib import Path


def read_lines(path: Path) -> list[dict]:
    """Objects of a .jsonl file; none where it does not exist."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )
