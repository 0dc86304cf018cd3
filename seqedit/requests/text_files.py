"""The text of a file, packed or not, in UTF-8."""

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

from .plain import RequestError

MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": 'UTF-16, as Excel\'s "Unicode Text" is',
    b"\xfe\xff": 'UTF-16, as Excel\'s "Unicode Text" is',
}
"""Byte-order marks of other encodings → their names."""

ADVICE = 'save it in UTF-8 (in Excel: "CSV UTF-8"; in pandas: encoding="utf-8")'


def kind_of(path: Path) -> str:
    """The ending that says what kind of file it is: ".csv" of "a.CSV.gz"."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in PACKED:
        endings.pop()
    return endings[-1] if endings else ""


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked.

    Raises:
        OSError: it cannot be read.
        ValueError: it is packed and damaged, or packs several files.
    """
    unpack = PACKED.get(path.suffix.lower())
    if unpack is None:
        return path.read_bytes()
    try:
        return unpack(path)
    except (EOFError, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"it is no whole {path.suffix} file: {error}") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it has another encoding; the message says where that shows.
    """
    content = read_bytes(path)
    for mark, name in MARKS.items():
        if content.startswith(mark):
            raise ValueError(f"it is {name}; {ADVICE}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        begin = content.rfind(b"\n", 0, error.start) + 1
        byte = content[error.start : error.start + 1]
        raise ValueError(
            f"line {line}: byte 0x{byte.hex()} at place {error.start - begin + 1} is not UTF-8 (in "
            f"Windows-1252 it is {byte.decode('cp1252', 'replace')!r}); {ADVICE}"
        ) from error


def _unzip(path: Path) -> bytes:
    """The only file of a .zip archive."""
    with zipfile.ZipFile(path) as archive:
        names = [
            name
            for name in archive.namelist()
            if not name.endswith("/") and not name.startswith("__MACOSX")
        ]
        if len(names) != 1:
            raise ValueError(f"it packs {len(names)} files; pack the one with the requests")
        return archive.read(names[0])


PACKED: dict[str, Callable[[Path], bytes]] = {
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
    ".bz2": lambda path: bz2.decompress(path.read_bytes()),
    ".xz": lambda path: lzma.decompress(path.read_bytes()),
    ".zip": _unzip,
}
"""Ending of a packed file → what unpacks it."""

NOT_READ = {
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt", ".pth"),
        "a pickle can run code when it is opened and is never read; write the records as JSON, "
        'for example with pandas: frame.to_json("requests.json", orient="records")',
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), 'save the sheet as "CSV UTF-8"'),
}
"""Ending of a file that is not read → what to do instead."""


def check_kind(path: Path, kind: str, known: list[str]) -> None:
    """Refuse a kind of file that has no reader. Raises RequestError."""
    if kind not in known:
        advice = NOT_READ.get(kind)
        raise RequestError(
            f"{path}: a file of requests ends in {', '.join(known)}, or in one of these and "
            f"{', '.join(PACKED)}" + (f"; {advice}" if advice else "")
        )
