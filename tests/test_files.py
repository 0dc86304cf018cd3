"""Nothing that the product did not make is removed or overwritten; what it left half made goes."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from seqedit.algebra.second_moment import SecondMoment
from seqedit.base import files
from seqedit.base.files import alone, whole_folder, write_text
from seqedit.base.results import check_result
from seqedit.base.tensors import load_tensors, save_tensors
from seqedit.cli.main import app
from seqedit.moments.files import load_moments, save_moments


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("marker", [None, "mark"])
def test_a_folder_of_others_is_not_replaced(tmp_path, marker):
    """One without the marker, even empty; a file; a link, whatever it leads to."""
    places = {name: tmp_path / name for name in ("folder", "file", "link", "dangling")}
    places["folder"].mkdir()
    places["file"].write_text("x")
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / "mark").write_text("")
    places["link"].symlink_to(tmp_path / "marked")
    places["dangling"].symlink_to(tmp_path / "nowhere")
    before = names(tmp_path)
    for out in places.values():
        with pytest.raises(ValueError, match="exists already"), whole_folder(out, marker):
            raise AssertionError("the folder was filled")
    assert names(tmp_path) == before and places["file"].read_text() == "x"


def test_what_was_put_into_a_folder_of_ours_stays(tmp_path):
    out = tmp_path / "out"
    with whole_folder(out, "mark") as part:
        (part / "mark").write_text("")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt, which would be lost"):
        with whole_folder(out, "mark") as part:
            (part / "mark").write_text("")
    assert names(out) == ["mark", "notes.txt"] and names(tmp_path) == ["out"]


def test_a_folder_that_comes_meanwhile_stays(tmp_path):
    """Another program fills the place while the folder is being made."""
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="exists already"), whole_folder(out) as part:
        (part / "model").write_text("")
        out.mkdir()
        (out / "theirs").write_text("x")
    assert names(out) == ["theirs"] and names(tmp_path) == ["out"]


def test_links_with_a_likely_name_lead_nowhere(tmp_path):
    """Nobody can guess where a file is made; a link in its own place is replaced, not followed."""
    victim, path = tmp_path / "victim", tmp_path / "out" / "a.json"
    victim.write_text("precious")
    path.parent.mkdir()
    for name in (f"a.json.{os.getpid()}.part", "a.json.part", "a.json"):
        (path.parent / name).symlink_to(victim)
    write_text(path, "new")
    save_tensors(path.with_name("t"), {"x": torch.ones(1)})
    assert victim.read_text() == "precious" and path.read_text() == "new"
    (path.parent / f".b{files.OWN}lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), alone(path.with_name("b")):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, mask):
    """Of tensors, too, which safetensors itself makes readable for their owner alone."""
    before = os.umask(mask)
    try:
        write_text(tmp_path / "text", "x")
        save_tensors(tmp_path / "tensors", {"x": torch.ones(1)})
        with whole_folder(tmp_path / "folder") as part:
            save_tensors(part / "tensors", {"x": torch.ones(1)})
    finally:
        os.umask(before)
    for name in ("text", "tensors", "folder/tensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask, name
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


WRITE = """
import sys, time, torch
from pathlib import Path
from seqedit.base import files
from seqedit.base.files import alone, whole_folder
from seqedit.base.tensors import save_tensors
out = Path(sys.argv[1])
if sys.argv[2] == "hang":
    files._put = lambda part, path: (print("here", flush=True), time.sleep(60))
with alone(out):
    if sys.argv[3] == "file":
        save_tensors(out, {"x": torch.ones(4)})
    else:
        with whole_folder(out) as part:
            save_tensors(part / "x", {"x": torch.ones(4)})
