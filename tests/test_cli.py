"""The command line: what it writes, and that wrong input ends in one line with nothing written."""

import json
import shutil

import pytest
import torch
from conftest import build_lm, relative
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, ByT5Tokenizer
from typer.testing import CliRunner
from workspace import RECORDS

from seqedit.base.jsonl import read_jsonl
from seqedit.cli.main import app
from seqedit.lm.load import load_model
from seqedit.lm.weights import read_weight

GOLDEN_ALLOWED = 2e-5  # MEMIT's, see test_golden.py


def changed(i: int, **fields) -> list[dict]:
    """The records, with fields of one of them changed; None leaves a field out."""
    record = {name: value for name, value in (RECORDS[i] | fields).items() if value is not None}
    return [*RECORDS[:i], record, *RECORDS[i + 1 :]]


def request_errors():
    """Name, content of the request file, words of the message."""
    yield (
        "subject",
        changed(1, subject="Nobody", prompt="Zoë plays"),
        ["case_id 1", "prompt: the subject 'Nobody' is"],
    )
    yield "empty target", changed(2, target_new=" "), ["case_id 2", "target_new: is empty"]
    yield "missing target", changed(2, target_new=None), ["case_id 2", "target_new: is missing"]
    yield "empty subject", changed(2, subject=""), ["case_id 2", "subject: is empty"]
    yield "type of target", changed(4, target_new=7), ["case_id 4", "target_new: expected a string"]
    yield (
        "type of prompt",
        changed(4, prompt=["x"]),
        ["case_id 4", "prompt: expected a string, found list"],
    )
    yield (
        "case_id",
        changed(4, case_id=[4]),
        ["record 4", "case_id: expected a number or a string, found [4]"],
    )
    yield "duplicate", changed(4, case_id=0), ["record 4", "case_id 0 already names record 0"]
    yield (
        "contradiction",
        [*RECORDS, RECORDS[0] | {"case_id": 9, "target_new": "Łódź"}],
        ["case_id 9", "contradicts 'Dutch' of case_id 0"],
    )
    yield (
        "too long",
        changed(1, prompt="{} plays" + " the cello" * 60),
        ["case_id 1", "prompt:", "has 64 positions"],
    )
    yield "no list", {"records": 1}, ["expected a list of records"]
    yield "no object", [1], ["record 0: expected an object, found int"]
    yield "empty file", [], ["holds no records"]
    yield "no JSON", "[{", ["requests.json: not valid JSON"]


@pytest.mark.parametrize(
    ("content", "words"),
    [case[1:] for case in request_errors()],
    ids=[case[0] for case in request_errors()],
)
def test_wrong_requests(space, content, words):
    space.write("requests.json", content)
    refused(space, words)


def option_errors():
    """Name, options, words of the message."""
    yield "method", {"method": "memitt"}, ["no method named 'memitt'; known are rome"]
    yield (
        "parameter",
        {"set": "lamb=3"},
        ["memit_seq has no setting 'lamb'; it takes 'lam', which is most like it"],
    )
    yield "value", {"set": "lam=much"}, ["lam = 'much'"]
    yield "no value", {"set": "lam"}, ["--set 'lam': expected key=value"]
    yield "layer", {"layers": "1,3"}, ["layers: 3 is out of range; the model has layers 0 to 2"]
    yield "order", {"layers": "1,0"}, ["layers [1, 0]: give at least one, in ascending order"]
    yield "layer words", {"layers": "one"}, ["--layers 'one': expected numbers"]
    yield (
        "layers of another kind",
        {"layers": "1_0,\uff11"},
        ["--layers '1_0,\uff11': expected numbers"],
    )
    yield (
        "two layers",
        {"method": "rome", "hyper": None, "layers": "0,1"},
        ["layers: ROME edits one layer"],
    )
    yield "n_edits", {"n_edits": 6}, ["n_edits is 6; the file has 5 requests"]
    yield "batch_size", {"batch_size": 0}, ["batch_size = 0: must be positive"]
    yield "model", {"model": "no/such/folder"}, ["no model could be loaded from 'no/such/folder'"]
    yield "requests", {"requests": "none.json"}, ["none.json: cannot be read"]
    yield "hyper", {"hyper": "none.json"}, ["hyper: none.json cannot be read"]
    yield "contexts", {"contexts": "none.json"}, ["contexts: none.json cannot be read"]
    yield "corpus", {"corpus": "none.txt"}, ["corpus: none.txt cannot be read"]
    yield (
        "moments",
        {"moments": "none.safetensors"},
        ["none.safetensors cannot be read as second moments"],
    )
    yield (
        "lengths",
        {"contexts": None, "set": "context_lengths=[[64,1]]"},
        ["context_lengths: 64 tokens"],
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [case[1:] for case in option_errors()],
    ids=[case[0] for case in option_errors()],
)
def test_wrong_options(space, options, words):
    refused(space, words, **options)


