"""Second moments over text that the model writes itself, and layers for a model nobody tuned."""

import json
from collections import Counter

import pytest
import torch
from conftest import relative
from typer.testing import CliRunner
from workspace import Workspace

from seqedit.base.files import file_digest
from seqedit.base.jsonl import read_jsonl
from seqedit.cli.main import app
from seqedit.evaluation.abilities import perplexity
from seqedit.evaluation.generation import generate
from seqedit.exchange.edited import put_edited
from seqedit.lm.default_layers import default_layers
from seqedit.lm.load import load_model
from seqedit.lm.tokens import tokenise
from seqedit.moments.cache import corpus_moments
from seqedit.moments.files import load_moments
from seqedit.runs.records import read_run
from seqedit.runs.self_text import BUDGET, MEASURED, STARTS, self_text


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))


def test_the_text_is_the_model_s_own_and_the_same_each_time(tiny_lm):
    lm = tiny_lm()
    path = self_text(lm)
    lines = path.read_text(encoding="utf-8").splitlines()
    words = [line.split()[0] for line in lines]
    assert all(word.startswith(start) for word, start in zip(words, STARTS, strict=False))
    tokens = sum(len(ids) for ids in tokenise(lm, lines).ids)
    assert tokens >= 0.9 * BUDGET * 64  # d_ff is 64; some tokens merge when read again
    before = path.read_bytes()
    assert self_text(lm) == path  # it is there
    path.unlink()
    assert self_text(lm) == path and path.read_bytes() == before
    assert self_text(lm, seed=1).read_bytes() != before
    assert self_text(tiny_lm("llama")) != path


def test_sampling_is_at_temperature_one(tiny_lm):
    """Frequencies of the next token are the model's probabilities, not those of a few best ones."""
    lm = tiny_lm()
    ids = tokenise(lm, ["The"]).ids[0]
    p = lm.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    generator, n = torch.Generator().manual_seed(0), 4000
    texts = generate(lm, ["The"] * n, generator, length=2, top_k=0, batch=1000)
    end = lm.tokenizer.eos_token_id  # suppressed
    of_text: Counter[str] = Counter()
    for token, share in enumerate(p.tolist()):
        if token != end:
            text = lm.tokenizer.decode([*ids, token], skip_special_tokens=True)
            of_text[text] += share / (1 - p[end].item())
    found = Counter(texts)
    for text, share in of_text.most_common(30):
        assert abs(found[text] / n - share) < 5 * (share / n) ** 0.5, text
    assert len(found) > 100  # far more than top-k sampling leaves


def test_commands_take_it(tmp_path, tiny_folder):
    """`--corpus self` and no corpus at all give the same moments; the record says so."""
    space = Workspace(tmp_path, tiny_folder)
    out = tmp_path / "moments.safetensors"
    words = ["moments", "--model", str(space.model), "--corpus", "self", "--layers", "0,1"]
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    lm = load_model(space.model, device="cpu")
    expected = corpus_moments(lm, self_text(lm), [0, 1])
    for layer, C in load_moments(out).C.items():
        assert relative(C, expected[layer]) < 1e-6
    for corpus in (None, "self"):
        words = {"corpus": corpus, "hyper": None, "set": ["lam=0.5", "steps=4"]}
        done = space.call(**words, out=tmp_path / f"run-{corpus}")
        assert done.exit_code == 0, done.output
        assert "text that the model writes itself" in done.stderr
        run = read_run(tmp_path / f"run-{corpus}")  # what C was computed from is in the record
        assert run["parameters"]["files"]["corpus"] == file_digest(self_text(lm))
    assert f"layers: {default_layers(lm.n_layers)}, by default" in done.stderr


@pytest.mark.parametrize("given", ["file", "self"])
def test_perplexity_of_a_text(tmp_path, tiny_folder, given):
    """A run states it before the edits and after, `score` the same; the text is in the record."""
    space = Workspace(tmp_path, tiny_folder)
    lm = load_model(space.model, device="cpu")
    file = space.write("text.txt", "I heard a song.\nThe old town is quiet.\n")
    word, file = ("self", self_text(lm, MEASURED, seed=1)) if given == "self" else (file, file)
    done = space.call(perplexity_text=word, evaluate_every=1)
    assert done.exit_code == 0, done.output
    run, scores = read_run(space.out), read_jsonl(space.out / "scores.jsonl")
    assert run["parameters"]["files"]["perplexity_text"] == file_digest(file)
    texts = file.read_text(encoding="utf-8").splitlines()
    assert run["unedited"]["text_perplexity"] == pytest.approx(perplexity(lm, texts), rel=1e-6)
    put_edited(lm, space.out)
    after = [row["text_perplexity"] for row in scores]
    assert len(after) == 3 and after[-1] == pytest.approx(perplexity(lm, texts), rel=1e-5)
    assert len({run["unedited"]["text_perplexity"], *after}) == 4
    words = {"edited": space.out, "requests": space.folder / "requests.json"}
    told = space.call("score", **words, perplexity_text=word, out=tmp_path / "report.json")
    assert told.exit_code == 0, told.output
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["text_perplexity"] == pytest.approx(after[-1], rel=1e-5)
    unedited = run["unedited"]["text_perplexity"]
    assert report["unedited"] == {"text_perplexity": pytest.approx(unedited, rel=1e-6)}


def test_without_a_text_nothing_is_recorded(tmp_path, tiny_folder):
    space = Workspace(tmp_path, tiny_folder)
    assert space.call().exit_code == 0
    run = read_run(space.out)
    assert "perplexity_text" not in run["parameters"]["files"]
    assert "text_perplexity" not in run["unedited"]
    assert all("text_perplexity" not in row for row in read_jsonl(space.out / "scores.jsonl"))


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read"), ("\n \n", "holds no text")]
)
def test_a_text_that_cannot_be_measured(tmp_path, tiny_folder, content, reason):
    """It is refused by its name, before anything is written."""
    space = Workspace(tmp_path, tiny_folder)
    file = tmp_path / "none.txt" if content is None else space.write("text.txt", content)
    done = space.call(perplexity_text=file)
    assert done.exit_code == 1 and not space.out.exists()
    assert f"error: perplexity_text: {file} {reason}" in done.stderr


@pytest.mark.parametrize(
    ("n_layers", "layers"),
    [
        (48, [10, 11, 12, 13, 14]),
        (32, [6, 7, 8, 9, 10]),
        (30, [5, 6, 7, 8, 9]),
        (18, [1, 2, 3, 4, 5]),
        (6, [0, 1, 2]),
        (3, [0, 1]),
        (1, [0]),
    ],
)
def test_default_layers(n_layers, layers):
    assert default_layers(n_layers) == layers
