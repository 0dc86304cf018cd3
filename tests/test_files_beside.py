"""Files beside the requests: with a byte-order mark, nested without end, with odd metadata."""

import codecs
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from workspace import content

from seqedit.algebra.second_moment import SecondMoment
from seqedit.base.jsonl import read_jsonl
from seqedit.base.tensors import save_tensors
from seqedit.evaluation.consistency import load_references
from seqedit.lm.architecture import declare_file
from seqedit.moments.cache import read_corpus
from seqedit.moments.compare import compare_files
from seqedit.moments.corpus import Corpus
from seqedit.moments.files import load_moments, save_moments
from seqedit.moments.merge import compact_file, merge_files
from seqedit.moments.released import import_released


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


def test_changed_second_moments(tmp_path, tiny_lm):
    """A bit of the tensors or of what is said of them; and files of before the digest are read."""
    path = tmp_path / "m.safetensors"
    moment = SecondMoment(4)
    moment.update(torch.eye(4))
    save_moments(path, {0: moment}, fingerprint="f", about={"corpus": "a"})
    assert load_moments(path).counts == {0: 4}
    whole = path.read_bytes()
    for old, new in ((whole[-1:], bytes([whole[-1] ^ 1])), (b"corpus", b"corpse")):
        path.write_bytes(whole[: -len(old)] + new if old != b"corpus" else whole.replace(old, new))
        with pytest.raises(ValueError, match="m.safetensors cannot be .*changed, or is damaged"):
            load_moments(path)
    tensors, metadata = {"C.0": torch.eye(4)}, {"counts": '{"0": 4}'}
    save_tensors(path, tensors, metadata)
    assert load_moments(path).counts == {0: 4}


NAME = "transformer.h.0.mlp.c_proj_float32_mom2_100.npz"


@pytest.mark.parametrize(
    ("total", "count", "message"),
    [
        (np.eye(3), np.array("x"), "mom2.count is x"),
        (np.eye(3), np.array(1 + 2j), r"mom2.count is \(1\+2j\)"),
        (np.eye(3), np.array(9, dtype="timedelta64[s]"), "mom2.count is 9 seconds"),
        (np.ones((0, 0)), np.array(1), r"its shape is \(0, 0\)"),
        (np.eye(3) * np.nan, np.array(1), "not finite"),
    ],
)
def test_released_moments_that_are_none(tmp_path, total, count, message):
    np.savez(tmp_path / NAME, **{"mom2.mom2": total, "mom2.count": count})
    with pytest.raises(ValueError, match=f"{NAME}.*{message}"):
        import_released([tmp_path / NAME], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [">f8", "<f4", np.float16, np.longdouble])
def test_released_moments_of_any_type(tmp_path, dtype):
    np.savez(tmp_path / NAME, **{"mom2.mom2": 4 * np.eye(3, dtype=dtype), "mom2.count": 2})
    import_released([tmp_path / NAME], tmp_path / "out")
    assert torch.equal(load_moments(tmp_path / "out").C[0], 2 * torch.eye(3))


def test_second_moments_that_are_not_finite_or_fit_no_other(tmp_path):
    """Neither merged, made compact nor compared; nor with those of a model of another width."""
    bad, good, wide = (tmp_path / name for name in ("bad", "good", "wide"))
    save_file({"C.0": torch.eye(3) * torch.nan}, bad, {"counts": '{"0": 1}'})
    save_file({"C.0": torch.eye(3)}, good, {"counts": '{"0": 1}'})
    save_file({"C.0": torch.eye(4)}, wide, {"counts": '{"0": 1}'})
    with pytest.raises(ValueError, match="bad: C.0 has entries that are not finite"):
        compact_file(bad, 0.1, tmp_path / "out")
    for act in (lambda: merge_files([good, bad], tmp_path / "out"), lambda: compared(good, bad)):
        with pytest.raises(ValueError, match="bad: C.0 has entries that are not finite"):
            act()
    with pytest.raises(ValueError, match="floor is inf"):
        compact_file(good, math.inf, tmp_path / "out")
    with pytest.raises(ValueError, match="good and .*wide are of models with other widths"):
        compared(good, wide)
    odd = {"counts": '{"0": 1}', "about": '{"corpus": "x"}'}
    save_file({"C.0": torch.eye(3)}, bad, odd)
    with pytest.raises(ValueError, match="does not say in our way what it has read"):
        merge_files([bad, good], tmp_path / "out")


def compared(one, other):
    return compare_files(one, other, 2.0)


def test_a_script_in_the_place_of_a_dataset(tmp_path):
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match="dataset: .* cannot be read"):
        list(Corpus(dataset=str(tmp_path)).texts())


def test_layers_of_second_moments(space):
    """In any order, since the file has them in one; but none twice."""
    given = {"corpus": space.folder / "corpus.txt", "out": space.folder / "m.safetensors"}
    assert space.call("moments", layers="1,0", **given).exit_code == 0
    again = space.call("moments", layers="1,0", **given)
    assert again.exit_code == 0 and "is complete" in again.stderr
    twice = space.call("moments", layers="0,0", **given)
    assert twice.exit_code == 1 and "names a layer twice" in twice.stderr
    for part in ("0/1_0", "\u0660/\u0661"):
        done = space.call("moments", layers="0", part=part, **given)
        assert done.exit_code == 1 and "expected i/n" in done.stderr
