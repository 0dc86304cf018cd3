"""Second moments over long texts: windows, budgets, datasets, killed and resumed, merged, refused.

Everything is compared bit for bit, unless batches differ: then 1e-6, float32's round-off.
"""

import json
import os
import signal
from itertools import islice

import pytest
import torch
from conftest import SENTENCES, relative
from problems import accumulated

from seqedit.algebra.second_moment import SecondMoment, top_eigenvalues
from seqedit.base.tensors import read_metadata
from seqedit.lm.fingerprint import fingerprint, identity
from seqedit.lm.load import load_model
from seqedit.lm.second_moments import Reading, accumulate_moments, collect_second_moments
from seqedit.moments import collect as module
from seqedit.moments.collect import collect_to_file
from seqedit.moments.corpus import WIKIPEDIA, Corpus
from seqedit.moments.files import check_belongs, load_moments, save_moments
from seqedit.moments.merge import merge_files

TEXTS = [f"{sentence} {sentence[:i]}" for i in range(3, 30) for sentence in SENTENCES] + ["", "I"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def read(lm, reading, texts=TEXTS, place=None, moments=None, batches=None):
    """Moments after so many batches, and the place."""
    moments = {} if moments is None else moments
    *_, end = islice(accumulate_moments(lm, texts, (0, 2), reading, moments, place), batches)
    return moments, end


def test_windows_change_nothing_but_batches(tiny_lm):
    """Every token is counted once, whatever the window; one window is the plain collection, bit for
    bit.
    """
    lm = tiny_lm("gpt2")
    expected = collect_second_moments(lm, TEXTS, (0, 2), progress=False)
    for window in (1, 500, None):
        moments, place = read(lm, Reading(window=window, batch_tokens=256 if window else 16_384))
        assert (
            place.documents == len(TEXTS) and place.tokens == moments[0].count == expected[0].count
        )
        assert relative(moments[2].sum, expected[2].sum) < 1e-6
    assert torch.equal(moments[2].sum, expected[2].sum)


@pytest.mark.parametrize("budget", [1, 37, 1000])
def test_budget_and_length(tiny_lm, budget):
    """Exactly so many tokens, the first ones of the text, each document cut to the length."""
    lm, length = tiny_lm("gpt2", bos=True), 9
    moments, _ = read(lm, Reading(window=300, tokens=budget, length=length, batch_tokens=64))
    expected, left = SecondMoment(64), budget
    rows = [ids[:length] for text in TEXTS if (ids := lm.tokenizer(text)["input_ids"])]
    handle = lm.down_proj(2).register_forward_hook(lambda _, args, __: expected.update(args[0][0]))
    for row in rows:
        if row[:left]:
            lm.model(torch.tensor([row[:left]]))
        left -= len(row[:left])
    handle.remove()
    assert moments[2].count == expected.count == budget
    assert relative(moments[2].sum, expected.sum) < 1e-6


def test_batches_hold_equally_many_tokens(tiny_lm, monkeypatch):
    """Rows of a batch are of similar length: less than a fifth of it is padding, and none is over
    the budget.
    """
    lm, sizes = tiny_lm("gpt2"), []
    monkeypatch.setattr(
        "seqedit.lm.second_moments._add_keys",
        lambda lm, rows, *rest: sizes.append(
            (len(rows) * max(map(len, rows)), sum(map(len, rows)))
        ),
    )
    read(lm, Reading(batch_tokens=512))
    assert all(padded <= 512 for padded, _ in sizes)
    assert sum(tokens for _, tokens in sizes) > 0.8 * sum(padded for padded, _ in sizes)
    assert min(padded for padded, _ in sizes[:-1]) > 0.8 * 512


def test_going_on_from_any_batch(tiny_lm):
    """Stopped after any batch and taken up from the place: the same bits."""
    lm, reading = tiny_lm("gpt2"), Reading(window=2000, batch_tokens=256)
    whole, end = read(lm, reading)
    for batches in (1, 4, 9):
        moments, place = read(lm, reading, batches=batches)
        moments, place = read(lm, reading, TEXTS[place.documents :], place, moments)
        assert (
            place == end
            and torch.equal(moments[0].sum, whole[0].sum)
            and moments[0].count == whole[0].count
        )


def test_chunks_are_round_off(tiny_lm):
    """Products of few keys at a time add up to the same; the converse, no chunk may be lost, is in
    the count.
    """
    keys = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    whole, chunked = accumulated(keys), SecondMoment(8)
    chunked.update(keys, chunk=7)
    assert chunked.count == 1000 and 0 < relative(chunked.sum, whole.sum) < 1e-6


def test_killed_and_resumed(tmp_path, tiny_folder, text):
    """kill −9 right after a checkpoint; run again, the file is that of an uninterrupted run, bit
    for bit.
    """
    killed, plain = tmp_path / "killed.safetensors", tmp_path / "plain.safetensors"
    lm, said = load_model(tiny_folder, device="cpu"), []

    def start(out):
        collect_to_file(
            lm,
            Corpus(file=text),
            (0, 2),
            out,
            Reading(window=2000, batch_tokens=256),
            save_every=700,
            say=said.append,
        )

    if (child := os.fork()) == 0:
        written, save = [], module.save_tensors

        def save_and_die(*args):
            save(*args)
            written.append(1)
            if len(written) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        module.save_tensors = save_and_die
        start(killed)
        os._exit(0)
    assert (
        os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        and not killed.exists()
    )
    start(killed)
    assert len(said) == 1 and said[0].startswith("resuming after ")
    start(plain)
    left, right = load_moments(killed), load_moments(plain)
    assert all(torch.equal(left.C[layer], right.C[layer]) for layer in (0, 2))
    assert (left.counts, left.about, left.fingerprint) == (
        right.counts,
        right.about,
        right.fingerprint,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "killed.safetensors",
        "plain.safetensors",
        "text.txt",
    ]


def test_the_file_says_where_it_comes_from(tmp_path, tiny_folder, text):
    """Counts, traces, largest eigenvalues, digests of model, tokenizer and text; again, nothing is
    computed.
    """
    from safetensors import safe_open

    lm, out = load_model(tiny_folder, device="cpu"), tmp_path / "new" / "m.safetensors"
    found = collect_to_file(lm, Corpus(file=text), (0, 2), out, Reading(tokens=500))
    with safe_open(out, framework="pt") as file:
        metadata = {
            name: json.loads(value)
            for name, value in read_metadata(file).items()
            if name not in ("fingerprint", "content")
        }
    assert found.counts == {0: 500, 2: 500} and found.fingerprint == fingerprint(lm)
    assert (
        identity(lm).items() <= found.about.items() and found.about["corpus"]["file"] == "text.txt"
    )
    eigenvalues = torch.linalg.eigvalsh(found.C[2].double()).flip(0)
    assert metadata["traces"]["2"] == pytest.approx(eigenvalues.sum().item(), rel=1e-5)
    assert metadata["top_eigenvalues"]["2"] == pytest.approx(eigenvalues[:10].tolist(), rel=1e-3)
    said = []
    assert (
        collect_to_file(
            lm, Corpus(file=text), (0, 2), out, Reading(tokens=500), say=said.append
        ).counts
        == found.counts
    )
    assert said == [f"{out} is complete"]
    for layers, reading, word in (
        ((0,), Reading(tokens=500), "another layers"),
        ((0, 2), Reading(tokens=501), "another reading"),
    ):
        with pytest.raises(ValueError, match=word):
            collect_to_file(lm, Corpus(file=text), layers, out, reading)


def test_an_interrupted_run_of_another_text_is_refused(tmp_path, tiny_folder, text, monkeypatch):
    lm, out = load_model(tiny_folder, device="cpu"), tmp_path / "m.safetensors"
    monkeypatch.setattr(module, "save_moments", lambda *args, **rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        collect_to_file(lm, Corpus(file=text), (0,), out, Reading(batch_tokens=256), save_every=1)
    text.write_text("Another text.")
    with pytest.raises(ValueError, match="checkpoint has another corpus"):
        collect_to_file(lm, Corpus(file=text), (0,), out, Reading(batch_tokens=256))


def test_largest_eigenvalues():
    """Of a spectrum that decays like those of real layers, to a thousandth, never too large."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64))[0]
    values = 1 / torch.arange(1, 301).double()
    found = torch.tensor(top_eigenvalues((Q * values) @ Q.T), dtype=torch.float64)
    assert (found <= values[:10] * (1 + 1e-12)).all() and relative(found, values[:10]) < 1e-3


def test_merged_jobs(tmp_path, tiny_folder, text):
    """Parts of a text, merged, are the whole text: counts exactly, means to 1e-6."""
    lm, paths = (
        load_model(tiny_folder, device="cpu"),
        [tmp_path / f"{i}.safetensors" for i in range(3)],
    )
    for i, path in enumerate(paths):
        collect_to_file(lm, Corpus(file=text, part=(i, 3)), (0, 2), path, Reading())
    counts = merge_files(paths, tmp_path / "all.safetensors")
    merged, expected = (
        load_moments(tmp_path / "all.safetensors"),
        collect_second_moments(lm, TEXTS, (0, 2)),
    )
    assert counts == merged.counts == {0: expected[0].count, 2: expected[2].count}
    assert relative(merged.C[2], expected[2].mean) < 1e-6
    check_belongs(tmp_path / "all.safetensors", merged, lm)
    counts = merge_files(
        [tmp_path / "all.safetensors", _other(tmp_path, lm)], tmp_path / "more.safetensors"
    )
    assert counts[0] > merged.counts[0]  # what was merged may be merged again
    with pytest.raises(ValueError, match="are of the same text"):
        merge_files([paths[0], tmp_path / "all.safetensors"], tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="at least two"):
        merge_files(paths[:1], tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def _other(folder, lm):
    path = folder / "other.txt"
    path.write_text("Another text.")
    collect_to_file(lm, Corpus(file=path), (0, 2), folder / "other.safetensors", Reading())
    return folder / "other.safetensors"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"fingerprint": "b"}, 'another fingerprint: "b" instead of "a"'),
        ({"layers": (0, 1)}, "another layers"),
        ({"about": {"tokenizer": "x"}}, "another tokenizer"),
        ({"about": {"reading": {"length": 5}}}, "another length"),
        ({"size": 4}, "another sizes"),
    ],
)
def test_what_does_not_fit_is_not_merged(tmp_path, change, word):
    def save(name, fingerprint="a", layers=(0,), size=3, about=None):
        moments = {layer: accumulated(torch.eye(size)) for layer in layers}
        save_moments(tmp_path / name, moments, fingerprint=fingerprint, about=about)
        return tmp_path / name

    left, right = save("left"), save("right", **change)
    with pytest.raises(ValueError, match=f"right has {word}"):
        merge_files([left, right], tmp_path / "out")


def test_other_models_are_refused_by_name(tmp_path, tiny_lm):
    """Weights and tokenizer are told apart; the same weights in bfloat16 are the same model."""
    lm = tiny_lm("gpt2")
    save_moments(tmp_path / "m", {0: accumulated(torch.eye(3))}, about=identity(lm))
    moments = load_moments(tmp_path / "m")
    check_belongs(tmp_path / "m", moments, lm)
    half = tiny_lm("gpt2")
    half.model.bfloat16()
    check_belongs(tmp_path / "m", moments, half)
    assert fingerprint(half) != fingerprint(lm)
    with pytest.raises(ValueError, match="its model differ "):
        check_belongs(tmp_path / "m", moments, tiny_lm("gpt2", seed=1))
    half.tokenizer.add_tokens(["another"])
    with pytest.raises(ValueError, match="its tokenizer differ "):
        check_belongs(tmp_path / "m", moments, half)


def test_datasets(tmp_path, tiny_folder, text):
    """A local dataset is streamed by `datasets`; the same documents as a file give the same
    numbers.
    """
    folder = tmp_path / "set"
    folder.mkdir()
    lines = [json.dumps({"id": i, "words": line}) for i, line in enumerate(TEXTS)]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lm = load_model(tiny_folder, device="cpu")
    found = collect_to_file(
        lm, Corpus(dataset=str(folder), column="words"), (0,), tmp_path / "a", Reading()
    )
    expected = collect_to_file(lm, Corpus(file=text), (0,), tmp_path / "b", Reading())
    assert torch.equal(found.C[0], expected.C[0])
    assert list(Corpus(dataset=str(folder), column="words", part=(1, 3)).texts(2)) == TEXTS[7::3]
    with pytest.raises(ValueError, match="no text in column 'text'; columns are id, words"):
        next(Corpus(dataset=str(folder)).texts())


def test_hub_datasets_are_pinned():
    assert Corpus(dataset="wikipedia").describe() == WIKIPEDIA
    for wrong, word in (
        ({"dataset": "someone/text"}, "name the commit"),
        ({}, "give either"),
        ({"dataset": "someone/text", "revision": "main"}, "name the commit"),
        ({"dataset": "wikipedia", "part": (2, 2)}, "part 2/2"),
    ):
        with pytest.raises(ValueError, match=word):
            Corpus(**wrong)


def test_commands(space, text):
    """Parts, merged, made compact: and an edit by AlphaEdit takes the file, one by MEMIT says why
    not.
    """
    folder = space.folder
    for i in range(2):
        done = space.call(
            "moments",
            corpus=text,
            layers="0,1",
            out=folder / f"{i}.st",
            part=f"{i}/2",
            save_every=500,
        )
        assert done.exit_code == 0, done.stderr

    def call(*words):
        from typer.testing import CliRunner

        from seqedit.cli.main import app

        return CliRunner().invoke(app, ["moments", *map(str, words)])

    assert (
        "tokens, layers 0, 1"
        in call("merge", folder / "0.st", folder / "1.st", "--out", folder / "all.st").stdout
    )
    done = call("compact", folder / "all.st", "--floor", "0.05", "--out", folder / "compact.st")
    assert (
        done.exit_code == 0 and "directions kept" in done.stdout and " MB, before " in done.stdout
    )
    small = {"moments": folder / "compact.st", "corpus": None}
    done = space.call(
        **small,
        method="alphaedit",
        hyper=space.write("a.json", {"layers": [0, 1], "threshold": 0.1}),
    )
    assert done.exit_code == 0, done.stderr
    done = space.call(**small, out=folder / "other")
    assert done.exit_code == 1 and "they are compact" in done.stderr
    done = space.call(
        **small,
        method="alphaedit",
        out=folder / "other",
        hyper=space.write("a.json", {"layers": [0, 1], "threshold": 0.01}),
    )
    assert done.exit_code == 1 and "keep nothing below 0.05" in done.stderr
    wrong = space.call("moments", corpus=text, layers="0,1", out=folder / "2.st", part="2")
    assert wrong.exit_code == 1 and "expected i/n" in wrong.stderr
    assert call("--model", space.model).exit_code == 2
    assert "Usage" in call("--help").stdout


def test_real_text(benchmarks, tiny_folder, tmp_path):
    """Wikipedia through windows, in bfloat16, close to float32: 1 % is bfloat16's 8 bits through
    three layers.
    """
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        lm = load_model(tiny_folder, device="cpu", dtype=dtype)
        found[dtype] = collect_to_file(
            lm,
            Corpus(file=benchmarks / "wikipedia_3MB.txt"),
            (0, 2),
            tmp_path / str(dtype),
            Reading(tokens=20_000, window=20_000),
        ).C[2]
    assert 0 < relative(found[torch.bfloat16], found[torch.float32]) < 1e-2
