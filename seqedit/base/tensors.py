"""Files of tensors in safetensors, with metadata: the same tensors give the same bytes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import making


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file atomically: the same tensors give the same bytes.

    Args:
        path: the file.
        tensors: by name, of any shapes; copies on the CPU, made contiguous, are written.
        metadata: texts for the file's header, which `read_metadata` reads.

    Raises:
        OSError: the file cannot be written.
    """
    with making(path) as part:
        try:
            save_file(
                {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
                part,
                # under one name, since safetensors writes several in any order
                None if metadata is None else {METADATA: json.dumps(metadata, sort_keys=True)},
            )
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


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
    """The metadata of an open safetensors file; of a file by others, its own.

    Raises:
        ValueError: they say that they are ours, and are something else.
    """
    metadata = file.metadata() or {}
    if METADATA not in metadata:
        return metadata
    found = json.loads(metadata[METADATA])
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ValueError(f"its metadata are damaged: {metadata[METADATA]!r:.60}")
    return found


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file, open for reading tensor by tensor.

    The library opens no path that is not UTF-8. Such a file, which only Linux can hold, is opened
    by the number that the system gives it.
    """
    if _is_utf8(str(path)):
        with safe_open(path, framework="pt") as file:
            yield file
        return
    with open(path, "rb") as opened, safe_open(f"/proc/self/fd/{opened.fileno()}", "pt") as file:
        yield file


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: there is none, or it is damaged; the message names the file.
    """
    try:
        with open_tensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, read_metadata(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
