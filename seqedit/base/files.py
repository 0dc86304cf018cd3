"""Files appear whole or not at all."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file through a temporary neighbour, then rename it into place."""
    part = _part(path)
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file through a temporary neighbour, then rename it into place."""
    part = _part(path)
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """safetensors, through a temporary neighbour; tensors are made contiguous and moved to the CPU."""
    part = _part(path)
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        part,
        metadata,
    )
    os.replace(part, path)


def cache_folder() -> Path:
    """SEQEDIT_CACHE, or ~/.cache/seqedit."""
    return Path(os.environ.get("SEQEDIT_CACHE", Path.home() / ".cache" / "seqedit"))


@contextmanager
def alone(path: Path, say=lambda text: None) -> Iterator[None]:
    """Inside, no other process is inside for the same `path`; one that comes later waits.

    The operating system lets go however a process ends, kill -9 included. Processes on several machines exclude each
    other where they share the cache folder.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16], "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{path}: another process works on it; waiting for its end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _part(path: Path) -> Path:
    """The temporary neighbour; named by process, so that two runs may fill the same cache."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, shortened."""
    return sha256(path)[:16]
