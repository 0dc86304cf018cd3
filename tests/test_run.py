"""Runs and their records.

What is written, what makes two runs the same, and where second moments come from.
"""

import json

import pytest
import torch
from conftest import build_lm
from safetensors.torch import load_file
from workspace import FILES, RECORDS, SETTINGS, content

from seqedit.base import files
from seqedit.exchange.edited import export_folder
from seqedit.lm.fingerprint import fingerprint, identity
from seqedit.lm.load import load_model
from seqedit.lm.second_moments import collect_second_moments
from seqedit.lm.weights import read_weight
from seqedit.moments import cache as moments
from seqedit.moments.cache import cached_moments, corpus_moments, read_corpus
from seqedit.moments.files import load_moments, save_moments
from seqedit.requests.published import load_requests
from seqedit.runs import checkpoint, records
from seqedit.runs.engine import run
from seqedit.runs.job import prepare
from seqedit.runs.records import load_run


def test_record(space):
    """A run writes what happened.

    The matrices equal those of the loop, and the rows equal those of its rounds.
    """
    assert run(space.config(save_rounds=True), space.out) is True
    assert {p.name for p in space.out.iterdir()} == FILES
    record = load_run(space.out)
    assert record.run["finished"] and record.run["n_edits"] == 5 and record.run["rounds_done"] == 3
    assert not record.stale
    assert list(record.outcomes["case_id"]) == [r["case_id"] for r in RECORDS]
    assert list(record.outcomes["round"]) == [0, 0, 1, 1, 2]
    assert list(zip(record.rounds["round"], record.rounds["layer"], strict=True)) == [
        (i, layer) for i in range(3) for layer in (0, 1)
    ]
    assert record.scores["edits"].tolist() == [5]
    tensors = load_file(space.out / "weights.safetensors")
    assert set(tensors) == {f"W.{i}{layer}" for i in ("", "0.", "1.", "2.") for layer in (0, 1)}
    original = read_weight(load_model(space.model, device="cpu"), 1)
    for layer, W in record.weights().items():
        assert W.shape == original.shape == (16, 64) and W.dtype == torch.float32  # out × in
        assert torch.equal(W, tensors[f"W.2.{layer}"]) and not torch.equal(
            W, tensors[f"W.1.{layer}"]
        )
    moved = (record.weights()[1] - original).norm().item()
    assert record.rounds.iloc[-1]["total_norm"] == pytest.approx(moved, rel=1e-5)


def test_complete_run_is_left_alone(space):
    run(space.config(), space.out)
    before, said = content(space.out), []
    assert run(space.config(), space.out, say=said.append) is False
    assert content(space.out) == before and "is complete: 5 edits by memit_seq" in said[-1]


def test_same_seed_same_bits_other_seed_other_contexts(space):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(
            space.config(
                contexts=None, settings=SETTINGS | {"context_lengths": [[4, 2]]}, seed=seed
            ),
            space.folder / name,
        )
    assert content(space.folder / "a") == content(space.folder / "b")
    first, other = load_run(space.folder / "a"), load_run(space.folder / "c")
    assert first.run["contexts"] != other.run["contexts"] and first.run["contexts"][0] == ["{}"]
    assert not torch.equal(first.weights()[0], other.weights()[0])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"batch_size": 1}, "batch_size"),
        ({"n_edits": 4}, "n_edits"),
        ({"shuffle": True}, "shuffle"),
        ({"method": "memit"}, "method"),
        ({"settings": SETTINGS | {"lr": 0.2}}, "target.lr"),
        ({"settings": SETTINGS | {"lam": 0.25}}, "parameters.lam"),
        ({"settings": SETTINGS | {"layers": [1]}}, "layers"),
        ({"evaluate_every": 1}, "evaluate_every"),
        ({"save_rounds": True}, "save_rounds"),
    ],
)
def test_other_parameters_are_refused_by_name(space, changes, name):
    run(space.config(), space.out)
    before = {p.name: p.read_bytes() for p in space.out.iterdir()}
    with pytest.raises(
        ValueError, match=rf"holds a run with {name} = .*, now it is .*; choose another folder"
    ):
        run(space.config(**changes), space.out)
    assert {p.name: p.read_bytes() for p in space.out.iterdir()} == before


