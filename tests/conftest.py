"""What all tests share: tiny random models of every architecture, requests, released numbers."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from tiny_models import (
    CONTEXTS,
    END,
    MODEL_TYPES,
    OWN_SIZES,
    SENTENCES,
    bits,
    build_lm,
    build_plan,
    build_tokenizer,
    changed,
    hook_count,
    relative,
)
from transformers import PreTrainedTokenizerFast

from seqedit.base.files import write_text
from seqedit.lm.model import LanguageModel
from seqedit.requests.request import EditRequest, parse_requests

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools"))  # released.py
__all__ = [  # for the tests, beside the fixtures
    "CONTEXTS",
    "END",
    "MODEL_TYPES",
    "OWN_SIZES",
    "ROOT",
    "SENTENCES",
    "bits",
    "build_lm",
    "build_plan",
    "build_tokenizer",
    "changed",
    "hook_count",
    "merge_errors",
    "relative",
]

torch.set_num_threads(1)
settings.register_profile("suite", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("suite")


# What the tests find, recorded for the book


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `make errors` and `make architectures`."""
    parser.addoption(
        "--record-errors",
        metavar="FILE",
        help="put the errors against oracles and released numbers into FILE",
    )
    parser.addoption(
        "--record-architectures", metavar="FILE", help="write the tables of architectures to FILE"
    )


Errors = dict[str, dict[str, float]]
"""method → "oracle" or "released" → the largest relative error."""


def merge_errors(path: Path, seen: Mapping[str, Mapping[str, float]]) -> Errors:
    """Put errors into a file: those seen replace their predecessors, and all others stay."""
    merged: Errors = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for method, own in seen.items():
        merged[method] = merged.get(method, {}) | dict(own)
    write_text(path, json.dumps(merged, indent=1, sort_keys=True) + "\n")
    return merged


@pytest.fixture(scope="session")
def errors(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str, float], float]]:
    """A function that takes method, kind and error, remembers the largest, and returns the error.

    At the end of the session they go into the file of --record-errors, where one is given.
    """
    seen: Errors = {}

    def record(method: str, against: str, error: float) -> float:
        own = seen.setdefault(method, {})
        own[against] = max(float(f"{error:.1e}"), own.get(against, 0.0))
        return error

    yield record
    file = request.config.getoption("--record-errors")
    if file and seen:
        merge_errors(Path(file), seen)


class Architectures:
    """What the tests find about each model type: column → value."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {name: {} for name in MODEL_TYPES}

    def __call__(self, model_type: str, **facts: str) -> None:
        """Record columns of one model type."""
        self.found[model_type] |= facts


@pytest.fixture(scope="session")
def architectures() -> Architectures:
    """The record of this session, e.g. `architectures("llama", edits="yes")`."""
    return Architectures()


# Folders of released numbers and of benchmarks


@pytest.fixture(scope="session", params=["reduced", "full"])
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of released results with the inputs that led to them.

    Every test that uses it runs with the reduced folder of the project, data/golden, and once more
    with the full one that it was made from, where SEQEDIT_GOLDEN names that.
    """
    if request.param == "reduced":
        from released import unpack_golden

        return unpack_golden(ROOT / "data" / "golden", tmp_path_factory.mktemp("golden"))
    if "SEQEDIT_GOLDEN" not in os.environ:
        pytest.skip("SEQEDIT_GOLDEN does not name the full folder of released numbers")
    return Path(os.environ["SEQEDIT_GOLDEN"])


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """The folder of real benchmark records; SEQEDIT_BENCHMARKS says where it is."""
    folder = Path(os.environ.get("SEQEDIT_BENCHMARKS", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}; name another with SEQEDIT_BENCHMARKS")
    return folder


# Tiny models


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny models, without BOS."""
    return build_tokenizer()


@pytest.fixture
def tiny_lm() -> Callable[..., LanguageModel]:
    """A function that makes tiny random models: `tiny_lm("llama", bos=True)`."""
    return build_lm


@pytest.fixture
def exact_lm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LanguageModel]:
    """`tiny_lm` in float64, attention included, which Gemma 2 would compute in float32."""
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda scores, dim, dtype=None: softmax(scores, dim)
    )

    def make(*args: Any, **kwargs: Any) -> LanguageModel:
        lm = build_lm(*args, **kwargs)
        lm.model.double()
        return lm

    return make


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny GPT-2 with its tokenizer, as `load_model` takes it."""
    folder = tmp_path_factory.mktemp("tiny")
    lm = build_lm("gpt2")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def space(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A `Workspace` with the saved tiny model and a cache of its own."""
    from workspace import Workspace  # which imports this module

    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    return Workspace(tmp_path, tiny_folder)


SIX_REQUESTS = (  # prompt, subject, new target, true target
    ("The mother tongue of {} is", "Danielle Darrieux", "Dutch", "French"),
    ("{} plays", "Zoë O'Brien", "polo in New York", "the cello"),
    ("The birthplace of {} is", "Huciol Davindrar", "Spain", "Elvinn"),
    ("A teacher in", "teacher", "the café of the old town", "Łódź"),
    ("Here comes {}", "André", ".", "a chemist"),
    ("The sport of {}, today, is", "Gamith", "basketball", "polo"),
)


@pytest.fixture
def requests() -> list[EditRequest]:
    """Six requests: subjects first, in the middle and last, targets of one to many tokens."""
    records = []
    for case_id, texts in zip((0, 1, 2, "3b", 4, 5), SIX_REQUESTS, strict=True):
        fields = zip(("prompt", "subject", "target_new", "target_true"), texts, strict=True)
        records.append({"case_id": case_id, **dict(fields)})
    return parse_requests(records)
