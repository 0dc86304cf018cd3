"""The benchmarks of the field by name: where their records are, at which revision, and what is loaded of them.

`seqedit edit --requests zsre` fetches what a file given by its path would hold: from the hub at a pinned revision, or
from the authors' server with a pinned checksum. Fetched once, a benchmark is read from the cache.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.files import sha256
from ..base.paths import find_requests
from .formats import read_rounds
from .request import (
    EditRequest,
    RequestError,
    load_rounds,
    usable_requests,
)

BAULAB = "https://memit.baulab.info/data/dsets"
"""Where ROME's and MEMIT's authors keep their data."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A published set of edit requests.

    Attributes:
        about: what it is, with its source.
        files: file → SHA-256 of its content, None where only what was loaded can be recorded.
        hub: dataset id on the hub; empty: `files` lie at `BAULAB`.
        revision: full commit hash on the hub.
        by_hand: where one file with all of it is, for machines without a network.
        order: field by which the files' records are sorted where they were shuffled into several files.
    """

    about: str
    files: dict[str, str | None]
    by_hand: str
    hub: str = ""
    revision: str = ""
    order: str = ""


BENCHMARKS = {
    "counterfact": Benchmark(
        about="CounterFact (2202.05262), 21,919 records, in the authors' order",
        by_hand=f"{BAULAB}/counterfact.json",
        hub="azhx/counterfact",
        revision="c01c413f856ee38f5c080c9fc5e87aff478e2ff9",
        order="case_id",
        files={
            "data/train-00000-of-00001-05d11247db7abce8.parquet": "af168d40d0d6ff6caf6263b8c82a0240b39dbe2a7472ebbb5fc635398a4893e0",
            "data/test-00000-of-00001-bacb83500fca49a9.parquet": "c7b37802e6ae381998dadac86e8fe89e241c29c356f67448a1700227dd7ba22c",
        },
    ),
    "mcf": Benchmark(
        about="MultiCounterFact, CounterFact without contradictions (2210.07229), 20,877 records",
        by_hand=f"{BAULAB}/multi_counterfact.json",
        files={"multi_counterfact.json": None},
    ),
    "zsre": Benchmark(
        about="ZsRE as prepared for MEND (2110.11309), evaluation part, 19,086 records",
        by_hand=f"{BAULAB}/zsre_mend_eval.json",
        files={
            "zsre_mend_eval.json": "8a371d512f8a6ab175db4ef672181d5c0e52da23298cb51e5a2eeea2f89aa9cd"
        },
    ),
    "wikidata_counterfact": Benchmark(
        about="WikiData_counterfact of KnowEdit (2401.01286), test part",
        by_hand="https://huggingface.co/datasets/zjunlp/KnowEdit/resolve/main/benchmark/wiki_counterfact/test_cf.json",
        hub="zjunlp/KnowEdit",
        revision="c3a6bccb5fc37a59dea3197ac36526d44606acd0",
        files={
            "benchmark/wiki_counterfact/test_cf.json": "efc01ba398dfe04975939f729aab45523addb3c6b3cf41d7429ba5de1d45225b"
        },
    ),
}
"""Benchmarks by the name that ``--requests`` takes."""


@dataclass(frozen=True)
class Loaded:
    """Edit requests and where they came from.

    Attributes:
        rounds: the requests, in the file's rounds; one round where it gives none.
        left_out: reason → messages, one for each record that was left out.
        origin: SHA-256 of a file (shortened), or a benchmark's name, revision and whole checksums.
    """

    rounds: list[list[EditRequest]]
    left_out: dict[str, list[str]]
    origin: str | dict[str, Any]

    def summary(self) -> str:
        """What was left out, in a line; empty where nothing was."""
        counts = ", ".join(
            f"{len(messages)} {reason}" for reason, messages in self.left_out.items()
        )
        kept = sum(map(len, self.rounds))
        total = kept + sum(map(len, self.left_out.values()))
        first = next((messages[0] for messages in self.left_out.values()), "")
        return f"{kept} of {total} records; left out: {counts}. The first: {first}" if first else ""


def load_requests(requests: Path | str, *, clean: bool = False) -> list[EditRequest]:
    """Return the edit requests of a file or of a benchmark, in order.

    See `load`, which also tells rounds, what was left out, and the origin.
    """
    return [request for batch in load(requests, clean=clean).rounds for request in batch]


def load(requests: Path | str, *, clean: bool = False) -> Loaded:
    """The requests of a benchmark by name, or of a file.

    Args:
        requests: a name in `BENCHMARKS`, "world" for the records of the embedded world, or a .json, .jsonl,
            .csv or .parquet file in any of the schemas of `seqedit.requests.formats`.
        clean: leave out what cannot be edited together (see `usable_requests`); a benchmark by name always is cleaned.

    Raises:
        RequestError: a record is wrong, where `clean` is not asked for, or none is left; the file is not there.
        ValueError: a benchmark cannot be fetched, or is not the pinned one.
    """
    name = str(find_requests(requests))
    if name in BENCHMARKS and not Path(name).is_file():
        return _benchmark(name)
    if not Path(name).suffix:
        raise RequestError(
            f"requests: {name!r} is neither a file nor a benchmark; "
            f"benchmarks are {', '.join(BENCHMARKS)}"
        )
    rounds, left_out = (
        usable_requests(read_rounds(name), Path(name).name) if clean else (load_rounds(name), {})
    )
    return Loaded(rounds, left_out, sha256(Path(name))[:16])


def _benchmark(name: str) -> Loaded:
    benchmark, records, checksums = BENCHMARKS[name], [], {}
    for file, expected in benchmark.files.items():
        path = download(name, file)
        checksums[file] = sha256(path)
        if expected not in (None, checksums[file]):
            raise ValueError(
                f"requests: {name}: {file} has SHA-256 {checksums[file]}, not the pinned {expected}; to "
                f"use another version, get the file and give it by its path, --requests {file}"
            )
        records += [record for batch in read_rounds(path, Path(file).suffix) for record in batch]
    if benchmark.order:
        records.sort(key=lambda record: record[benchmark.order])
    origin = {"benchmark": name, "revision": benchmark.revision or None, "sha256": checksums}
    return Loaded(*usable_requests([records], name), origin)


def download(name: str, file: str) -> Path:
    """Local path of a benchmark's file, from the cache where it was fetched before.

    Raises:
        ValueError: it cannot be fetched; the message says where to get it by hand.
    """
    from datasets import DownloadManager
    from huggingface_hub import hf_hub_download

    benchmark = BENCHMARKS[name]
    try:
        if benchmark.hub:  # a pinned file in the cache is found without a network
            return Path(
                hf_hub_download(
                    benchmark.hub, file, repo_type="dataset", revision=benchmark.revision
                )
            )
        return Path(DownloadManager(dataset_name=name).download(f"{BAULAB}/{file}"))
    except Exception as error:  # every layer below has network errors of its own
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise ValueError(
            f"requests: {name} cannot be fetched ({reason}); get {benchmark.by_hand} where there is a "
            f"network, and give the file: --requests {Path(benchmark.by_hand).name}"
        ) from error
