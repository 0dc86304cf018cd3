"""A run may be killed at any moment: continued, it ends in the same bytes; and nothing on disk is ever half written."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import Desk, records
from safetensors.torch import load_file

import seqedit.study.checkpoint as checkpoint
import seqedit.study.records as study_records
from seqedit.files import save_tensors, write_json, write_text
from seqedit.study.records import code_digest, load_run
from seqedit.study.run import RunConfig, run

ROUNDS = 4
TABLES = ("rounds", "outcomes", "scores")


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    return Desk.lay(tmp_path_factory.mktemp("desk"), count=2 * ROUNDS)


@pytest.fixture(scope="module")
def config(desk) -> RunConfig:
    return RunConfig(model=str(desk.folder / "model"), requests=desk.folder / "requests.json", method="memit_seq",
                     settings={"layers": [0, 1], "lam": 0.5, "steps": 4, "lr": 0.3}, batch_size=2, device="cpu",
                     moments=desk.folder / "moments.safetensors", evaluate_every=2, save_rounds=True)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(config, out)
    return out


def tensors_of(out: Path) -> dict[str, bytes]:
    return {name: W.numpy().tobytes() for name, W in load_file(out / "weights.safetensors").items()}


def rows_of(out: Path, table: str) -> list[dict]:
    """Rows of a table without what the clock says."""
    rows = [json.loads(line) for line in (out / f"{table}.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same_record(left: Path, right: Path) -> None:
    assert tensors_of(left) == tensors_of(right)
    assert (left / "outcomes.jsonl").read_bytes() == (right / "outcomes.jsonl").read_bytes()
    assert (left / "scores.jsonl").read_bytes() == (right / "scores.jsonl").read_bytes()
    assert rows_of(left, "rounds") == rows_of(right, "rounds")
    runs = [json.loads((out / "run.json").read_text()) for out in (left, right)]
    assert [r.pop("seconds") > 0 for r in runs] == [True, True] and runs[0] == runs[1]
    assert sorted(p.name for p in left.iterdir()) == sorted(p.name for p in right.iterdir())


def test_killed(tmp_path):
    """SIGKILL in the middle of a run of its own process, twice, then to the end; against a run left alone."""
    desk = Desk.lay(tmp_path, count=60)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start(out: Path) -> subprocess.Popen:
        words = desk.words(out=out, batch_size=1, layers="0,1", set_=["steps=25", "stop_loss=0"])
        return subprocess.Popen([sys.executable, "-m", "seqedit.cli", *words], env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    out, alone = tmp_path / "out", tmp_path / "alone"
    undisturbed = start(alone)
    for enough in (2, 12):
        process = start(out)
        deadline = time.monotonic() + 120
        while not (out / "rounds.jsonl").exists() or (out / "rounds.jsonl").read_bytes().count(b"\n") < enough:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not json.loads((out / "run.json").read_text())["finished"]
        assert not (out / "weights.safetensors").exists()
        with pytest.raises(ValueError, match="not finished"):
            load_run(out)
    process = start(out)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "resuming after round" in said
    assert undisturbed.communicate(timeout=300) and undisturbed.returncode == 0
    assert tensors_of(out) == tensors_of(alone)
    assert (out / "outcomes.jsonl").read_bytes() == (alone / "outcomes.jsonl").read_bytes()
    assert len(rows_of(out, "outcomes")) == 60


class Interrupted(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", range(14))
def test_interrupted_anywhere(config, whole, tmp_path, monkeypatch, moment):
    """The process ends before any one of its writes of tables, tensors and JSON."""
    out, left = tmp_path / "out", [moment]

    def until(write):
        def wrapped(*args, **kwargs):
            if not left[0]:
                raise Interrupted
            left[0] -= 1
            return write(*args, **kwargs)
        return wrapped

    with monkeypatch.context() as patch:
        for name in ("_append", "save_tensors", "write_json", "write_text"):
            patch.setattr(checkpoint, name, until(getattr(checkpoint, name)))
        with pytest.raises(Interrupted):
            run(config, out)
    assert not (out / "weights.safetensors").exists()
    said = []
    assert run(config, out, say=said.append)
    assert any("resuming" in line for line in said) == (moment > 4), said
    same_record(out, whole)


@pytest.mark.parametrize("table", TABLES)
def test_a_torn_line_is_repaired(config, whole, tmp_path, monkeypatch, table):
    """The process ended while it wrote a row: the row is cut off and written again."""
    out, append = tmp_path / "out", checkpoint._append

    def tear(path, rows):
        append(path, rows)
        if path.stem == table and len(rows_of(out, table)) >= 2:
            path.write_bytes(path.read_bytes()[:-7])
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_append", tear)
        with pytest.raises(Interrupted):
            run(config, out)
    with pytest.raises(json.JSONDecodeError):
        rows_of(out, table)
    assert run(config, out)
    same_record(out, whole)


def test_same_seed_same_weights(config, whole, tmp_path):
    """Sampled context templates included, whatever torch's global generator holds."""
    torch.manual_seed(99)
    assert run(config, tmp_path / "again")
    same_record(tmp_path / "again", whole)
    assert run(replace(config, seed=1), tmp_path / "other")
    assert tensors_of(tmp_path / "other") != tensors_of(whole)
    contexts = [load_run(out).run["contexts"] for out in (whole, tmp_path / "again", tmp_path / "other")]
    assert contexts[0] == contexts[1] != contexts[2]