def test_other_files_are_refused_by_name(space):
    run(space.config(), space.out)
    space.write("requests.json", RECORDS[::-1])
    with pytest.raises(ValueError, match="holds a run with files.requests = "):
        run(space.config(), space.out)


def test_rounds_of_equal_sizes_in_another_order_are_another_run(space):
    """[1, 2, 2] in the file and [2, 2, 1] by batch size have the same sizes and the same edits."""
    requests = space.write("rounds.json", {"rounds": [RECORDS[:1], RECORDS[1:3], RECORDS[3:]]})
    run(space.config(requests=requests, batch_size=None), space.out)
    with pytest.raises(ValueError, match="holds a run with batch_size = None, now it is 2"):
        run(space.config(requests=requests), space.out)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("code", "0" * 16, "begun by other code than today's"),
        ("device", "cuda", "begun on another device"),
    ],
)
def test_unfinished_run_of_another_setting(space, name, value, message, monkeypatch):
    monkeypatch.setattr(
        "seqedit.runs.engine.finish", lambda *args: None
    )  # all rounds are done, the end is not
    run(space.config(), space.out)
    record = json.loads((space.out / "run.json").read_text())
    record["provenance"][name] = value
    files.write_json(space.out / "run.json", record)
    with pytest.raises(ValueError, match=message):
        run(space.config(), space.out)
    with pytest.raises(ValueError, match="not finished, 3 rounds done"):
        load_run(space.out)


def test_stale_record(space, monkeypatch):
    run(space.config(), space.out)
    monkeypatch.setattr(records, "code_digest", lambda method: "other")
    assert load_run(space.out).stale


def test_refusal_by_the_loop_leaves_no_record(space):
    """The loop itself refuses ROME on two layers.

    The folder stays free for the corrected run.
    """
    changes = {"method": "rome", "settings": {"steps": 4, "layers": [0, 1]}}
    with pytest.raises(ValueError, match="ROME edits one layer"):
        run(space.config(**changes), space.out)
    assert not space.out.exists()
    run(space.config(method="rome", settings={"steps": 4, "layers": [1]}), space.out)


def test_run_in_which_every_round_is_refused(space):
    """Every request has its reason, the model is as it was, and the rows are JSON without NaN."""
    run(space.config(settings=SETTINGS | {"max_update_ratio": 1e-9}), space.out)
    record = load_run(space.out)
    assert set(record.outcomes["status"]) == {"refused"} and record.rounds.empty
    lm = load_model(space.model, device="cpu")
    assert all(torch.equal(W, read_weight(lm, layer)) for layer, W in record.weights().items())
    for path in space.out.glob("*.json*"):
        assert "NaN" not in path.read_text()


def test_rounds_of_the_file(space):
    """The rounds of a file are kept, also under shuffling; `n_edits` cuts them.

    A batch size replaces them.
    """
    requests = space.write("rounds.json", {"rounds": [RECORDS[:1], RECORDS[1:3], RECORDS[3:]]})

    def sizes(**changes) -> list[int]:
        asked = {"requests": requests, "batch_size": None} | changes
        return [len(batch) for batch in prepare(space.config(**asked)).rounds]

    assert sizes() == [1, 2, 2] and sizes(n_edits=4) == [1, 2, 1] and sizes(n_edits=1) == [1]
    assert sizes(shuffle=True) == [1, 2, 2] and sizes(batch_size=3) == [3, 2]
    assert sizes(settings=SETTINGS | {"batch_size": 4}) == [4, 1]
    for wrong in (0, 6, -1):
        with pytest.raises(ValueError, match=rf"n_edits is {wrong}; the file has 5 requests"):
            sizes(n_edits=wrong)


def test_shuffle_is_drawn_from_the_seed(space):
    def order(seed: int) -> list:
        return [
            r.case_id
            for batch in prepare(space.config(shuffle=True, seed=seed)).rounds
            for r in batch
        ]

    given = [r.case_id for r in load_requests(space.folder / "requests.json")]
    assert order(1) == order(1) != order(2) and sorted(map(str, order(1))) == sorted(
        map(str, given)
    )


