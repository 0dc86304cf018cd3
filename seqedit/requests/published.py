"""Load edit requests from a file, or from a published benchmark by its name.

`seqedit edit --requests zsre` fetches the benchmark's files from the Hugging Face hub at a pinned
revision, or from the authors' server with a pinned checksum. Once fetched they are read from the
cache.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.files import file_digest, sha256
from ..base.paths import OUTPUT, find_requests
from .arrow_files import saved_files
from .fields import unused_remark
from .formats import read_rounds
from .layouts import KNOWN
from .request import (
    EditRequest,
    RequestError,
    load_rounds,
    usable_requests,
)

BAULAB = "https://memit.baulab.info/data/dsets"
"""Address of the data of ROME's and MEMIT's authors."""

THOUSANDS = (
    "https://raw.githubusercontent.com/bhimanbaghel/ResolveUnderOverEdit/"
    "f1bb44096e8b8a9c26cf4501fec141d5b824fcad/data/mcf_random_subsets_1000"
)
"""Address of disjoint thousands of MultiCounterFact, which the authors of 2503.11895 drew."""


def benchmarks_folder() -> Path:
    """The folder for files of benchmarks got by hand; SEQEDIT_BENCHMARKS names another."""
    return Path(os.environ.get("SEQEDIT_BENCHMARKS", OUTPUT / "benchmarks"))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A published set of edit requests.

    Attributes:
        about: what it is, with its source.
        files: file → SHA-256 of its content, or None if it is not known in advance; the checksum
            found is recorded in either case.
        hub: id of the dataset on the hub; empty if the files are at `address`.
        by_hand: address of one file with all of a dataset on the hub, to be fetched for machines
            without a network.
        address: of the folder of the files.
        revision: full commit hash on the hub.
        order: field by which the records are sorted, if they were shuffled into several files.
    """

    about: str
    files: dict[str, str | None]
    hub: str = ""
    by_hand: str = ""
    address: str = BAULAB
    revision: str = ""
    order: str = ""


_THOUSAND = {
    1: "0ba70e123cdbdef8c033aa3bc81959f2c06e619300ba0ad88dcd9ec3bee3a3fa",
    2: "0305834f9ca80a76ff61d0ffe10b60f250fda6e03aa0ffeb179f509fe05a9e5e",
    4: "6c6c18db39a4f62234f2eb5aad627a877f922e899f1596123b4e85a8bc041910",
}
"""Number of a thousand → SHA-256 of its file."""


def _thousands(*numbers: int) -> Benchmark:
    """Some of the thousands of MultiCounterFact, in this order."""
    return Benchmark(
        about=f"{len(numbers)},000 records of MultiCounterFact, drawn at random (2503.11895); "
        f"subsets {', '.join(map(str, numbers))} of those at {THOUSANDS}",
        address=THOUSANDS,
        files={f"random_subset_{number}.json": _THOUSAND[number] for number in numbers},
    )


BENCHMARKS = {
    "counterfact": Benchmark(
        about="CounterFact (2202.05262), 21,919 records, in the authors' order",
        by_hand=f"{BAULAB}/counterfact.json",
        hub="azhx/counterfact",
        revision="c01c413f856ee38f5c080c9fc5e87aff478e2ff9",
        order="case_id",
        files={
            "data/train-00000-of-00001-05d11247db7abce8.parquet": (
                "af168d40d0d6ff6caf6263b8c82a0240b39dbe2a7472ebbb5fc635398a4893e0"
            ),
            "data/test-00000-of-00001-bacb83500fca49a9.parquet": (
                "c7b37802e6ae381998dadac86e8fe89e241c29c356f67448a1700227dd7ba22c"
            ),
        },
    ),
    "mcf": Benchmark(
        about="MultiCounterFact, CounterFact without contradictions (2210.07229), 20,877 records",
        files={"multi_counterfact.json": None},
    ),
    "mcf-1000": _thousands(1),
    "mcf-3000": _thousands(1, 2, 4),
    "zsre": Benchmark(
        about="ZsRE as prepared for MEND (2110.11309), evaluation part, 19,086 records",
        files={
            "zsre_mend_eval.json": (
                "8a371d512f8a6ab175db4ef672181d5c0e52da23298cb51e5a2eeea2f89aa9cd"
            )
        },
    ),
    "wikidata_counterfact": Benchmark(
        about="WikiData_counterfact of KnowEdit (2401.01286), test part",
        by_hand=(
            "https://huggingface.co/datasets/zjunlp/KnowEdit/resolve/main/"
            "benchmark/wiki_counterfact/test_cf.json"
        ),
        hub="zjunlp/KnowEdit",
        revision="c3a6bccb5fc37a59dea3197ac36526d44606acd0",
        files={
            "benchmark/wiki_counterfact/test_cf.json": (
                "efc01ba398dfe04975939f729aab45523addb3c6b3cf41d7429ba5de1d45225b"
            ),
        },
    ),
}
"""Benchmark by the name that ``--requests`` takes."""


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


def download(name: str, file: str) -> Path:
    """Fetch a file of a benchmark, unless it is there, and return its local path.

    It is there if it was fetched before, or lies under its name in `benchmarks_folder`.

    Args:
        name: in `BENCHMARKS`.
        file: one of the benchmark's `files`.

    Raises:
        ValueError: the file cannot be fetched; the message says where to get it by hand.
    """
    from datasets import DownloadManager
    from huggingface_hub import hf_hub_download

    benchmark = BENCHMARKS[name]
    by_hand = benchmarks_folder() / Path(file).name
    if by_hand.exists():
        return by_hand
    try:
        if benchmark.hub:  # a pinned file in the cache is found without a network
            return Path(
                hf_hub_download(
                    benchmark.hub, file, repo_type="dataset", revision=benchmark.revision
                )
            )
        return Path(DownloadManager(dataset_name=name).download(f"{benchmark.address}/{file}"))
    except Exception as error:  # every layer below has network errors of its own
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if benchmark.hub:
            address = benchmark.by_hand
            then = f"give the file: --requests {Path(address).name}"
        else:
            address = f"{benchmark.address}/{file}"
            then = f"put it into {benchmarks_folder()}, or the folder that SEQEDIT_BENCHMARKS names"
        raise ValueError(
            f"requests: {name} cannot be fetched ({reason}); get {address} where there is a "
            f"network, and {then}"
        ) from error