def test_shuffle_is_the_seeds(config, whole, tmp_path):
    """The same requests in an order that the seed decides; the first n of that order, not of the file."""
    orders = {}
    for name, seed, n in (("a", 0, None), ("b", 0, None), ("c", 1, None), ("d", 0, 3)):
        run(replace(config, seed=seed, shuffle=True, n_edits=n, save_rounds=False), tmp_path / name)
        orders[name] = load_run(tmp_path / name).outcomes["case_id"].tolist()
    assert orders["a"] == orders["b"] and orders["a"] != orders["c"]
    assert sorted(orders["a"]) == sorted(orders["c"]) == load_run(whole).outcomes["case_id"].tolist()
    assert orders["a"] != sorted(orders["a"]) and orders["d"] == orders["a"][:3]
    assert tensors_of(tmp_path / "a") == tensors_of(tmp_path / "b")


def test_rounds_of_the_file(config, desk, tmp_path):
    """Without a batch size the file's rounds hold, or it is one round."""
    write_json(tmp_path / "r.json", {"rounds": [records()[:1], records()[1:4]]})
    run(replace(config, requests=tmp_path / "r.json", batch_size=None), tmp_path / "a")
    assert load_run(tmp_path / "a").outcomes["round"].tolist() == [0, 1, 1, 1]
    run(replace(config, batch_size=None), tmp_path / "b")
    assert set(load_run(tmp_path / "b").outcomes["round"]) == {0}


def test_stale(whole, tmp_path, monkeypatch):
    """A record of other code says so."""
    assert not load_run(whole).stale
    package = tmp_path / "seqedit"
    for path in study_records.PACKAGE.rglob("*.py"):
        target = package / path.relative_to(study_records.PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    digest = code_digest()
    monkeypatch.setattr(study_records, "PACKAGE", package)
    assert code_digest() == digest and not load_run(whole).stale
    with open(package / "cli.py", "a") as file:
        file.write("# changes no result\n")
    assert not load_run(whole).stale
    for changed in ("methods.py", "algebra/solve.py", "lm/targets.py", "evaluation/edits.py"):
        text = (package / changed).read_text()
        (package / changed).write_text(text + "\n")
        assert code_digest() != digest and load_run(whole).stale
        (package / changed).write_text(text)


def test_other_code_does_not_continue(config, tmp_path, monkeypatch):
    """An unfinished run of other code is not mixed with today's."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "finish", None)
        patch.setattr("seqedit.study.run.finish", lambda *_: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            run(config, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "run.json").read_text())
    write_json(tmp_path / "out" / "run.json", found | {"provenance": found["provenance"] | {"code": "0" * 16}})
    with pytest.raises(ValueError, match="begun by other code"):
        run(config, tmp_path / "out")


def test_finished_is_left_alone(config, whole):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    said = []
    assert not run(config, whole, say=said.append)
    assert "is complete" in said[-1]
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_writes_are_whole(whole, tmp_path, monkeypatch):
    """No temporary neighbour stays; a write that fails leaves the old content."""
    assert not list(whole.glob("*.part"))
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert json.loads(path.read_text()) == {"a": 1}
    save_tensors(tmp_path / "t.safetensors", {"a": torch.ones(3)})
    with monkeypatch.context() as patch:
        patch.setattr("seqedit.files.save_file", lambda tensors, part, metadata: part.write_bytes(b"half") and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(3)})
    assert torch.equal(load_file(tmp_path / "t.safetensors")["a"], torch.ones(3))
    write_text(path, "{}")
    save_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(3).T})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "t.safetensors"]


def test_method_parameters_are_recorded(whole):
    """run.json says everything that decided the result, and no place outside the project."""
    parameters = load_run(whole).run["parameters"]
    assert parameters["parameters"] == {"lam": 0.5} and parameters["layers"] == [0, 1]
    assert parameters["target"]["steps"] == 4 and parameters["target"]["clamp"] == 0.75
    assert set(parameters["files"]) == {"requests", "moments"} and parameters["model"] == "model"
    assert "/" not in json.dumps(load_run(whole).run["provenance"])
