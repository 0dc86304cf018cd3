"""The benchmark command measures what it says; small sizes, and no statement about speed."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import build_plan
from typer.testing import CliRunner

from seqedit.base.paths import WORLD
from seqedit.base.tensors import load_tensors
from seqedit.bench import many
from seqedit.bench.limits import bench_limits, limits_line, products_share
from seqedit.bench.rating import bench_rating, rating_line
from seqedit.bench.rounds import (
    _compare,
    bench_evaluation,
    bench_flops,
    bench_round,
    bench_rounds,
    evaluation_line,
    round_line,
)
from seqedit.bench.solving import (
    bench_forms,
    bench_projection,
    bench_solve,
    forms_line,
    projection_line,
)
from seqedit.bench.speed import Bench
from seqedit.cli.main import app
from seqedit.methods.alphaedit import alphaedit
from seqedit.requests.published import load_requests


def test_a_round_writes_the_same_weights():
    """The loop and the plain way.

    The same edited matrices to 1e-4, the float32 round-off that Adam amplifies.
    """
    result = bench_round(3)
    assert (
        result["weights_differ"] < 1e-4 and result["updates_differ"] > result["weights_differ"] / 10
    )
    assert result["ratio"] == pytest.approx(result["plain_seconds"] / result["seconds"])
    assert "a round of 3 edits" in round_line(result)


def test_counts_and_sizes():
    result = bench_flops(2, repeats=2)
    assert result["share"] == pytest.approx(result["rate"] / result["matrix_product_rate"])
    assert result["flops"] > 2 * 13 * 192 * 1536 * 5 and result["shape"][1:] == [192, 1536]
    result = bench_rounds(rounds=5, batch_size=2)
    sizes = [
        4 * 1536 * n + 8 * n * n for n in (2, 4, 6, 8, 10)
    ]  # float32 keys, float64 Gram matrix
    assert result["history_bytes"] == sizes and result["dense_cache_bytes"] == 4 * 1536**2
    assert bench_evaluation(3)["edits"] == 3


def test_both_ways_of_rating_agree():
    """−log p to float32 round-off, in nats; every most probable token is the same."""
    result = bench_rating(n_edits=3)
    assert result["requests"] == 3 and result["prompts"] > 20
    assert result["nll_differs"] < 1e-4 and result["top_differs"] == 0
    assert result["ratio"] == pytest.approx(result["plain_seconds"] / result["seconds"])
    assert "CPU-s a request" in rating_line(result)


def test_rating_of_another_model(tiny_folder, tmp_path):
    """The command takes a model and requests; the record says which."""
    records = [
        {
            "case_id": i,
            "prompt": "The mother tongue of {} is",
            "subject": subject,
            "target_new": "Dutch",
        }
        for i, subject in enumerate(("André", "Zoë", "Gamith"))
    ]
    (tmp_path / "few.json").write_text(json.dumps(records))
    words = ["bench", "rating", "--model", str(tiny_folder), "--n-edits", "2"]
    words += ["--requests", str(tmp_path / "few.json"), "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and f"of 2 requests ({tiny_folder.name})" in done.stdout
    result = json.loads((tmp_path / "out.json").read_text())["results"]["rating"]
    assert (result["model"], result["requests"], result["prompts"]) == (tiny_folder.name, 2, 2)


def test_solve_at_a_small_size():
    sizes = {"d_ff": 300, "d_model": 20, "past": 30, "new": 4, "removed": 40}
    result = bench_solve(sizes)
    assert (
        result["flops_ratio"] > 1 and result["fast_seconds"] > 0 and result["dense_peak_bytes"] > 0
    )


def test_a_remembered_null_space_is_the_same_to_the_bit():
    result = bench_projection(64)
    assert result["same"] and result["ratio"] == pytest.approx(
        result["first_seconds"] / result["again_seconds"]
    )
    assert "null space at d_ff 64" in projection_line(result)


def test_the_forms_agree_and_are_timed():
    """All four give one update to round-off, at every width."""
    result = bench_forms(widths=(40, 60), past=20, new=5, repeats=1)
    assert [point["d_ff"] for point in result["points"]] == 4 * [40] + 4 * [60] and result[
        "differs"
    ] < 1e-10
    assert all(point["seconds"] > 0 for point in result["points"]) and result["flops_ratio"] > 1
    assert "one solve at d_ff 60 after 20 edits" in forms_line(result)


def test_bench_command_prints_and_records(tmp_path, monkeypatch):
    """Lines on standard output, a record where one is asked for, an error for what is not there."""
    small = Bench(lambda: bench_evaluation(3), evaluation_line)
    monkeypatch.setattr("seqedit.bench.speed.BENCHES", {"evaluation": small})
    result = CliRunner().invoke(app, ["bench", "speed"])
    assert (
        result.exit_code == 1
        and "no measurement named 'speed'; there are evaluation" in result.stderr
    )
    result = CliRunner().invoke(app, ["bench", "--out", str(tmp_path / "bench.json")])
    assert result.exit_code == 0 and result.stdout.startswith("evaluation of 3 edits: ")
    assert set(json.loads((tmp_path / "bench.json").read_text())["results"]) == {"evaluation"}


def test_bench_of_a_round_is_of_the_embedded_model_by_default(monkeypatch):
    """Also if the command line has turned its name into a folder; another model has its own way."""
    asked = []
    own = Bench(lambda: asked.append("embedded") or {}, lambda result: "done")
    monkeypatch.setattr("seqedit.bench.speed.BENCHES", {"round": own})
    monkeypatch.setattr(
        "seqedit.bench.speed.bench_model_round",
        lambda model, dtype: asked.append((model, dtype)) or {},
    )
    monkeypatch.setattr("seqedit.bench.speed.round_line", lambda result: "done")
    for words in ([], ["--model", "some-model", "--dtype", "bfloat16"]):
        done = CliRunner().invoke(app, ["bench", "round", *words])
        assert done.exit_code == 0, done.output
    assert asked == ["embedded", ("some-model", "bfloat16")]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3_text"])
def test_the_plain_way_with_and_without_a_norm_behind_the_mlp(exact_lm, requests, model_type):
    """In float64 the loop and the plain way write the same: round-off alone is left, which norms
    computed in float32 (6e-8) and Adam enlarge.
    """
    lm = exact_lm(model_type)
    method = alphaedit(threshold=0.5)
    found = _compare(lm, requests[:3], method, build_plan(lm, layers=(0, 1)), 3)
    assert found["updates_differ"] < 1e-5


def test_limits():
    """The share of products is that of a time; of a product alone it is nearly everything."""
    found = bench_limits(n_edits=5)
    assert 0 < found["products_share"] < 1 and 0 < found["one_products_share"] < 1
    assert found["one_ratio"] == found["one_cpu_seconds"] * 5 / found["cpu_seconds"]
    assert "round of 5 edits" in limits_line(found) and found["dtype"] == "float32"
    a = torch.randn(500, 500)
    assert products_share(lambda: [a @ a for _ in range(50)]) > 0.9
    assert products_share(lambda: [a + a for _ in range(50)]) == 0


def test_many_edits_change_every_fact_once_a_pass():
    requests = load_requests(WORLD / "records.json")
    objects = many.objects_of(requests)
    rounds = many.many_rounds(requests[:30], objects, passes=4, batch_size=20)
    assert [len(batch) for batch in rounds] == [20, 10] * 4
    passes = [rounds[i] + rounds[i + 1] for i in range(0, 8, 2)]
    assert passes[0] == requests[:30]
    for before, after in pairwise(passes):
        had = {request.case_id: request.target_new for request in before}
        assert had.keys() == {request.case_id for request in after} and len(after) == 30
        for request in after:
            assert request.target_new != had[request.case_id]
            assert request.target_new in objects[request.relation_id]
        assert [r.case_id for r in before] != [r.case_id for r in after]


def test_many_edits_resume(tmp_path, monkeypatch):
    """Interrupted after a round, they go on from it, and the model ends the same."""
    asked = many.Many(facts=8, passes=2, batch_size=4)
    whole = many._edit_many(asked, "ultraedit", tmp_path / "whole")
    save = many.save_round

    def interrupted(*args, **kwargs):
        save(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(many, "save_round", interrupted)
        many._edit_many(asked, "ultraedit", tmp_path / "cut")
    resumed = many._edit_many(asked, "ultraedit", tmp_path / "cut")
    for found in (whole, resumed):
        assert found["edits"] == [4] * 4 and not any(found["not_finite"])
        assert found["resume_seconds"] > 0 and f"16 edits, {sum(found['refused'])} refused" in (
            many.many_line(found)
        )
    assert whole["exact"] == resumed["exact"] and whole["history_bytes"] == resumed["history_bytes"]
    left, right = (
        load_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "cut")
    )
    assert left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
    with pytest.raises(ValueError, match="holds edits with other settings"):
        many._edit_many(replace(asked, passes=3), "ultraedit", tmp_path / "cut")
