"""Published sets of edit requests: where their files are, and how they are fetched and checked."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..base.paths import OUTPUT

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


def is_at_hand(name: str) -> bool:
    """Whether all files of a benchmark lie in `benchmarks_folder`; true of any other name."""
    files = BENCHMARKS[name].files if name in BENCHMARKS else ()
    return all((benchmarks_folder() / Path(file).name).exists() for file in files)


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
