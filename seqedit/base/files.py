"""Writing files and folders atomically: each appears whole or not at all.

Everything is written to a temporary neighbour, which is then renamed into place. Missing parent
folders are made.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256 digest."""
    return sha256(path)[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
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
    """Write a value as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file atomically: the same tensors give the same bytes.

    Args:
        path: the file.
        tensors: by name, of any shapes; copies on the CPU, made contiguous, are written.
        metadata: texts for the file's header, which `read_metadata` reads.
    """
    part = _part(path)
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        part,
        # under one name, since safetensors writes several in any order
        None if metadata is None else {METADATA: json.dumps(metadata, sort_keys=True)},
    )
    with open(part, "rb") as file:  # on the disk before any record says that it is finished
        os.fsync(file.fileno())
    os.replace(part, path)


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 digest of tensors: of their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


METADATA = "seqedit"
"""The name in a file's header under which `save_tensors` puts all metadata."""


def read_metadata(file: Any) -> dict[str, str]:
    """The metadata of an open safetensors file; of a file by others, its own."""
    metadata = file.metadata() or {}
    return json.loads(metadata[METADATA]) if METADATA in metadata else metadata


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end of the `with` block it takes the place of `out`.

    After an exception `out` is as before. What an interrupted call left behind is removed first.
    """
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)


def cache_folder() -> Path:
    """Return the folder for computed files: `SEQEDIT_CACHE`, or `~/.cache/seqedit`."""
    return Path(os.environ.get("SEQEDIT_CACHE", Path.home() / ".cache" / "seqedit"))


@contextmanager
def alone(path: Path, say: Callable[[str], object] = lambda text: None) -> Iterator[None]:
    """Let only one process at a time be inside the `with` block for the same `path`.

    A process that comes later waits. The lock is a file beside `path`, so that it holds for every
    user and machine that sees the folder, as far as its file system has locks. The operating system
    releases it however a process ends, `kill -9` included; the file is removed at the end.

    Args:
        path: what the processes work on; it need not exist.
        say: receives a line if the process has to wait.
    """
    lock = path.resolve().with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{path}: another process is working on it; waiting until it has finished")
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_there(lock, file):
            break
        os.close(file)  # the one before has removed it meanwhile
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(file)


def _is_there(path: Path, file: int) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _part(path: Path) -> Path:
    """Return the temporary neighbour of a file, named by process; make its folder if needed.

    Two runs may therefore fill the same cache at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.{os.getpid()}.part")
