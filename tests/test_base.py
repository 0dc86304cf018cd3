"""Files that appear whole, one reader of JSON lines, a clock, and where things are."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from seqedit.base.clock import Clock
from seqedit.base.files import whole_folder, write_json, write_text
from seqedit.base.jsonl import read_jsonl
from seqedit.base.paths import DATA, MODEL, OUTPUT, WORLD, find_model, find_requests
from seqedit.base.precision import at_least_float32
from seqedit.base.tensors import read_metadata, save_tensors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_lines_of_json(tmp_path):
    """Blank lines are skipped; a line separator inside a string ends no line."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"b": "x\u2028y"}\r\n', encoding="utf-8")
    assert read_jsonl(path) == [{"a": 1}, {"b": "x\u2028y"}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '{"a": 1}\n{"a": \n',
            r"rows\.jsonl, line 2: not valid JSON: .*correct or remove the line",
        ),
        ('{"a": 1}\n\n[1, 2]\n', r"rows\.jsonl, line 3: expected a JSON object, found '\[1, 2\]'"),
    ],
)
def test_lines_that_are_no_objects(tmp_path, text, problem):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_jsonl(tmp_path / "rows.jsonl")


def test_missing_lines(tmp_path):
    assert read_jsonl(tmp_path / "none.jsonl", missing_ok=True) == []
    with pytest.raises(FileNotFoundError):
        read_jsonl(tmp_path / "none.jsonl")


def test_json_has_no_nan(tmp_path):
    """What cannot be said in JSON is null, also inside lists and objects; a path is escaped."""
    write_json(tmp_path / "a", {"a": [math.nan, (np.float64("inf"), 1.5)], "b": -math.inf})
    text = (tmp_path / "a").read_text()
    assert json.loads(text) == {"a": [None, [None, 1.5]], "b": None}
    assert "NaN" not in text and "Infinity" not in text
    write_json(tmp_path / "b", ["é", "\udcff"])
    assert (tmp_path / "b").read_bytes() == '[\n "é",\n "\\udcff"\n]\n'.encode()
    assert json.loads((tmp_path / "b").read_text()) == ["é", "\udcff"]