def test_moments_are_computed_once_for_all_layers(space, monkeypatch):
    """One pass gives every layer what a pass of its own would; a second call reads the cache."""
    lm, corpus, passes = load_model(space.model, device="cpu"), space.folder / "corpus.txt", []

    def counted(lm, texts, layers, **rest):
        passes.append(list(layers))
        return collect_second_moments(lm, texts, layers, **rest)

    monkeypatch.setattr(moments, "collect_second_moments", counted)
    alone = cached_moments(lm, corpus, 1)
    found = corpus_moments(lm, corpus, [0, 1, 2])
    assert passes == [[1], [0, 2]] and torch.equal(found[1], alone)
    corpus_moments(lm, corpus, [0, 1, 2])
    assert len(passes) == 2
    expected = collect_second_moments(lm, read_corpus(corpus), [2])[2].mean.float()
    assert torch.equal(found[2], expected)
    assert (
        torch.equal(corpus_moments(build_lm(seed=1), corpus, [1])[1], alone) is False
    )  # another model
    corpus.write_text("Another text. It has two sentences.")
    assert torch.equal(cached_moments(lm, corpus, 1), alone) is False


def test_shipped_moments_are_used_where_they_fit(space, monkeypatch):
    """The embedded model uses the shipped file if it was made from these very weights.

    Otherwise the moments come from the world's corpus.
    """
    lm, shipped = load_model(space.model, device="cpu"), space.folder / "moments.safetensors"
    digests = identity(lm)
    found = collect_second_moments(lm, ["The town is quiet."], [0, 1])
    monkeypatch.setattr("seqedit.world.embedded.shipped_identity", lambda: digests)
    for name, value in (
        ("job.WORLD", space.folder),
        ("resolve.DATA", space.folder),
        ("job.MOMENTS", shipped),
    ):
        monkeypatch.setattr(f"seqedit.runs.{name}", value)
    for made_for, used in ((fingerprint(lm), True), ("0" * 16, False)):
        save_moments(shipped, found, fingerprint=made_for)
        plan = prepare(space.config(corpus=None)).plan
        assert torch.equal(plan.moments[0], load_moments(shipped).C[0]) is used
        assert (
            torch.equal(plan.moments[0], cached_moments(lm, space.folder / "corpus.txt", 0))
            is not used
        )


def test_put_weights_and_export(space):
    """The exported folder is the edited model, for anybody's transformers."""
    run(space.config(), space.out)
    lm = load_model(space.model, device="cpu")
    checkpoint.put_weights(lm, space.out)
    (space.folder / "exported.part").mkdir()
    (space.folder / "exported.part" / "mine.txt").write_text("of somebody else")
    export_folder(str(space.model), space.out, space.folder / "exported")
    again = load_model(space.folder / "exported", device="cpu")
    for (name, left), (_, right) in zip(
        lm.model.state_dict().items(), again.model.state_dict().items(), strict=True
    ):
        assert torch.equal(left, right), name
    assert (space.folder / "exported.part" / "mine.txt").read_text() == "of somebody else"
    with pytest.raises(ValueError, match="exists already"):
        export_folder(str(space.model), space.out, space.folder / "exported")
    with pytest.raises(ValueError, match="was made on another model"):
        checkpoint.put_weights(build_lm(seed=1), space.out)


def test_reading_what_is_not_a_run(space):
    with pytest.raises(ValueError, match="there is no run.json"):
        load_run(space.folder)
    space.write("run.json", "{")
    with pytest.raises(ValueError, match="run.json: not valid JSON"):
        load_run(space.folder)


def test_moments_of_the_command_are_those_of_a_run(space):
    """`seqedit moments` and a run that computes its own end in the same edit."""
    out = space.folder / "new" / "moments.safetensors"
    options = {"corpus": space.folder / "corpus.txt", "out": out}
    result = space.call("moments", **options, layers="0,1")
    assert result.exit_code == 0 and "tokens, layers 0, 1" in result.stdout
    assert space.call().exit_code == 0
    assert space.call(corpus=None, moments=out, out=space.folder / "other").exit_code == 0
    left, right = (
        load_file(folder / "weights.safetensors") for folder in (space.out, space.folder / "other")
    )
    assert all(torch.equal(left[name], right[name]) for name in left)
    for changes, word in [
        ({"layers": "7"}, "layers: 7 is out of range"),
        ({"corpus": "none"}, "cannot be read"),
    ]:
        wrong = space.call("moments", **options | {"layers": "0"} | changes)
        assert wrong.exit_code == 1 and word in wrong.stderr