"""


def writer(out: Path, how: str, kind: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, str(out), how, kind], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_write_left_is_removed_by_the_next(tmp_path, kind):
    """And nothing else, whatever its name; a write that is going on is left alone."""
    out = tmp_path / "out"
    killed = writer(out, "hang", kind)
    assert killed.stdout.readline() == "here\n"
    assert [name for name in names(tmp_path) if name.startswith(f".out{files.OWN}")]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for name in ("out.part", f"out{files.OWN}x", ".out.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / f".out{files.OWN}file").write_text("no folder")
    others = writer(tmp_path / "out2", "hang", kind)
    assert others.stdout.readline() == "here\n"
    assert writer(out, "write", kind).wait() == 0
    left = [name for name in names(tmp_path) if not name.startswith(".out2")]
    mine = {"out", "out.part", f"out{files.OWN}x", ".out.tmp", f".out{files.OWN}file"}
    assert set(left) == mine
    making = [name for name in names(tmp_path) if name.startswith(f".out2{files.OWN}")]
    assert len(making) == 2  # its lock and its folder
    others.kill()
    others.wait()


def test_a_damaged_file_of_tensors_is_named(tmp_path):
    for text in (b"", b"not tensors", b"\xff" * 100):
        (tmp_path / "t").write_bytes(text)
        with pytest.raises(ValueError, match=r"/t cannot be read"):
            load_tensors(tmp_path / "t")
    with pytest.raises(ValueError, match="none cannot be read"):
        load_tensors(tmp_path / "none")
    save_tensors(tmp_path / "t", {"x": torch.arange(3)}, {"k": "v"})
    tensors, metadata = load_tensors(tmp_path / "t")
    assert torch.equal(tensors["x"], load_file(tmp_path / "t")["x"]) and metadata == {"k": "v"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds names that are not UTF-8")
def test_a_path_that_is_not_utf8(tmp_path):
    (folder := tmp_path / "\udcff").mkdir()
    save_tensors(folder / "t", {"x": torch.arange(3)}, {"k": "v"})
    tensors, metadata = load_tensors(folder / "t")
    assert torch.equal(tensors["x"], torch.arange(3)) and metadata == {"k": "v"}
    moment = SecondMoment(3)
    moment.update(torch.eye(3))
    save_moments(folder / "C", {0: moment})
    assert torch.equal(load_moments(folder / "C").C[0], torch.eye(3) / 3)
    for missing in (load_tensors, load_moments):
        with pytest.raises(ValueError, match="none cannot be read"):
            missing(folder / "none")


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for a disk that is full."""
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from seqedit.base.files import write_text\n"
        "from seqedit.base.tensors import save_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for write in (lambda p: save_tensors(p, {'x': torch.ones(9999)}), "
        "lambda p: write_text(p, 'x' * 9999)):\n"
        "    try: write(Path(sys.argv[1]))\n"
        "    except OSError as error: print(error)\n"
    )
    (tmp_path / "t").write_text("before")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t")],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(str(tmp_path / "t") in line for line in lines), done.stderr
    assert names(tmp_path) == ["t"] and (tmp_path / "t").read_text() == "before"


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    "words",
    [
        ["world", "subjects"],
        ["world", "train", "--steps", "1", "--device", "cpu"],
        ["world", "train-editor", "mend"],
        ["world", "check"],
        ["score", "--model", "embedded", "--edited", "none", "--requests", "world"],
        ["diff", "embedded", "embedded"],
        ["export", "--model", "embedded", "--edited", "none"],
        ["export", "--model", "embedded", "--edited", "none", "--as", "factors"],
        ["moments", "compact", "none", "--floor", "0.1"],
        ["moments", "merge", "none", "none2"],
        ["bench", "flops"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_commands_refuse_what_is_not_theirs_before_they_work(tmp_path, words, kind):
    """In one line, and it stays as it was; also where a training's checkpoints would be."""
    out = tmp_path / ("out.safetensors" if "train-editor" in words else "out")
    if kind == "file":
        out.write_text('{"mine": 1}')
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    before = content(tmp_path)
    done = call(*words, "--out", out)
    assert done.exit_code == 1 and "Traceback" not in done.output, done.output
    assert str(out) in done.stderr.strip().splitlines()[-1] and content(tmp_path) == before


def test_other_files_beside_a_training_and_a_world_stay(tmp_path):
    done = call("world", "build", "--out", tmp_path)
    assert done.exit_code == 0
    assert call("world", "build", "--out", tmp_path).exit_code == 0  # the same bytes
    (tmp_path / "tasks.jsonl").write_text("mine")
    before = content(tmp_path)
    done = call("world", "build", "--out", tmp_path)
    assert done.exit_code == 1 and "tasks.jsonl exists already with other" in done.stderr
    assert content(tmp_path) == before


def test_results_of_the_same_command_are_replaced(tmp_path):
    """A report is known by its keys; lists, other objects and text are not."""
    out = tmp_path / "new" / "r.json"
    check_result(out, "edits", "probes")
    assert out.parent.is_dir()
    out.write_text('{"edits": {}, "probes": [], "more": 1}')
    check_result(out, "edits", "probes")
    for text in ('{"edits": {}}', "[]", "text", "[" * 100_000):
        out.write_text(text)
        with pytest.raises(ValueError, match=r"r\.json exists already"):
            check_result(out, "edits", "probes")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        check_result(tmp_path, "edits")