def refused(space, words, **options):
    """Exit code 1, one line on stderr that holds `words`, no traceback, nothing in OUT."""
    result = space.call(**options)
    lines = result.stderr.strip().splitlines()
    assert (
        result.exit_code == 1 and result.stdout == "" and isinstance(result.exception, SystemExit)
    )
    assert lines[-1].startswith("error: ") and "Traceback" not in result.stderr
    assert not [line for line in lines[:-1] if "ignored" not in line and "moments" not in line], (
        lines
    )
    for word in words:
        assert word in lines[-1]
    assert not space.out.exists()


def test_wrong_moments(space):
    """Of wrong size, of another model, without a layer, not finite, empty."""
    path, right = space.folder / "m.safetensors", {f"C.{layer}": torch.eye(64) for layer in (0, 1)}
    small = {f"C.{layer}": torch.eye(32) for layer in (0, 1)}
    for tensors, metadata, word in [
        (small, None, "moments: C.0 is (32, 32), but keys of layer 0 have 64 entries"),
        (
            right,
            {"fingerprint": "0" * 16},
            "belongs to another model (fingerprint 0000000000000000",
        ),
        ({"C.0": torch.eye(64)}, None, "moments: none for layer 1"),
        (
            right | {"C.1": torch.eye(64) * float("nan")},
            None,
            "moments: C.1 has entries that are not finite",
        ),
        ({"D": torch.eye(2)}, None, "holds no tensor named C.<layer>"),
    ]:
        save_file(tensors, path, metadata)
        refused(space, [word], corpus=None, moments=path)
    save_file(right, path)
    assert space.call(corpus=None, moments=path).exit_code == 0


def test_empty_corpus(space):
    """An error, and no empty file in the cache that would come back later."""
    space.write("corpus.txt", "\n\n")
    refused(space, ["corpus.txt holds no text"])
    assert not (space.folder / "cache").exists()


