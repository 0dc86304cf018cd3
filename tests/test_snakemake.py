"""The workflow of many runs: what it plans, and that it survives kill -9. And two processes on one
folder.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from seqedit.base.files import alone
from seqedit.base.paths import DATA
from seqedit.runs.engine import run
from seqedit.runs.records import read_rows
from seqedit.study.collection import Collection
from seqedit.study.selection import run_config, select_runs

RUN, PLAN = next(iter(select_runs("methods-quick-alphaedit-s1").items()))


@pytest.fixture
def project(tmp_path) -> Path:
    """A project folder of its own with the embedded model and world, and no results."""
    (tmp_path / "data").mkdir()
    for name in ("model", "world", "hyper", "editors"):
        shutil.copytree(DATA / name, tmp_path / "data" / name)
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    return tmp_path


def snakemake(project: Path, *words: str) -> subprocess.Popen:
    pytest.importorskip("snakemake", reason="Snakemake is not installed (extra `workflow`)")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(ROOT / "workflow" / "Snakefile"),
        "--profile",
        str(ROOT / "workflow" / "profiles" / "local"),
        "--cores",
        "1",
        *words,
    ]
    environment = os.environ | {
        "SEQEDIT_ROOT": str(project),
        "SEQEDIT_CACHE": str(project / "cache"),
        "PYTHONPATH": f"{project}{os.pathsep}{ROOT}",
        "XDG_CACHE_HOME": str(project / "cache"),
    }
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    return output


def test_kill_9_and_finish(project, tmp_path):
    """Killed with all its children in the middle of a run. The run then resumes after its last
    round, its record equals that of a run that nobody disturbed, and the study, here of one run, is
    collected into tables."""
    (project / "sitecustomize.py").write_text(ONE_RUN)
    folder = project / "data" / "runs" / RUN
    words = (str(folder / ".done"), "--config", "studies=methods", "quick=true")
    process = snakemake(project, *words)
    while process.poll() is None and not half_done(folder):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first = (folder / "rounds.jsonl").read_text().splitlines()[0]
    assert (
        not json.loads((folder / "run.json").read_text())["finished"]
        and not (folder / ".done").exists()
    )

    refused = snakemake(project, *words)
    output = refused.communicate(timeout=900)[0]
    assert refused.returncode == 1 and "LockException" in output
    finished(snakemake(project, *words, "--unlock"))
    finished(snakemake(project, *words))
    assert (folder / ".done").exists()
    assert (folder / "rounds.jsonl").read_text().splitlines()[
        0
    ] == first  # with its seconds: not made again
    undisturbed = tmp_path / "undisturbed"
    assert run(run_config(PLAN), undisturbed)
    for table in ("outcomes.jsonl", "scores.jsonl"):
        assert (folder / table).read_bytes() == (undisturbed / table).read_bytes()
    assert "Nothing to be done" in finished(snakemake(project, *words))
    words = ("runs", *words[1:])
    assert jobs(finished(snakemake(project, *words))) == {"runs": 1, "tables": 1, "total": 2}
    collection = Collection(project / "data" / "results" / "methods-quick")
    assert collection.rows(RUN) == read_rows(folder) and collection.ids == {RUN}
    assert jobs(finished(snakemake(project, *words))) == {"runs": 1, "total": 1}  # asks for nothing


ONE_RUN = """
import seqedit.study.studies as studies
from seqedit.study.study_run import StudyRun
studies.STUDIES["methods"] = lambda: [StudyRun("alphaedit", "alphaedit")]
"""


def jobs(output: str) -> dict[str, int]:
    """Rule → how many jobs, from Snakemake's table of jobs."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.M)}


def half_done(folder: Path) -> bool:
    """One of the two rounds is done."""
    return (folder / "checkpoint.safetensors").exists() and len(
        (folder / "rounds.jsonl").read_text().splitlines()
    ) == 1


def test_runs_that_are_there_are_no_jobs(project):
    """With the records of the chosen studies only chapters and the book are left; without them,
    every run of them."""
    (project / "chapters").symlink_to(ROOT / "chapters")
    (project / "_config.yml").symlink_to(ROOT / "_config.yml")
    chosen = ("-n", "--config", "studies=methods,choices")
    total = len({*select_runs("methods"), *select_runs("choices")})  # some are the same
    planned = jobs(finished(snakemake(project, *chosen)))
    assert (planned["run"], planned["tables"], planned["moments"]) == (total, 2, 1)
    (project / "data" / "results").symlink_to(DATA / "results")
    planned = jobs(finished(snakemake(project, *chosen)))
    notebooks = (ROOT / "_toc.yml").read_text().count(".ipynb")
    assert planned == {"all": 1, "book": 1, "chapter": notebooks, "total": notebooks + 2}


def test_a_second_process_waits(tmp_path, monkeypatch):
    """Also for one that was killed: the operating system lets go."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    code = (
        "import sys, time, pathlib; from seqedit.base.files import alone\n"
        f"with alone(pathlib.Path({str(tmp_path / 'out')!r})):\n"
        "    print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert other.stdout.readline() == "in\n"
    said = []

    def say(text: str) -> None:
        said.append(text)
        other.kill()

    with alone(tmp_path / "out", say), alone(tmp_path / "elsewhere"):
        assert len(said) == 1 and "another process is working on it" in said[0]
    other.communicate()
    with alone(tmp_path / "out", say):
        assert len(said) == 1
