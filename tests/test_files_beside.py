"""Files beside the requests: with a byte-order mark, nested without end, with odd metadata."""

import codecs
import json

import pytest
import torch
from safetensors.torch import save_file
from workspace import Workspace, content

from seqedit.base.jsonl import read_jsonl
from seqedit.evaluation.consistency import load_references
from seqedit.lm.architecture import declare_file
from seqedit.moments.cache import read_corpus
from seqedit.moments.corpus import Corpus
from seqedit.moments.files import load_moments


@pytest.fixture
def space(tmp_path, tiny_folder, monkeypatch) -> Workspace:
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    return Workspace(tmp_path, tiny_folder)


def test_byte_order_marks(space):
    """As Windows editors write them: the run is the same to the bit."""
    kept = space.write("kept.jsonl", json.dumps({"prompt": "Ada is", "target": "old"}))
    text = space.write("text.txt", "The town is quiet.")
    given = {"kept": kept, "perplexity_text": text}
    assert space.call(**given).exit_code == 0
    for name in ("contexts.json", "hyper.json", "corpus.txt", "kept.jsonl", "text.txt"):
        path = space.folder / name
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    result = space.call(**given, out=space.folder / "marked")
    assert result.exit_code == 0, result.output
    assert content(space.folder / "marked") == content(space.out)
    assert list(Corpus(file=text).texts()) == ["The town is quiet."]
    assert read_corpus(text) == ["The town is quiet."]


@pytest.mark.parametrize("text", ["[" * 100_000, "\ufeff" * 2 + "[]"])
def test_files_that_are_no_json(tmp_path, text):
    """One line with the name of the file, whatever Python's reader raises."""
    path = tmp_path / "a.json"
    path.write_text(text)
    for read in (read_jsonl, load_references, declare_file):
        with pytest.raises(ValueError, match="a.json") as raised:
            read(path)
        assert len(str(raised.value)) < 1000 and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"counts": "x"},
        {"counts": "[1]"},
        {"counts": '{"a": 1}'},
        {"counts": '{"0": "x"}'},
        {"counts": '{"0": -1}'},
        {"counts": '{"0": true}'},
        {"about": "[1]"},
        {"seqedit": "x"},
        {"seqedit": "[1]"},
        {"seqedit": '{"counts": 5}'},
    ],
)
def test_metadata_of_second_moments(tmp_path, metadata):
    """Refused with the name of the file; without metadata the same tensors are read."""
    path = tmp_path / "m.safetensors"
    save_file({"C.0": torch.eye(4)}, path, metadata)
    with pytest.raises(ValueError, match="m.safetensors cannot be read as second moments"):
        load_moments(path)
    save_file({"C.0": torch.eye(4)}, path)
    assert torch.equal(load_moments(path).C[0], torch.eye(4))


def test_a_device_without_content(space):
    result = space.call(device="meta")
    assert result.exit_code == 2 and "'meta' cannot be used" in result.stderr
