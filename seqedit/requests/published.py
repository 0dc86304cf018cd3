"""Load edit requests from a file, or from a published benchmark by its name.

`seqedit edit --requests zsre` fetches the benchmark's files from the Hugging Face hub at a pinned
revision, or from the authors' server with a pinned checksum. Once fetched they are read from the
cache.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.files import file_digest, sha256
from ..base.paths import find_requests
from .arrow_files import saved_files
from .benchmarks import BENCHMARKS, download
from .fields import unused_remark
from .formats import read_rounds
from .layouts import KNOWN
from .request import (
    EditRequest,
    RequestError,
    load_rounds,
    usable_requests,
)


@dataclass(frozen=True)
class RequestSet:
    """Edit requests with their origin.

    Attributes:
        rounds: the requests in the file's rounds; one round if the file has none.
        left_out: reason → messages, one for each record that was left out.
        origin: shortened SHA-256 of a file; or a benchmark's name, revision and full checksums.
    """

    rounds: list[list[EditRequest]]
    left_out: dict[str, list[str]]
    origin: str | dict[str, Any]

    @property
    def requests(self) -> list[EditRequest]:
        """The requests of all rounds, in order."""
        return [request for batch in self.rounds for request in batch]

    @property
    def left_out_probes(self) -> list[str]:
        """A message about every probe that cannot be used; its request is edited all the same."""
        return [message for request in self.requests for message in request.left_out_probes]

    @property
    def unused(self) -> dict[str, int]:
        """Field that is not read → number of requests whose records have it."""
        return dict(Counter(name for request in self.requests for name in request.unused))

    @property
    def read_otherwise(self) -> dict[str, list[str]]:
        """What was done in reading → messages, one for each record that it was done to."""
        found: dict[str, list[str]] = {}
        for remark in (remark for request in self.requests for remark in request.remarks):
            found.setdefault(remark.what, []).append(remark.message)
        return found

    def remarks(self) -> list[str]:
        """What a user should know: what was left out, not read, or read with a choice."""
        found = [self.summary()] if self.left_out else []
        if probes := self.left_out_probes:
            found.append(f"{len(probes)} probes cannot be used. The first: {probes[0]}")
        if unused := self.unused:
            found.append(unused_remark(unused, KNOWN))
        for what, messages in self.read_otherwise.items():
            found.append(f"{len(messages)} {what}. The first: {messages[0]}")
        return found

    def record(self) -> dict[str, Any]:
        """The same for the record of a run; empty if there is nothing to say."""
        said = {reason: _counted(messages) for reason, messages in self.left_out.items()}
        read = {what: _counted(messages) for what, messages in self.read_otherwise.items()}
        probes = self.left_out_probes
        entries = {
            "left_out": said,
            "left_out_probes": _counted(probes) if probes else {},
            "unused_fields": self.unused,
            "read_otherwise": read,
        }
        return {name: value for name, value in entries.items() if value}

    def summary(self) -> str:
        """One line on the records that were left out; empty if none was."""
        if not self.left_out:
            return ""
        counts = [f"{len(messages)} {reason}" for reason, messages in self.left_out.items()]
        kept = len(self.requests)
        total = kept + sum(map(len, self.left_out.values()))
        first = next(iter(self.left_out.values()))[0]
        return f"{kept} of {total} records; left out: {', '.join(counts)}. The first: {first}"


def _counted(messages: list[str]) -> dict[str, Any]:
    return {"count": len(messages), "first": messages[0]}


def load_requests(source: Path | str, *, clean: bool = False) -> list[EditRequest]:
    """Load the edit requests of a published benchmark by its name, or of a file by its path.

    See `load_request_set`, which also returns the rounds, what was left out, and the origin.
    """
    return load_request_set(source, clean=clean).requests


def load_request_set(source: Path | str, *, clean: bool = False) -> RequestSet:
    """Load the requests of a published benchmark by its name, or of a file by its path.

    Args:
        source: a name in `BENCHMARKS`; "world", the records of the embedded world; "facts",
            those of `data/facts` about the real world; or a file of a kind of
            `seqedit.requests.formats.READERS` in any schema, or a folder that `datasets` saved. A
            file takes precedence over a benchmark of its name.
        clean: leave out the records of a file that cannot be edited together, see
            `usable_requests`. Those of a benchmark by name are always left out.

    Raises:
        RequestError: the file cannot be read; a record is wrong and `clean` is not set; or no
            record is left.
        ValueError: a benchmark cannot be fetched, or its content is not the pinned one.
    """
    name = str(find_requests(source))
    if name in BENCHMARKS and not Path(name).is_file():
        return _load_benchmark(name)
    if not Path(name).suffix and not Path(name).is_dir():
        raise RequestError(
            f"requests: {name!r} is neither a file nor a benchmark; "
            f"benchmarks are {', '.join(BENCHMARKS)}"
        )
    if clean:
        rounds, left_out = usable_requests(read_rounds(name), Path(name).name)
    else:
        rounds, left_out = load_rounds(name), {}
    return RequestSet(rounds, left_out, _digest(Path(name)))


def _digest(path: Path) -> str:
    """The digest of a file, or those of the files of a folder that `datasets` saved."""
    files = saved_files(path) if path.is_dir() else [path]
    return "+".join(map(file_digest, files))


def _load_benchmark(name: str) -> RequestSet:
    """The usable requests of a benchmark. Raises ValueError, see `load_request_set`."""
    benchmark = BENCHMARKS[name]
    records: list[Any] = []
    checksums: dict[str, str] = {}
    for file, expected in benchmark.files.items():
        path = download(name, file)
        checksums[file] = sha256(path)
        if expected not in (None, checksums[file]):
            raise ValueError(
                f"requests: {name}: {file} has SHA-256 {checksums[file]}, not the pinned "
                f"{expected}; to use another version, get the file and give it by its path, "
                f"--requests {file}"
            )
        records += [record for batch in read_rounds(path, Path(file).suffix) for record in batch]
    if benchmark.order:
        records.sort(key=lambda record: record[benchmark.order])
    origin = {"benchmark": name, "revision": benchmark.revision or None, "sha256": checksums}
    return RequestSet(*usable_requests([records], name), origin)
