"""Writing files and folders atomically: each appears whole or not at all.

Everything is made in a new folder beside its place, which nobody else can know, and then renamed
into place. Missing parent folders are made. Only what carries `OWN` in its name is ever removed as
left over, and a folder is replaced only if a marker in it says that the same command made it.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

OWN = ".seqedit-"
"""Part of the names of locks, and of the folders in which something is being made."""


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256 digest."""
    return sha256(path)[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically; a line break stays what it is."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically."""
    with making(path) as part, _told_of(path):
        part.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON atomically, as `finite` makes it.

    What UTF-8 cannot hold, such as a path with other bytes, is written as JSON's escapes.
    """
    text = json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode(errors="backslashreplace"))


def finite(value: Any) -> Any:
    """A value with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def whole_folder(out: Path, marker: str | None = None) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end of the `with` block it takes the place of `out`.

    After an exception `out` is as before.

    Args:
        out: the folder.
        marker: name of a file, which the caller writes into the new folder. A folder that holds it
            is one that was made here earlier, and is replaced.

    Raises:
        ValueError: see `check_replaceable`; or a folder to be replaced holds a file that the new
            one lacks.
    """
    check_replaceable(out, marker)
    with making(out) as part:
        part.mkdir()
        yield part
        check_replaceable(out, marker)  # something may have come meanwhile
        if out.exists():
            if foreign := sorted(set(os.listdir(out)) - set(os.listdir(part))):
                raise ValueError(
                    f"out: {out} holds {foreign[0]}, which would be lost; move it elsewhere, or "
                    "choose another folder"
                )


def check_replaceable(out: Path, marker: str | None = None) -> None:
    """Check that a folder can be written without removing anything that was not made here.

    Args:
        out: the folder.
        marker: see `whole_folder`; without one, nothing may be there.

    Raises:
        ValueError: something is there that has no such marker in it.
    """
    there = out.exists() or out.is_symlink()
    if there and (marker is None or out.is_symlink() or not (out / marker).is_file()):
        unknown = "" if marker is None else f" and holds no {marker}, so it was not made here"
        raise ValueError(f"out: {out} exists already{unknown}; choose another name, or remove it")


def cache_folder() -> Path:
    """Return the folder for computed files: `SEQEDIT_CACHE`, or `~/.cache/seqedit`."""
    return Path(os.environ.get("SEQEDIT_CACHE", Path.home() / ".cache" / "seqedit"))


@contextmanager
def alone(path: Path, say: Callable[[str], object] = lambda text: None) -> Iterator[None]:
    """Let only one process at a time be inside the `with` block for the same `path`.

    A process that comes later waits. The lock is a file beside `path`, so that it holds for every
    user and machine that sees the folder, as far as its file system has locks. The operating system
    releases it however a process ends, `kill -9` included; the file is removed at the end. What
    killed processes left half made, beside `path` or in it, is removed first.

    Args:
        path: what the processes work on; it need not exist.
        say: receives a line if the process has to wait.
    """
    try:
        lock = path.resolve().with_name(f".{path.name}{OWN}lock")
    except RuntimeError as error:  # a symbolic link to itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with _told_of(path):
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
        remove_leftovers(lock.parent, path.name)
        if path.is_dir():
            remove_leftovers(path)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(file)


@contextmanager
def making(path: Path) -> Iterator[Path]:
    """Yield a place in a new folder beside `path`; what is made there takes the place of `path`.

    Its files get the permissions that new files have, and are on the disk before they take their
    place. The folder is locked meanwhile, which tells it from what a killed process left.
    """
    with _told_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        room, lock = _locked_folder(path)
    part = room / "new"
    try:
        yield part
        for file in [part] if part.is_file() else sorted(part.rglob("*")):
            if file.is_file():
                _to_disk(file, room)
        _put(part, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(room, ignore_errors=True)
        os.close(lock)


def _put(part: Path, path: Path) -> None:
    """Rename `part` to `path`; a folder cannot replace another one, which steps aside first."""
    if not part.is_dir() or not path.is_dir():
        os.replace(part, path)
        return
    before = part.with_name("old")
    os.replace(path, before)
    try:
        os.replace(part, path)
    except BaseException:
        os.replace(before, path)
        raise


def _locked_folder(path: Path) -> tuple[Path, int]:
    """A new folder beside `path` and its lock."""
    while True:
        room = Path(tempfile.mkdtemp(prefix=f".{path.name}{OWN}", dir=path.parent))
        try:
            lock = os.open(room, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError):  # another process takes it for a leftover
            continue
        if _is_there(room, lock):
            return room, lock


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove from a folder what killed processes left half made of files whose names begin so."""
    for entry in os.scandir(folder):
        if not (entry.name.startswith(f".{name}") and OWN in entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # locked, or another user's
                lock = os.open(entry.path, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry.path)
                finally:
                    os.close(lock)


def _to_disk(file: Path, room: Path) -> None:
    """Wait until a file is on the disk, and give it the permissions of a new one.

    Those are its own already, but for the files of safetensors, which are made as secret ones.
    """
    sample = room / "permissions"
    sample.touch()
    if file.stat().st_mode != sample.stat().st_mode:
        file.chmod(sample.stat().st_mode)
    with file.open("rb") as content:
        os.fsync(content.fileno())


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can tell."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Errors of the operating system inside name `path`, not what is made beside it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _is_there(path: Path, file: int) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