def test_tokenizer_without_offsets(space, tmp_path):
    folder = tmp_path / "slow"
    shutil.copytree(space.model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    ByT5Tokenizer().save_pretrained(folder)
    refused(space, ["ByT5Tokenizer has no character offsets"], model=folder)


def test_out_that_is_a_file(space):
    space.out.write_text("mine")
    result = space.call()
    assert result.exit_code == 1 and f"error: out: {space.out} is a file" in result.stderr
    assert space.out.read_text() == "mine"


def test_device_that_is_not_there(space):
    result = space.call(device="warp")
    assert (
        result.exit_code == 2
        and "'warp' cannot be used" in result.stderr
        and not space.out.exists()
    )


def test_edit_says_what_became_of_the_requests(space):
    result = space.call(set=["lam=2", "lr=0.4"], evaluate_every=1)
    assert result.exit_code == 0, result.stderr
    assert (
        result.stdout.startswith("5 requests in ")
        and "5 edited" in result.stdout
        and "efficacy " in result.stdout
    )
    record = json.loads((space.out / "run.json").read_text())
    assert record["finished"] and record["parameters"]["parameters"]["lam"] == 2
    assert record["parameters"]["target"]["lr"] == 0.4 and record["parameters"]["layers"] == [0, 1]
    assert [row["n_edits"] for row in read_jsonl(space.out / "scores.jsonl")] == [2, 4, 5]
    assert "is complete" in space.call(set=["lam=2", "lr=0.4"], evaluate_every=1).stderr
    other = space.call(set="lam=3", evaluate_every=1)
    assert (
        other.exit_code == 1
        and "holds a run with parameters.lam = 2.0, now it is 3.0" in other.stderr
    )


def test_refusals_are_told(space):
    result = space.call(set="max_update_ratio=1e-9")
    assert result.exit_code == 1 and "5 refused" in result.stdout
    assert (
        "refused (2): the update of layer 0 is" in result.stdout
        and "refused (1): " in result.stdout
    )


def test_requests_without_true_targets(space):
    """Success cannot be measured then; accuracy can, and nothing is printed as nan."""
    space.write(
        "requests.json", [{k: v for k, v in r.items() if k != "target_true"} for r in RECORDS]
    )
    result = space.call(evaluate_every=1)
    assert result.exit_code == 0, result.stderr
    assert "efficacy_accuracy" in result.stdout and "nan" not in result.stdout


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_another_architecture(space, tmp_path, kind):
    """A folder of another family, from the edit to the exported model."""
    folder, exported = tmp_path / kind, tmp_path / "exported"
    lm = build_lm(kind)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    assert (
        space.call(
            model=folder,
            method="alphaedit",
            hyper=None,
            layers="0,1",
            set=["threshold=0.9", "l2=0.5", "steps=4", "lr=0.3"],
        ).exit_code
        == 0
    )
    result = space.call("export", device=None, model=folder, edited=space.out, out=exported)
    assert result.exit_code == 0, result.stderr
    edited = AutoModelForCausalLM.from_pretrained(exported)
    tensors = load_file(space.out / "weights.safetensors")
    for layer in (0, 1):
        W = edited.get_submodule(lm.architecture.down_proj.format(layer)).weight
        assert torch.equal(W, tensors[f"W.{layer}"]) and not torch.equal(W, read_weight(lm, layer))
    assert relative(read_weight(load_model(exported, device="cpu"), 2), read_weight(lm, 2)) == 0


def test_score(space):
    assert space.call().exit_code == 0
    options = {"edited": space.out, "requests": space.folder / "requests.json"}
    result = space.call("score", **options)
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["edits"]["n"] == 5 and "edits:" in result.stderr
    run_scores = read_jsonl(space.out / "scores.jsonl")[-1]["edits"]
    assert report["edits"] == pytest.approx(run_scores)
    file = space.folder / "new" / "scores.json"
    result = space.call("score", **options, out=file)
    assert json.loads(file.read_text()) == report and "efficacy" in result.stdout
    other = space.call("score", edited=space.folder, requests=space.folder / "requests.json")
    assert other.exit_code == 1 and "there is no run.json" in other.stderr


def test_golden_run(golden, space):
    """MEMIT with the released configuration file as it is gives the released weights."""
    options = {name: golden / f"{name}.json" for name in ("requests", "contexts")}
    result = space.call(
        model=golden / "model",
        method="memit",
        hyper=golden / "hyper" / "memit.json",
        corpus=None,
        moments=golden / "moments.safetensors",
        batch_size=None,
        save_rounds=True,
        **options,
    )
    assert result.exit_code == 0, result.stderr
    assert "15 edited" in result.stdout and "mom2_adjustment is ignored" in result.stderr
    released, found = (
        load_file(golden / "golden.safetensors"),
        load_file(space.out / "weights.safetensors"),
    )
    original = load_model(golden / "model", device="cpu")
    for layer in (1, 2, 3):
        W0 = read_weight(original, layer)
        for i in range(3):
            assert (
                relative(found[f"W.{i}.{layer}"] - W0, released[f"memit.W.{i}.{layer}"] - W0)
                < GOLDEN_ALLOWED
            )
        assert torch.equal(found[f"W.{layer}"], found[f"W.2.{layer}"])


def test_counterfact_records(benchmarks, space):
    """The benchmark's own records, as they are, with all their prompts."""
    records = json.loads((benchmarks / "counterfact_500.json").read_text(encoding="utf-8"))[:4]
    folder, lm = space.folder / "long", build_lm()
    AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(space.model, n_positions=512)
    ).save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    result = space.call(model=folder, requests=space.write("counterfact.json", records))
    assert result.exit_code == 0, result.stderr
    assert [row["case_id"] for row in read_jsonl(space.out / "outcomes.jsonl")] == [
        r["case_id"] for r in records
    ]
    scores = read_jsonl(space.out / "scores.jsonl")[-1]["edits"]
    assert all(0 <= scores[kind] <= 1 for kind in ("efficacy", "paraphrase", "neighborhood"))


@pytest.mark.parametrize(
    "command", [[], ["edit"], ["score"], ["export"], ["moments"], ["methods"], ["world"]]
)
def test_help(command):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.stdout
    if command and command[0] in ("edit", "score", "export", "moments"):
        assert "Example: seqedit" in " ".join(result.stdout.split())


def test_methods_lists_names_and_defaults():
    result = CliRunner().invoke(app, ["methods"])
    assert (
        result.exit_code == 0
        and "alphaedit" in result.stdout
        and "threshold=0.02 l2=10" in result.stdout
    )
