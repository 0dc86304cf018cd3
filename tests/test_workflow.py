"""From edit to score to exported model by the command line.

Also folders that are no models, and records of other models.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import build_lm
from runs import BESIDE, network_for
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner
from workspace import RECORDS

from seqedit.base.files import write_json, write_text
from seqedit.base.tensors import save_tensors
from seqedit.cli.main import app
from seqedit.lm.load import load_model
from seqedit.methods.catalogue import METHODS, method_parameters
from seqedit.runs.records import load_run

MANY = "I heard a song. " * 20


def refused(result, out: Path, *words: str) -> None:
    """Exit code 1, one line on stderr with all `words`, and no weights."""
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert not list(out.glob("*.safetensors")) if out.is_dir() else not out.exists()


def test_edit_score_export(space):
    """The exported folder loads without seqedit.

    It differs from the model in exactly the edited matrices.
    """
    result = space.call(save_rounds=True)
    assert result.exit_code == 0, result.stderr
    tensors = load_file(space.out / "weights.safetensors")
    assert set(tensors) == {"W.0", "W.1"} | {f"W.{i}.{layer}" for i in range(3) for layer in (0, 1)}
    result = space.call("score", edited=space.out, requests=space.folder / "requests.json")
    assert result.exit_code == 0, result.stderr
    last = json.loads((space.out / "scores.jsonl").read_text().splitlines()[-1])
    assert json.loads(result.stdout)["edits"] == pytest.approx(last["edits"])

    exported = space.folder / "exported"
    result = space.call("export", device=None, edited=space.out, out=exported)
    assert result.exit_code == 0, result.stderr
    lm = load_model(space.model, device="cpu")
    text = "The mother tongue of André is"
    assert (
        AutoTokenizer.from_pretrained(exported)(text)["input_ids"]
        == lm.tokenizer(text)["input_ids"]
    )
    before, after = (
        lm.model.state_dict(),
        AutoModelForCausalLM.from_pretrained(exported).state_dict(),
    )
    assert before.keys() == after.keys() and all(
        before[name].dtype == after[name].dtype for name in before
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in (0, 1)}
    for layer, W in load_run(space.out).weights().items():
        assert torch.equal(
            after[f"transformer.h.{layer}.mlp.c_proj.weight"].T, W
        )  # Conv1D is in × out
    refused(
        space.call("export", device=None, edited=space.out, out=exported),
        space.folder / "none",
        "exists already",
    )
    assert not list(space.folder.rglob("*.part"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method(space, method):
    settings = {
        **dict.fromkeys(
            ("alphaedit", "evoedit", "nas", "nas_pilot", "betaedit"), ["threshold=0.9", "l2=0.5"]
        ),
        "nse_paper": ["done_below=0.001"],
        "nse": ["done_below=0.001"],
    }.get(method, [])
    quick = ["steps=4", "lr=0.01" if method.startswith(("ft", "locft", "crisp")) else "lr=0.3"]
    if "network" in method_parameters(method):
        settings = [f"network={network_for(load_model(space.model))}"]
    result = space.call(method=method, hyper=None, layers="1", set=[*quick, *settings])
    assert result.exit_code == 0 and "5 edited" in result.stdout, result.output
    exported = space.call("export", device=None, edited=space.out, out=space.folder / "exported")
    if method in BESIDE:  # whose edits are not in the weights
        refused(exported, space.folder / "exported", "keeps something beside the weights")
    else:
        assert exported.exit_code == 0, exported.output


def test_fluency(space):
    """Generated text is measured at the end only, and the model's few positions are no obstacle."""
    assert space.call(fluency=True, evaluate_every=1).exit_code == 0
    rows = [json.loads(line) for line in (space.out / "scores.jsonl").read_text().splitlines()]
    assert [("fluency" in row) for row in rows] == [False, False, True] and 0 < rows[-1][
        "fluency"
    ] < 10


@pytest.mark.parametrize(
    "field", ["paraphrase_prompts", "neighborhood_prompts", "generation_prompts"]
)
def test_evaluation_prompt_longer_than_the_context(space, field):
    """It is left out and said, and the edit stays; in a run and when it is scored."""
    space.write("requests.json", [*RECORDS[:2], RECORDS[2] | {field: ["Yes", MANY]}])
    words = (f"case_id 2: {field}[1]: left out", "the model 64 positions")
    scored = {"edited": space.out, "requests": space.folder / "requests.json"}
    for result in (space.call(), space.call("score", **scored)):
        assert result.exit_code == 0, result.output
        assert all(word in result.stderr for word in words), result.stderr
    assert "3 edited" in space.call(out=space.folder / "again").stdout


def test_hyper_files(space):
    """Unknown fields, and fields that would change the result and cannot be honoured."""
    for content, words in [
        ({"v_num_grad_stepz": 3}, ("unknown field 'v_num_grad_stepz'", "v_num_grad_steps")),
        ({"fact_token": "last"}, ("fact_token = 'last' cannot be honoured", "'subject_last'")),
        ({"v_loss_layer": 1}, ("v_loss_layer = 1 cannot be honoured", "here it is 2")),
        ({"rewrite_module_tmp": "mlp.{}"}, ("rewrite_module_tmp = 'mlp.{}' cannot be honoured",)),
        ({"clamp_norm_factor": "much"}, ("clamp = 'much'",)),
        ([1], ("must hold an object",)),
    ]:
        refused(space.call(hyper=space.write("h.json", content), layers="0,1"), space.out, *words)
    space.write("h.json", {"mom2_dataset": "wikipedia"})
    refused(
        space.call(hyper=space.folder / "h.json", corpus=None),
        space.out,
        "cannot be honoured",
        "--moments",
    )


