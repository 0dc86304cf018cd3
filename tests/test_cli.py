"""The command line: wrong input ends in one line that names the culprit, right input in a record that can be used."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import Desk, invoke, records
from conftest import relative
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from seqedit.algebra.moments import load_moments
from seqedit.files import save_tensors, write_json
from seqedit.methods import METHODS
from seqedit.study.records import load_run

MANY = "I heard a song. " * 20


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    return Desk.lay(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def edited(desk) -> Path:
    """A run of three rounds, the matrices of each kept."""
    result = desk.edit(out=desk.folder / "edited", batch_size=2, save_rounds=True, evaluate_every=2)
    assert result.exit_code == 0, result.stderr
    return desk.folder / "edited"


def refused(result, out: Path, *said: str) -> None:
    """Exit code 1, one line on stderr that says all of `said`, and no weights."""
    assert result.exit_code == 1, result.output
    line, = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for word in said:
        assert word in line, line
    assert not list(out.glob("*.safetensors")) if out.is_dir() else not out.exists()


def fact(number: int, **changes):
    """A change of one field of one request."""
    def change(content):
        for name, value in changes.items():
            (content[number] if name in content[number] else content[number]["requested_rewrite"])[name] = value
    return change


BAD_RECORDS = {
    "subject not in prompt": (fact(1, prompt="The mother tongue is"), ("record 1 (case_id 1)", "prompt: ", "subject")),
    "two places": (fact(1, prompt="{} and {} are"), ("record 1", "prompt: has 2 places")),
    "empty prompt": (fact(0, prompt="  "), ("record 0 (case_id 0)", "prompt: is empty")),
    "empty subject": (fact(0, subject=""), ("record 0 (case_id 0)", "subject: is empty")),
    "empty target": (fact(2, target_new={"str": " "}), ("record 2 (case_id 2)", "target_new: is empty")),
    "missing target": (fact(2, target_new=None), ("record 2 (case_id 2)", "target_new: is missing")),
    "duplicate case": (fact(3, case_id=1), ("record 3", "case_id 1", "record 1")),
    "contradiction": (fact(4, subject="Danielle Darrieux 0"), ("record 4 (case_id 4)", "target_new 'French'", "'Dutch'")),
    "target is a number": (fact(2, target_new=7), ("record 2 (case_id 2)", "target_new: expected a string", "int")),
    "subject is a list": (fact(2, subject=["a"]), ("record 2", "subject: expected a string, found list")),
    "case is a float": (fact(2, case_id=1.5), ("record 2", "case_id: expected a number or a string, found 1.5")),
    "paraphrase is text": (fact(2, paraphrase_prompts="one"), ("record 2", "paraphrase_prompts: expected a list")),
    "record is text": (lambda content: content[:1] + ["a"], ("record 1: expected an object, found str",)),
    "file is text": (lambda content: "a", ("expected a list of records",)),
    "no records": (lambda content: [], ("holds no records",)),
    "empty round": (lambda content: {"rounds": [content, []]}, ("round 1 holds no records",)),
    "prompt too long": (fact(1, prompt=MANY + "{} is"), ("case_id 1: prompt:", "64 positions", "shorten")),
    "paraphrase too long": (fact(3, paraphrase_prompts=["Yes", MANY]), ("case_id 3: paraphrase_prompts:", "64 positions")),
    "neighbour too long": (fact(3, neighborhood_prompts=[MANY]), ("case_id 3: neighborhood_prompts:", "64 positions")),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_records(desk, tmp_path, name):
    change, said = BAD_RECORDS[name]
    refused(desk.edit(requests=desk.rewrite(change), out=tmp_path / "out"), tmp_path / "out", *said)


@pytest.mark.parametrize(("name", "text"), [("r.json", '[{"case_id": 1,]'), ("r.jsonl", '{"case_id": 1}\nno\n'),
                                            ("r.json", ""), ("latin.json", None)])
def test_unreadable_requests(desk, tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes('["ü"]'.encode("latin-1") if text is None else text.encode())
    said = "cannot be read" if text is None else "not valid JSON"
    refused(desk.edit(requests=path, out=tmp_path / "out"), tmp_path / "out", f"{path}: {said}")


BAD_OPTIONS = {
    "no such file": ({"requests": "nowhere.json"}, ("nowhere.json: cannot be read",)),
    "unknown method": ({"method": "memmit"}, ("no method named 'memmit'", *METHODS)),
    "unknown setting": ({"set_": ["lamda=3"]}, ("memit has no setting 'lamda'", "lam", "clamp")),
    "another method's setting": ({"set_": ["threshold=0.1"]}, ("memit has no setting 'threshold'",)),
    "no value": ({"set_": ["steps"]}, ("--set 'steps': expected key=value",)),
    "not a number": ({"set_": ["lr=fast"]}, ("lr = 'fast'", "number")),
    "not positive": ({"set_": ["lam=-1"]}, ("lam = -1: must be positive",)),
    "half a step": ({"set_": ["steps=2.5"]}, ("steps = 2.5", "integer")),
    "layer out of range": ({"layers": "0,3"}, ("layers: 3 is out of range", "0 to 2")),
    "negative layer": ({"layers": "-1"}, ("layers: -1 is out of range",)),
    "layers backwards": ({"layers": "1,0"}, ("layers [1, 0]", "ascending")),
    "layers are words": ({"layers": "1,two"}, ("--layers '1,two'", "e.g. 3,4,5")),
    "layers empty": ({"layers": ""}, ("--layers ''",)),
    "no layers": ({"layers": None}, ("layers: none given", "--layers 3,4,5")),
    "several layers for one": ({"method": "rome"}, ("layers: ROME edits one layer", "[0, 1]")),
    "no moments": ({"moments": None}, ("moments: ", "--moments", "--corpus")),
    "no moments there": ({"moments": "nowhere.safetensors"}, ("nowhere.safetensors", "second moments")),
    "no corpus there": ({"moments": None, "corpus": "nowhere.txt"}, ("corpus: nowhere.txt cannot be read",)),
    "no contexts there": ({"contexts": "nowhere.json"}, ("contexts: nowhere.json cannot be read",)),
    "no hyper there": ({"hyper": "nowhere.json"}, ("hyper: nowhere.json cannot be read",)),
    "no model there": ({"model": "./nowhere"}, ("no model could be loaded from './nowhere'",)),
    "too many edits": ({"n_edits": 7}, ("n_edits is 7", "6 requests")),
    "no edits": ({"n_edits": 0}, ("n_edits is 0",)),
    "empty rounds": ({"batch_size": 0}, ("batch_size is 0",)),
    "negative rounds": ({"batch_size": -2}, ("batch_size is -2",)),
    "negative interval": ({"evaluate_every": -1}, ("evaluate_every is -1",)),
    "threshold below all": ({"method": "alphaedit", "set_": ["threshold=1e-9"]}, ("threshold",)),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(desk, tmp_path, name):
    options, said = BAD_OPTIONS[name]
    refused(desk.edit(**{"out": tmp_path / "out"} | options), tmp_path / "out", *said)


def test_bad_moments(desk, tmp_path):
    """Of another width, of another model, not for the layer, of no kind."""
    C = load_moments(desk.folder / "moments.safetensors").C
    path, out = tmp_path / "m.safetensors", tmp_path / "out"
    cases = [({"C.0": torch.eye(16), "C.1": torch.eye(16)}, None, ("moments: C.0 is (16, 16)", "64")),
             ({"C.0": C[0], "C.1": C[1]}, {"fingerprint": "0123456789abcdef"}, (f"moments: {path}", "another model")),
             ({"C.0": C[0]}, None, ("moments: none for layer 1",)),
             ({"C.0": C[0], "C.1": C[1] / 0}, None, ("moments: C.1", "not finite")),
             ({"other": C[0]}, None, (str(path), "no tensor named C.<layer>"))]
    for tensors, metadata, said in cases:
        save_tensors(path, tensors, metadata)
        refused(desk.edit(moments=path, out=out), out, *said)
    path.write_text("no tensors")
    refused(desk.edit(moments=path, out=out), out, str(path), "cannot be read as second moments")


def test_bad_hyper(desk, tmp_path):
    path, out = tmp_path / "h.json", tmp_path / "out"
    cases = [({"v_num_grad_stepz": 3}, ("unknown field 'v_num_grad_stepz'", "v_num_grad_steps")),
             ({"fact_token": "last"}, ("fact_token = 'last' cannot be honoured", "'subject_last'")),
             ({"v_loss_layer": 1}, ("v_loss_layer = 1 cannot be honoured", "2")),
             ({"rewrite_module_tmp": "mlp.{}"}, ("rewrite_module_tmp = 'mlp.{}' cannot be honoured",)),
             ({"clamp_norm_factor": "much"}, ("clamp = 'much'",)),
             ([1], ("must hold an object",))]
    for content, said in cases:
        write_json(path, content)
        refused(desk.edit(hyper=path, out=out), out, *said)
    write_json(path, {"mom2_dataset": "wikipedia"})
    refused(desk.edit(hyper=path, out=out, moments=None), out, "mom2_dataset = 'wikipedia' cannot be honoured", "--moments")


def test_bad_contexts(desk, tmp_path):
    path, out = tmp_path / "c.json", tmp_path / "out"
    for content, said in [([["Yes. {}"]], 'the first group must be ["{}"]'), ([["{}"], ["no place"]], "'no place'"),
                          (["{}"], "non-empty lists")]:
        write_json(path, content)
        refused(desk.edit(contexts=path, out=out), out, f"contexts: {path}", said)


def test_bad_models(desk, tmp_path):
    """A slow tokenizer, none, no weights, an architecture that is not declared, a folder that is no model."""
    def copy(name, **changes) -> Path:
        folder = tmp_path / name
        shutil.copytree(desk.folder / "model", folder)
        for file, change in changes.items():
            path = folder / f"{file}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
        return folder
    out = tmp_path / "out"
    slow = copy("slow", tokenizer_config={"tokenizer_class": "CanineTokenizer"})
    (slow / "tokenizer.json").unlink()
    refused(desk.edit(model=slow, out=out), out, str(slow), "character offsets", "fast tokenizer")
    bert = copy("bert", config={"model_type": "bert", "architectures": ["BertModel"]})
    refused(desk.edit(model=bert, out=out), out, "model type 'bert' is not declared", "gpt2")
    bare = copy("bare")
    (bare / "model.safetensors").unlink()
    refused(desk.edit(model=bare, out=out), out, "no model could be loaded", "bare")
    unknown = copy("unknown", config={"model_type": "of-tomorrow"})
    refused(desk.edit(model=unknown, out=out), out, "of-tomorrow")
    without = copy("without")
    for file in without.glob("tokenizer*"):
        file.unlink()
    refused(desk.edit(model=without, out=out), out, str(without))
    (tmp_path / "empty").mkdir()
    refused(desk.edit(model=tmp_path / "empty", out=out), out, str(tmp_path / "empty"))


@pytest.mark.parametrize(("change", "said"), [
    ({"seed": 1}, "seed = 0, now it is 1"), ({"n_edits": 2}, "n_edits = 6, now it is 2"),
    ({"layers": "0"}, "layers = [0, 1], now it is [0]"), ({"set_": ["kl=0.5"]}, "target ="),
    ({"method": "alphaedit", "set_": ["threshold=0.9"]}, "method = 'memit', now it is 'alphaedit'")])
def test_other_parameters_on_an_existing_record(desk, edited, change, said):
    before = {path.name: path.read_bytes() for path in edited.iterdir()}
    result = desk.edit(out=edited, **{"batch_size": 2, "save_rounds": True, "evaluate_every": 2} | change)
    line, = result.stderr.strip().splitlines()
    assert result.exit_code == 1 and line.startswith("error: out:") and said in line and "another folder" in line
    assert {path.name: path.read_bytes() for path in edited.iterdir()} == before


def test_again_says_complete(desk, edited):
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in edited.iterdir()}
    result = desk.edit(out=edited, batch_size=2, save_rounds=True, evaluate_every=2)
    assert result.exit_code == 0 and f"{edited} is complete: 6 edits by memit; nothing to do" in result.stderr
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in edited.iterdir()} == before


def test_record_of_a_run(desk, edited):
    """Which files, which tensors, one outcome for each request, scores where they were asked for."""
    assert sorted(path.name for path in edited.iterdir()) == [
        "outcomes.jsonl", "rounds.jsonl", "run.json", "scores.jsonl", "weights.safetensors"]
    tensors = load_file(edited / "weights.safetensors")
    assert set(tensors) == {"W.0", "W.1"} | {f"W.{i}.{layer}" for i in range(3) for layer in (0, 1)}
    assert all(W.dtype == torch.float32 and W.shape == (16, 64) for W in tensors.values())
    assert torch.equal(tensors["W.2.0"], tensors["W.0"]) and not torch.equal(tensors["W.1.0"], tensors["W.0"])
    record = load_run(edited)
    assert record.outcomes["case_id"].tolist() == list(range(6)) and record.scores["edits"].tolist() == [4, 6]
    assert set(record.outcomes["status"]) <= {"edited", "already satisfied"}
    assert record.run["finished"] and record.run["rounds_done"] == 3 and not record.stale
    assert record.run["contexts"][0] == ["{}"] and str(Path.home()) not in (edited / "run.json").read_text()


def test_edit_score_export(desk, edited, tmp_path):
    """The exported folder is the model with exactly the edited matrices changed, and scores as the record says."""
    result = invoke("score", "--model", desk.folder / "model", "--edited", edited, "--requests",
                    desk.folder / "requests.json", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    last = json.loads((edited / "scores.jsonl").read_text().splitlines()[-1])
    assert report["edits"] == pytest.approx(last["edits"], rel=1e-5) and report["edits"]["neighborhood_kept"] <= 1
    path = tmp_path / "new" / "scores.json"
    result = invoke("score", "--model", desk.folder / "model", "--edited", edited, "--requests",
                    desk.folder / "requests.json", "--device", "cpu", "--out", path)
    assert result.exit_code == 0 and json.loads(path.read_text()) == report and "efficacy" in result.stdout

    out = tmp_path / "exported"
    result = invoke("export", "--model", desk.folder / "model", "--edited", edited, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert AutoTokenizer.from_pretrained(out)("a b")["input_ids"] == desk.lm.tokenizer("a b")["input_ids"]
    before = desk.lm.model.state_dict()
    after = AutoModelForCausalLM.from_pretrained(out).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in (0, 1)}
    for layer, W in load_run(edited).weights().items():
        assert torch.equal(after[f"transformer.h.{layer}.mlp.c_proj.weight"].T, W)
    again = invoke("export", "--model", desk.folder / "model", "--edited", edited, "--out", out)
    assert again.exit_code == 1 and f"error: out: {out} exists already" in again.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_scoring_something_else(desk, edited, tmp_path):
    """No run in the folder, and a run of another model."""
    other = Desk.lay(tmp_path / "other", model_type="llama")
    for command, extra in (("score", ["--requests", desk.folder / "requests.json"]), ("export", ["--out", tmp_path / "e"])):
        wrong = invoke(command, "--model", other.folder / "model", "--edited", edited, *extra)
        refused(wrong, tmp_path / "e", f"edited: {edited} was made on another model")
        none = invoke(command, "--model", desk.folder / "model", "--edited", tmp_path, *extra)
        refused(none, tmp_path / "e", "there is no run.json")


@pytest.mark.parametrize("method", METHODS)
def test_llama(tmp_path, method):
    """Another architecture, every method, with the model's own sampled contexts."""
    desk = Desk.lay(tmp_path, count=3, model_type="llama")
    result = desk.edit(method=method, contexts=None, layers="1" if method.endswith("rome") else "0,1", batch_size=2,
                       set_=["threshold=0.9"] if method == "alphaedit" else [])
    assert result.exit_code == 0, result.stderr
    assert "3 requests" in result.stdout and "edited" in result.stdout
    assert invoke("export", "--model", tmp_path / "model", "--edited", tmp_path / "out", "--out", tmp_path / "new").exit_code == 0


