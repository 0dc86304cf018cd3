"""Runs that are interrupted anywhere and started again end in the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from workspace import FILES, RECORDS, content

from seqedit.base.jsonl import read_jsonl
from seqedit.runs import checkpoint, engine
from seqedit.runs.engine import run
from seqedit.runs.records import load_weights, read_run


class Crash(BaseException):
    """What a power cut looks like from inside."""


@pytest.fixture
def whole(space) -> dict[str, bytes]:
    """The content of the same run, never interrupted."""
    run(space.config(save_rounds=True, evaluate_every=1), space.folder / "whole")
    return content(space.folder / "whole")


def test_crash_at_every_write(space, whole, monkeypatch):
    """Each rename and each flushed append is a place to die: before it, and after it."""
    places, real = [], {"replace": os.replace, "fsync": os.fsync}

    def crashing(at: int | None, after: bool) -> None:
        places.clear()
        for name, do in real.items():

            def step(*args, do=do, name=name):
                places.append(name)
                if len(places) == at and not after:
                    raise Crash
                do(*args)
                if len(places) == at:
                    raise Crash

            monkeypatch.setattr(os, name, step)

    crashing(None, False)
    run(space.config(save_rounds=True, evaluate_every=1), space.folder / "counted")
    steps = len(places)
    assert steps > 20
    for at in range(1, steps + 1):
        out, after = space.folder / f"crash-{at}", bool(at % 2)
        crashing(at, after)
        with pytest.raises(Crash):
            run(space.config(save_rounds=True, evaluate_every=1), out)
        crashing(None, False)
        finished = (out / "run.json").exists() and read_run(out)["finished"]
        if (out / "weights.safetensors").exists():  # whole or not there
            assert (out / "weights.safetensors").read_bytes() == whole["weights.safetensors"]
        run(space.config(save_rounds=True, evaluate_every=1), out)
        assert content(out) == whole, (
            f"crash {'after' if after else 'before'} step {at}, {places[at - 1]}"
        )
        left = {p.name for p in out.iterdir()} - FILES
        assert not left or finished, left


def test_row_cut_off_in_the_middle(space, whole, monkeypatch):
    """Rows beyond the checkpoint, the last one half written, are written again and not twice."""
    real = checkpoint.save_tensors

    def stop(path, tensors, *rest):
        if path.name == "checkpoint.safetensors" and int(tensors["round"]) == 2:
            raise Crash
        real(path, tensors, *rest)

    monkeypatch.setattr(checkpoint, "save_tensors", stop)
    with pytest.raises(Crash):
        run(space.config(save_rounds=True, evaluate_every=1), space.out)
    monkeypatch.setattr(checkpoint, "save_tensors", real)
    path = space.out / "outcomes.jsonl"
    assert len(read_jsonl(path)) == 4  # round 1 is there, its checkpoint is not
    path.write_text(path.read_text()[:-20])
    run(space.config(save_rounds=True, evaluate_every=1), space.out)
    assert content(space.out) == whole


def test_killed_process_resumes_bit_for_bit(space):
    """A real process, a real SIGKILL in the middle of a run, and the same command again."""
    many = [
        r | {"case_id": f"{i}-{r['case_id']}", "prompt": f"No. {i}: {r['prompt']}"}
        for i in range(12)
        for r in RECORDS
    ]
    requests = space.write("many.json", many)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def command(out: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "seqedit",
            *space.words(requests=requests, out=out, batch_size=1),
        ]

    def finish(out: Path) -> str:
        done = subprocess.run(
            command(out), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    finish(space.folder / "whole")
    process = subprocess.Popen(
        command(space.out),
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    rows = space.out / "rounds.jsonl"
    deadline = time.monotonic() + 120
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, (
            "the run ended before it could be killed"
        )
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (space.out / "weights.safetensors").exists()
    assert not json.loads((space.out / "run.json").read_text())["finished"]
    assert "resuming after round" in finish(space.out)
    assert content(space.out) == content(space.folder / "whole")
    assert len(read_jsonl(space.out / "outcomes.jsonl")) == 60


@pytest.mark.parametrize(
    "name",
    ["checkpoint.safetensors", "weights.safetensors", "outcomes.jsonl", "round-7.safetensors"],
)
def test_files_without_a_record_are_left_alone(space, name):
    """Whose they are cannot be known: refused by name, and they stay as they are."""
    space.out.mkdir()
    (space.out / name).write_bytes(b"of somebody else")
    (space.out / "notes.part").write_text("mine")
    with pytest.raises(ValueError, match=rf"holds {name} and no run\.json"):
        run(space.config(), space.out)
    assert {p.name for p in space.out.iterdir()} == {name, "notes.part"}
    assert (space.out / name).read_bytes() == b"of somebody else"
    (space.out / name).unlink()
    run(space.config(), space.out)  # what has no name of ours is no obstacle, and stays
    assert {p.name for p in space.out.iterdir()} == FILES | {"notes.part"}


def test_a_stray_round_is_not_merged(space):
    """Matrices of a round that the run did not keep are not its own."""
    run(space.config(), space.folder / "whole")
    real = checkpoint.save_tensors

    def stray(path, tensors, *rest):
        (space.out / "round-1.safetensors").write_bytes(b"not of this run")
        real(path, tensors, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_tensors", stray)
        run(space.config(), space.out)
    assert content(space.out) == content(space.folder / "whole")
    assert (space.out / "round-1.safetensors").read_bytes() == b"not of this run"


@pytest.mark.parametrize("name", ["weights.safetensors", "outcomes.jsonl", "scores.jsonl"])
def test_a_finished_run_that_is_damaged_is_not_complete(space, name):
    """A bit turned, or the file gone: refused by name; as it was, it is complete again."""
    run(space.config(), space.out)
    path = space.out / name
    before = path.read_bytes()
    flip(path)
    with pytest.raises(ValueError, match=f"{name} is not what the run wrote"):
        run(space.config(), space.out)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is not what the run wrote"):
        run(space.config(), space.out)
    path.write_bytes(before)
    assert run(space.config(), space.out) is False


def test_rows_that_were_changed_are_noticed(space, monkeypatch):
    interrupted(space, monkeypatch)
    path = space.out / "outcomes.jsonl"
    path.write_text(path.read_text().replace('"edited"', '"refused"', 1))
    with pytest.raises(ValueError, match=r"outcomes\.jsonl was changed"):
        run(space.config(), space.out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: run["contexts"][0].append("Other. {}"), "other context templates"),
        (lambda run: run.update(contexts="none"), "contexts is 'none'"),
        (lambda run: run.pop("provenance"), "provenance is None"),
        (lambda run: run.update(finished="yes"), "finished is 'yes'"),
        (lambda run: run["parameters"].update(seed=5), "seed = 5"),
    ],
)
def test_a_record_that_was_changed_by_hand(space, monkeypatch, change, words):
    interrupted(space, monkeypatch)
    path = space.out / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=words):
        run(space.config(), space.out)
    assert json.loads(path.read_text()) == record


def test_other_versions_are_said_when_resuming(space, monkeypatch):
    interrupted(space, monkeypatch)
    path = space.out / "run.json"
    record = json.loads(path.read_text())
    record["provenance"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    said = []
    run(space.config(), space.out, say=said.append)
    assert any("begun with torch 1.0, now" in line for line in said)
    assert not any("begun with transformers" in line for line in said)


def interrupted(space, monkeypatch, rounds=1):
    """A run that was stopped after so many rounds."""
    real, done = engine.save_round, []

    def save_and_stop(*args, **rest):
        real(*args, **rest)
        done.append(1)
        if len(done) == rounds:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "save_round", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        engine.run(space.config(), space.out)
    monkeypatch.setattr(engine, "save_round", real)


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_refused(space, monkeypatch):
    interrupted(space, monkeypatch)
    flip(space.out / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="checkpoint.safetensors is damaged.* start anew"):
        engine.run(space.config(), space.out)
    (space.out / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="checkpoint.safetensors cannot be read"):
        engine.run(space.config(), space.out)


def test_the_checkpoint_of_another_run_is_refused(space, monkeypatch, tmp_path):
    interrupted(space, monkeypatch)
    other = (space.out / "checkpoint.safetensors").read_bytes()
    shutil.rmtree(space.out)
    changed = space.config(settings=space.config().settings | {"lam": 100.0})
    monkeypatch.setattr(space, "config", lambda: changed)
    interrupted(space, monkeypatch)
    (space.out / "checkpoint.safetensors").write_bytes(other)
    with pytest.raises(ValueError, match="belongs to another run"):
        engine.run(changed, space.out)


@pytest.mark.parametrize("table", ["rounds", "outcomes"])
def test_missing_rows_are_noticed(space, monkeypatch, table):
    interrupted(space, monkeypatch)
    (space.out / f"{table}.jsonl").unlink()
    with pytest.raises(ValueError, match=f"{table}.jsonl: 0 rows, where"):
        engine.run(space.config(), space.out)


def test_weights_of_a_run_are_compared_with_its_record(space):
    engine.run(space.config(), space.out)
    assert load_weights(space.out)
    flip(space.out / "weights.safetensors")
    with pytest.raises(ValueError, match="weights.safetensors is not what the run wrote"):
        load_weights(space.out)