def test_context_files(space):
    for content, word in [
        ([["Yes. {}"]], 'the first group must be ["{}"]'),
        ([["{}"], ["no place"]], "'no place'"),
        (["{}"], "non-empty lists"),
    ]:
        refused(
            space.call(contexts=space.write("c.json", content)),
            space.out,
            "contexts: ",
            "c.json",
            word,
        )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.json", b'[{"case_id": 1,]'),
        ("r.jsonl", b'{"case_id": 1}\nno\n'),
        ("r.json", b""),
        ("r.json", '["ü"]'.encode("latin-1")),
    ],
)
def test_unreadable_requests(space, name, text):
    (space.folder / name).write_bytes(text)
    word = "cannot be read" if b"\xfc" in text else "not valid JSON" if text else "holds no records"
    refused(space.call(requests=space.folder / name), space.out, f"{name}: {word}")


def model_errors():
    """Name, what is done to the folder, words of the message."""

    def config(**changes):
        def change(folder):
            content = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(content | changes))

        return change

    def without(pattern):
        return lambda folder: [path.unlink() for path in folder.glob(pattern)]

    yield (
        "undeclared",
        config(model_type="bert"),
        "model type 'bert' is not declared; known are gpt2",
    )
    yield "unheard of", config(model_type="of-tomorrow"), "of-tomorrow"
    yield "no weights", without("*.safetensors"), "no model could be loaded from"
    yield "no tokenizer", without("*token*"), "there is no tokenizer"
    yield "nothing", without("*"), "broken"
    yield "no JSON", lambda folder: (folder / "config.json").write_text("{"), "broken"


@pytest.mark.parametrize(
    ("spoil", "word"),
    [case[1:] for case in model_errors()],
    ids=[case[0] for case in model_errors()],
)
def test_folders_that_are_no_models(space, spoil, word):
    folder = space.folder / "broken"
    shutil.copytree(space.model, folder)
    spoil(folder)
    refused(space.call(model=folder), space.out, word)


def test_record_of_another_model(space):
    """Neither scored nor exported; a folder without a run is no record."""
    assert space.call().exit_code == 0
    other, lm = space.folder / "other", build_lm("gpt2", seed=1)
    lm.model.save_pretrained(other)
    lm.tokenizer.save_pretrained(other)
    for command, options in (
        ("score", {"requests": space.folder / "requests.json"}),
        ("export", {"device": None, "out": space.folder / "new"}),
    ):
        wrong = space.call(command, model=other, edited=space.out, **options)
        refused(wrong, space.folder / "new", "edited: ", "was made on another model (fingerprint")
        none = space.call(command, edited=space.folder, **options)
        refused(none, space.folder / "new", "there is no run.json")


def no_constant(word: str):
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize("what", ["no true targets", "all refused"])
def test_json_without_nan(space, what):
    """Undefined metrics and refused rounds give null, in the record and in `score`'s report."""
    if what == "no true targets":
        space.write(
            "requests.json", [{k: v for k, v in r.items() if k != "target_true"} for r in RECORDS]
        )
    options = {"set": "max_update_ratio=1e-9"} if what == "all refused" else {}
    refused = what == "all refused"
    assert space.call(evaluate_every=1, **options).exit_code == int(refused)
    report = space.folder / "report.json"
    assert (
        space.call(
            "score", edited=space.out, requests=space.folder / "requests.json", out=report
        ).exit_code
        == 0
    )
    for path in [report, *space.out.glob("*.json*")]:
        text = path.read_text()
        for piece in text.splitlines() if path.suffix == ".jsonl" else [text]:
            json.loads(piece, parse_constant=no_constant)


@pytest.mark.parametrize("options", [{"evaluate_every": -1}, {"seed": "x"}, {"colour": "red"}])
def test_misuse(space, options):
    """What no command takes is a usage error, exit code 2, that names the option."""
    result = space.call(**options)
    assert result.exit_code == 2 and "--" + next(iter(options)).replace("_", "-") in result.stderr
    assert not space.out.exists()


@pytest.mark.parametrize("command", ["build", "train", "check", "train-editor"])
def test_help_of_the_world(command):
    result = CliRunner().invoke(app, ["world", command, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.stdout


def test_files_appear_whole(tmp_path, monkeypatch):
    """A write that fails leaves the old content, one that succeeds no temporary neighbour."""
    path, tensors = tmp_path / "a.json", tmp_path / "t.safetensors"
    write_json(path, {"a": 1})
    save_tensors(tensors, {"a": torch.ones(3)})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    with monkeypatch.context() as patch:
        patch.setattr(
            "seqedit.base.tensors.save_file",
            lambda tensors, part, *rest: Path(part).write_bytes(b"half") and 1 / 0,
        )
        with pytest.raises(ZeroDivisionError):
            save_tensors(tensors, {"a": torch.zeros(3)})
    assert json.loads(path.read_text()) == {"a": 1} and torch.equal(
        load_file(tensors)["a"], torch.ones(3)
    )
    write_json(path, {})
    save_tensors(tensors, {"a": torch.zeros(2, 3).T})
    assert json.loads(path.read_text()) == {} and load_file(tensors)["a"].shape == (3, 2)
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".safetensors", ".part"}
