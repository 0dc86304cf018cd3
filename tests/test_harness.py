"""One path for general abilities.

Lm-evaluation-harness on a model in memory gives what our own measurement gives.
"""

import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from seqedit.base.jsonl import read_jsonl
from seqedit.base.paths import DATA, MODEL, WORLD
from seqedit.cli.main import app
from seqedit.evaluation.abilities import score_abilities
from seqedit.evaluation.continuations import rate
from seqedit.exchange.harness import WORLD_TASKS
from seqedit.lm.load import load_model
from seqedit.lm.tokens import continuation_rows
from seqedit.lm.weights import read_weight, write_weight

HARNESS, ABILITIES = DATA / "harness", DATA / "abilities"
ENGLISH_TASKS = (
    "acceptability",
    *("sentiment", "entailment", "last_word", "arithmetic", "questions"),
)


def test_every_task_of_the_world_has_its_file():
    tasks = {row["task"] for row in read_jsonl(WORLD / "tasks.jsonl")}
    files = {path.stem: path.read_text(encoding="utf-8") for path in HARNESS.glob("*.yaml")}
    assert set(files) == tasks and {f"world_{task}" for task in tasks} == set(WORLD_TASKS)
    for task, text in files.items():
        assert f"task: world_{task}\n" in text and f"!function world.{task}\n" in text
    assert (
        yaml.safe_load((HARNESS / "_world").read_text(encoding="utf-8"))["output_type"]
        == "loglikelihood"
    )


def test_harness_equals_our_measurement():
    """On a damaged model, with answers right and wrong: the same shares.

    Greedy, all tokens of the answer.
    """
    pytest.importorskip(
        "lm_eval", reason="lm-evaluation-harness is not installed (extra `harness`)"
    )
    from seqedit.exchange.harness import run_harness

    lm = load_model(MODEL, device="cpu")
    for layer in (4, 5):
        write_weight(lm, layer, -0.5 * read_weight(lm, layer))
    ours, report = score_abilities(lm), run_harness(lm, WORLD_TASKS)
    assert sum(0.05 < share < 0.95 for share in ours.values()) >= 3, ours
    assert {task: values["acc"] for task, values in report["results"].items()} == {
        f"world_{task}": pytest.approx(share, abs=1e-9) for task, share in ours.items()
    }
    assert set(report["items"].values()) == {200}


def test_english_is_scored_as_documented():
    """The choice with the largest sum of log-probabilities counts; standard errors are stated."""
    pytest.importorskip(
        "lm_eval", reason="lm-evaluation-harness is not installed (extra `harness`)"
    )
    from seqedit.exchange.harness import harness_text, run_harness

    lm, n = load_model(MODEL, device="cpu"), 40
    report = run_harness(lm, ["english"], limit=n)
    assert report["items"] == {f"english_{task}": n for task in ENGLISH_TASKS}
    for task in ENGLISH_TASKS[1:]:  # our rating needs a prompt, which acceptability lacks
        items = read_jsonl(ABILITIES / f"{task}.jsonl")[:n]
        prompts = [row["prompt"] for row in items for _ in row["choices"]]
        choices = [choice for row in items for choice in row["choices"]]
        tokens = [len(row.continuation) for row in continuation_rows(lm, prompts, choices)]
        sums = iter(rate(lm, prompts, choices).nll * tokens)
        taken = [int(np.argmin([next(sums) for _ in row["choices"]])) for row in items]
        share = np.mean([took == row["answer"] for took, row in zip(taken, items, strict=True)])
        values = report["results"][f"english_{task}"]
        assert values["acc"] == pytest.approx(share, abs=1e-9), task
        spread = (share * (1 - share) / (n - 1)) ** 0.5
        assert values["acc_stderr"] == pytest.approx(spread, abs=1e-9)
        assert f"{share:.4f} ± {spread:.4f}   n = {n}" in harness_text(report)


def test_a_model_that_knows_nothing_is_at_chance(tiny_lm):
    """Random weights: no task gives its answers away by the length of a choice or its place."""
    pytest.importorskip(
        "lm_eval", reason="lm-evaluation-harness is not installed (extra `harness`)"
    )
    from seqedit.exchange.harness import run_harness

    report = run_harness(tiny_lm(), ["english"], limit=60, batch_size=64)
    for task in ENGLISH_TASKS:
        (chance,) = {1 / len(row["choices"]) for row in read_jsonl(ABILITIES / f"{task}.jsonl")}
        n = report["items"][f"english_{task}"]
        spread = (chance * (1 - chance) / n) ** 0.5
        found = report["results"][f"english_{task}"]["acc"]
        assert abs(found - chance) < 3.5 * spread, (task, found)  # one in two thousand is outside


def test_unknown_tasks_are_named():
    pytest.importorskip(
        "lm_eval", reason="lm-evaluation-harness is not installed (extra `harness`)"
    )
    result = CliRunner().invoke(
        app, ["abilities", "--model", str(MODEL), "--tasks", "world_sentiment,world_sentimet"]
    )
    assert result.exit_code == 1 and "the harness knows no 'world_sentimet'" in result.stderr


def test_without_the_harness(monkeypatch):
    """One line that says what to install."""
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = CliRunner().invoke(app, ["abilities", "--model", str(MODEL), "--device", "cpu"])
    assert (
        result.exit_code == 1
        and "error: abilities: needs lm-evaluation-harness; pip install" in result.stderr
    )