def test_files_appear_whole(tmp_path, monkeypatch):
    """An interrupted write leaves the old file; a finished one leaves no neighbour."""
    path = tmp_path / "new" / "a.json"
    write_json(path, {"é": [1]})
    save_tensors(path.with_name("t.safetensors"), {"x": torch.arange(6.0).view(2, 3).T}, {"k": "v"})
    assert path.read_text(encoding="utf-8") == '{\n "é": [\n  1\n ]\n}\n'
    assert torch.equal(
        load_file(path.with_name("t.safetensors"))["x"], torch.arange(6.0).view(2, 3).T
    )
    assert names(path.parent) == ["a.json", "t.safetensors"]
    monkeypatch.setattr(os, "fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_text(path, "other")
    assert "é" in path.read_text(encoding="utf-8")


def test_folders_appear_whole(tmp_path):
    """A folder with the marker is replaced, at the end only; an error leaves it as it was."""
    out = tmp_path / "out"
    for text in ("first", "second"):
        with whole_folder(out, "mark") as part:
            assert list(part.iterdir()) == [] and out.exists() == (text == "second")
            (part / "mark").write_text(text)
        assert (out / "mark").read_text() == text and names(tmp_path) == ["out"]
    with pytest.raises(ZeroDivisionError), whole_folder(out, "mark") as part:
        (part / "third.txt").write_text("half")
        raise ZeroDivisionError
    assert names(out) == ["mark"] and names(tmp_path) == ["out"]


def test_clock():
    """Stages add up, also where they fail; the total is that since the start."""
    clock = Clock()
    with clock.stage("a"):
        pass
    with pytest.raises(ZeroDivisionError), clock.stage("b"):
        raise ZeroDivisionError
    first = clock.seconds()
    with clock.stage("a"):
        pass
    second = clock.seconds()
    assert set(first) == {"a", "b", "total"} and first["a"] < second["a"] < second["total"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_precision(dtype):
    x = torch.tensor([1.5, -2.0], dtype=dtype)
    kept = dtype in (torch.float32, torch.float64)
    assert at_least_float32(x).dtype == (dtype if kept else torch.float32)
    assert torch.equal(at_least_float32(x).double(), x.double())


def test_names_of_models_and_requests(tmp_path, monkeypatch):
    """What is there under such a name in the current folder takes precedence."""
    assert find_model("embedded") == MODEL and find_requests("world") == WORLD / "records.json"
    assert find_model("gpt2") == "gpt2" and find_requests(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()
    (tmp_path / "world").write_text("")
    assert find_model("embedded") == "embedded" and find_requests("world") == "world"


def test_a_clone_writes_into_itself():
    assert OUTPUT == DATA == Path(__file__).resolve().parents[1] / "data"


def found(code: str, where: Path, **environment: str) -> str:
    """What `code` prints with the package in `where`."""
    kept = {name: value for name, value in os.environ.items() if name != "SEQEDIT_ROOT"}
    return subprocess.run(
        [sys.executable, "-c", "from seqedit.base.paths import *; " + code],
        env=kept | {"PYTHONPATH": str(where)} | environment,
        cwd=where.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_an_installed_package_reads_its_data_and_writes_elsewhere(tmp_path):
    """With `data` inside the package: read there, written below the current folder."""
    package = tmp_path / "site-packages" / "seqedit"
    shutil.copytree(Path(__file__).resolve().parents[1] / "seqedit" / "base", package / "base")
    (package / "__init__.py").write_text("")
    assert found("print(MODEL)", package.parent) == str(package.parent / "data" / "model")
    (package / "data").mkdir()
    assert found("print(MODEL)", package.parent) == str(package / "data" / "model")
    assert found("print(OUTPUT, RESULTS)", package.parent) == "data data/results"
    root = str(tmp_path / "other")
    both = found("print(MODEL, RESULTS)", package.parent, SEQEDIT_ROOT=root).split()
    assert both == [f"{root}/data/model", f"{root}/data/results"]


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    """Whatever the order in which safetensors writes its metadata."""
    tensors, metadata = {"x": torch.ones(2)}, {name: name * 2 for name in "abcdefgh"}
    for i in range(5):
        save_tensors(tmp_path / f"{i}", tensors, metadata)
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(5)}) == 1
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert read_metadata(file) == metadata
    save_file(tensors, tmp_path / "other", {"k": "v"})  # of another program
    with safe_open(tmp_path / "other", framework="pt") as file:
        assert read_metadata(file) == {"k": "v"}


HOLD = """
import sys, time
from pathlib import Path
from seqedit.base.files import alone
path, log, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with alone(path, lambda text: None):
    with log.open("a") as file: file.write(f"{name} in\\n")
    time.sleep(float(sys.argv[4]))
    with log.open("a") as file: file.write(f"{name} out\\n")
"""


def test_one_at_a_time_whatever_the_cache(tmp_path):
    """Processes of two users, whose caches differ, do not mix on one folder; no lock stays."""
    out, log = tmp_path / "shared" / "out", tmp_path / "log"
    log.touch()
    caches = [{"SEQEDIT_CACHE": str(tmp_path / name)} for name in "abc"]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(out), str(log), name, "0.3"],
            env=os.environ | cache,
        )
        for name, cache in zip("abc", caches, strict=True)
    ]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    lines = log.read_text().split("\n")[:-1]
    assert all(lines[i].split()[0] == lines[i + 1].split()[0] for i in (0, 2, 4)), lines
    assert len(lines) == 6 and names(out.parent) == []


def test_a_killed_process_holds_no_lock(tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    log.touch()
    words = [sys.executable, "-c", HOLD, str(out), str(log)]
    first = subprocess.Popen([*words, "a", "60"])
    while not log.read_text():
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert subprocess.run([*words, "b", "0"], timeout=60).returncode == 0
    assert log.read_text().endswith("b in\nb out\n")


POOL = """
import os, sys, time
from pathlib import Path
from seqedit.base.workers import worker_pool
from worker_task import task
if __name__ == "__main__":
    with worker_pool(2) as pool:
        list(pool.map(task, [sys.argv[1]] * 2))
"""
TASK = """
import os, time
def task(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(120)
"""


def test_workers_end_with_their_parent(tmp_path):
    """However it ended; in seconds, not when their work is done."""
    (tmp_path / "pids").mkdir()
    (tmp_path / "pool.py").write_text(POOL)
    (tmp_path / "worker_task.py").write_text(TASK)
    parent = subprocess.Popen([sys.executable, "pool.py", str(tmp_path / "pids")], cwd=tmp_path)
    while len(names(tmp_path / "pids")) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    workers = [int(name) for name in names(tmp_path / "pids")]
    parent.kill()
    parent.wait()
    end = time.monotonic() + 30
    while any(_is_alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(_is_alive(pid) for pid in workers)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
