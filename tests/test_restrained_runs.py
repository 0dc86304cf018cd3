"""Restraints of a finished run's total update: the sums, and the command."""

import json

import pytest
import torch
from conftest import build_lm
from workspace import RECORDS

from seqedit.algebra.restrain import compress
from seqedit.lm.weights import apply_update, read_weight
from seqedit.methods.catalogue import make_method
from seqedit.runs.restraints import measure_restrained, restrained_methods, sums


def edited_model():
    """A model, W₀ of two layers, and updates of which a few directions are far larger than W₀."""
    torch.manual_seed(0)
    lm = build_lm("llama")
    original = {layer: read_weight(lm, layer) for layer in (0, 2)}
    updates = {}
    for layer, W in original.items():
        left, right = torch.randn(W.shape[0], 3), torch.randn(3, W.shape[1])
        updates[layer] = 5 * W.norm() * left @ right / (left @ right).norm()
        apply_update(lm, layer, updates[layer])
    return lm, original, updates


def test_what_is_kept():
    """A share of the sum, or PRUNE of the sum, as the algebra has it; afterwards all is back bit
    for bit."""
    lm, original, updates = edited_model()
    whole = {layer: read_weight(lm, layer) for layer in original}
    methods = restrained_methods(make_method("memit"), [0.25, 1.0], [2.0])
    assert list(methods) == [("averaged", 0.25), ("averaged", 1.0), ("prune", 2.0)]

    def weights(lm):
        return {"W": {layer: read_weight(lm, layer) for layer in original}}

    quarter, full, pruned = measure_restrained(lm, original, methods, weights)
    for layer, W0 in original.items():
        total = whole[layer] - W0
        for row, kept in (
            (quarter, 0.25 * total),
            (full, total),
            (pruned, compress(W0, total, 2.0)),
        ):
            # one rounding of W₀ + Δ in float32
            torch.testing.assert_close(row["W"][layer], W0 + kept, rtol=1e-6, atol=1e-6)
        assert torch.equal(read_weight(lm, layer), whole[layer])
    assert quarter["length"] == pytest.approx(0.25, rel=1e-5)
    assert full["length"] == pytest.approx(1.0, rel=1e-5)
    assert pruned["length"] < 0.9 and (pruned["restraint"], pruned["setting"]) == ("prune", 2.0)
    for row, (layer, W0) in zip(sums(lm, original), original.items(), strict=True):
        values = torch.linalg.svdvals(updates[layer])
        limit = torch.linalg.matrix_norm(W0, 2)
        assert row["layer"] == layer and row["count"] == len(values)
        assert row["above"] == int((values > limit).sum()) > 0
        length = values.square()
        assert length[: row["wide"] - 1].sum() < 0.9 * length.sum() <= length[: row["wide"]].sum()
        assert row["largest"] == pytest.approx(values[0].item(), rel=1e-4)
        assert row["limit"] == pytest.approx(limit.item(), rel=1e-4)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="mix"):
        restrained_methods(make_method("memit"), [1.5], [])
    with pytest.raises(ValueError, match="alpha is 1; it must exceed 1"):
        restrained_methods(make_method("memit"), [], [1.0])


# The command


@pytest.fixture
def space(space):
    space.write("kept.jsonl", '{"prompt": "The town is", "target": "quiet"}\n')
    return space


def restrain(space, **changes):
    given = {"edited": space.out, "requests": space.folder / "requests.json", "mix": "0.5,1"}
    return space.call("restrain", **given | changes)


def test_command(space):
    """With the whole sum it measures what the run's own record says; no file of the run changes."""
    assert space.call().exit_code == 0
    files = {path: path.read_bytes() for path in (*space.model.iterdir(), *space.out.iterdir())}
    out = space.folder / "new" / "restraints.json"
    done = restrain(space, out=out, alpha="1.5", kept=space.folder / "kept.jsonl")
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["method"] == "memit_seq" and report["edits"] == report["measured"] == len(RECORDS)
    half, whole, prune = report["restraints"]
    assert [half["length"], whole["length"]] == pytest.approx([0.5, 1.0], rel=1e-4)
    assert prune["restraint"] == "prune" and prune["setting"] == 1.5
    assert {"known_facts", "kept_facts"} <= whole.keys() and report["sums"][0]["count"] > 0
    scores = json.loads((space.out / "scores.jsonl").read_text().splitlines()[-1])["edits"]
    for name, value in scores.items():
        assert whole[name] == pytest.approx(value, abs=1e-5) or value is None
    assert len(done.stdout.splitlines()) == 4
    assert all(path.read_bytes() == was for path, was in files.items())


def test_a_sample_of_the_requests(space):
    assert space.call().exit_code == 0
    out = space.folder / "restraints.json"
    assert restrain(space, out=out, sample=2).exit_code == 0
    report = json.loads(out.read_text())
    assert report["measured"] == 2 and report["edits"] == len(RECORDS)
    assert report["unedited"].keys() >= {"efficacy", "efficacy_accuracy"}


def test_wrong_input(space):
    assert space.call().exit_code == 0
    out = space.folder / "new" / "restraints.json"
    for changes, words in (
        ({"mix": None}, "mix: no restraint is asked for"),
        ({"mix": "0.5,x"}, "--mix '0.5,x': expected numbers"),
        ({"mix": "2"}, "mix is 2"),
        ({"alpha": "1"}, "alpha is 1; it must exceed 1"),
        ({"alpha": "nan"}, "--alpha 'nan': expected numbers"),
        ({"dtype": "bfloat16"}, "was made on another model"),
        ({"requests": "world"}, "not what the run was made with"),
    ):
        done = restrain(space, out=out, **changes)
        assert done.exit_code == 1 and words in done.stderr and not out.parent.exists()


def test_a_run_that_restrains_its_sum(space):
    assert space.call(method="memit+prune").exit_code == 0
    done = restrain(space)
    assert done.exit_code == 1 and "restrains its sum already" in done.stderr