def test_moments_command(desk, tmp_path, monkeypatch):
    """`moments` writes what `--corpus` computes; an edit takes either."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"{r['requested_rewrite']['subject']} plays the cello, {i}." for i, r in
                                enumerate(records(40))) + "\n", encoding="utf-8")
    path = tmp_path / "m.safetensors"
    words = ["--model", desk.folder / "model", "--corpus", corpus, "--device", "cpu", "--layers"]
    result = invoke("moments", *words, "0,1", "--out", path)
    assert result.exit_code == 0 and "layers 0, 1" in result.stdout
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["fingerprint"] and sorted(file.keys()) == ["C.0", "C.1"]
    weights = []
    for name, options in (("a", {"moments": path}), ("b", {"moments": None, "corpus": corpus})):
        result = desk.edit(out=tmp_path / name, **options)
        assert result.exit_code == 0, result.stderr
        weights.append(load_file(tmp_path / name / "weights.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len(list((tmp_path / "cache").iterdir())) == 2
    refused(invoke("moments", *words, "5", "--out", tmp_path / "n"), tmp_path / "n", "layers: 5 is out of range")
    words[3] = tmp_path / "nowhere.txt"
    refused(invoke("moments", *words, "0", "--out", tmp_path / "n"), tmp_path / "n", "corpus: ", "cannot be read")


def no_constants(word: str):
    raise AssertionError(f"{word} is not JSON")


def test_json_is_json(desk, tmp_path):
    """No NaN in any file, where metrics are undefined and rounds refused."""
    def plain(content):
        return [{"case_id": r["case_id"]} | {k: r["requested_rewrite"][k] for k in ("prompt", "subject", "target_new")}
                for r in content]
    for name, options in {"a": {"requests": desk.rewrite(plain)}, "b": {"set_": ["max_update_ratio=1e-9"]}}.items():
        out = tmp_path / name
        result = desk.edit(out=out, batch_size=2, evaluate_every=1, **options)
        assert result.exit_code == 0, result.stderr
        for path in out.glob("*.json*"):
            for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
                json.loads(text, parse_constant=no_constants)
        score = invoke("score", "--model", desk.folder / "model", "--edited", out, "--requests",
                       options.get("requests", desk.folder / "requests.json"), "--out", tmp_path / f"{name}.json")
        assert score.exit_code == 0, score.stderr
        json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=no_constants)
    assert "refused (6): the update of layer 0 is" in result.stdout
    assert set(load_run(tmp_path / "b").outcomes["status"]) == {"refused"}


COMMANDS = [[], ["edit"], ["score"], ["export"], ["moments"], ["methods"], ["world"], ["world", "build"],
            ["world", "train"], ["world", "check"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0 and "Usage" in result.stdout and "--help" in result.stdout


def test_methods():
    result = invoke("methods")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(METHODS)
    assert "lam=15000" in result.stdout


def test_released_configuration(golden, tmp_path):
    """A released configuration file, as it is, gives what the released code computed: MEMIT after each round."""
    out = tmp_path / "out"
    result = invoke("edit", "--model", golden / "model", "--requests", golden / "requests.json", "--method", "memit",
                    "--hyper", golden / "hyper" / "memit.json", "--contexts", golden / "contexts.json", "--moments",
                    golden / "moments.safetensors", "--save-rounds", "--device", "cpu", "--out", out)
    assert result.exit_code == 0, result.stderr
    for name in ("layer_selection", "attn_module_tmp", "mom2_dataset"):
        assert f"memit.json: {name} is ignored" in result.stderr
    found, released = load_file(out / "weights.safetensors"), load_file(golden / "golden.safetensors")
    original = AutoModelForCausalLM.from_pretrained(golden / "model", dtype=torch.float32).state_dict()
    for layer in (1, 2, 3):
        W0 = original[f"transformer.h.{layer}.mlp.c_proj.weight"].T
        for i in range(3):
            error = relative(found[f"W.{i}.{layer}"] - W0, released[f"memit.W.{i}.{layer}"] - W0)
            assert error < 2e-5, (i, layer)


def test_real_records(benchmarks, golden, tmp_path):
    """CounterFact's own file: four records, evaluated with all their prompts."""
    records = json.loads((benchmarks / "counterfact_500.json").read_text(encoding="utf-8"))[:4]
    write_json(tmp_path / "four.json", records)
    result = invoke("edit", "--model", golden / "model", "--requests", tmp_path / "four.json", "--method", "alphaedit",
                    "--moments", golden / "moments.safetensors", "--layers", "2", "--set", "steps=5", "--set", "l2=0.1",
                    "--batch-size", "2", "--device", "cpu", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    record = load_run(tmp_path / "out")
    assert record.outcomes["case_id"].tolist() == [r["case_id"] for r in records]
    last = record.scores.iloc[-1]
    assert last["edits.n"] == 4 and 0 <= last["edits.paraphrase"] <= 1 and 0 <= last["edits.neighborhood"] <= 1
