"""Benchmarks by name, from stand-ins for the hub, and real records end to end if they are here."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SENTENCES
from test_formats import COUNTERFACT, KNOWEDIT
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner
from workspace import Workspace

from seqedit.base.files import sha256
from seqedit.cli.main import app
from seqedit.requests import published
from seqedit.requests.benchmarks import BENCHMARKS, download
from seqedit.requests.published import load_request_set
from seqedit.requests.request import RequestError
from seqedit.runs.records import load_run

ZSRE = {
    "subject": "Ada",
    "src": "Where is Ada?",
    "alt": "Rome",
    "rephrase": "Ada is where?",
    "answers": ["Bonn"],
    "loc": "nq question: a town",
    "loc_ans": "Elvinn",
}
CONTRADICTION = COUNTERFACT | {
    "case_id": 9,
    "requested_rewrite": COUNTERFACT["requested_rewrite"]
    | {"prompt": "{} speaks", "target_new": {"str": "Dutch", "id": "Q7411"}},
}
OTHER = COUNTERFACT | {
    "case_id": 2,
    "requested_rewrite": COUNTERFACT["requested_rewrite"]
    | {"prompt": "{} was born in", "relation_id": "P19"},
}
CONTENT = {
    "counterfact": [[CONTRADICTION], [COUNTERFACT, OTHER]],
    "mcf": [[COUNTERFACT, CONTRADICTION]],
    "mcf-1000": [[COUNTERFACT, CONTRADICTION]],
    "mcf-3000": [[COUNTERFACT], [OTHER], [CONTRADICTION]],
    "zsre": [[ZSRE, ZSRE | {"alt": ""}]],
    "wikidata_counterfact": [[KNOWEDIT]],
}
LEFT = {
    "counterfact": {"contradicts an earlier record": 1},
    "mcf": {"contradicts an earlier record": 1},
    "mcf-1000": {"contradicts an earlier record": 1},
    "mcf-3000": {"contradicts an earlier record": 1},
    "zsre": {"wrong record": 1},
    "wikidata_counterfact": {},
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A `download` that serves `CONTENT` under names without suffix, as the cache of `datasets` has
    them.
    """

    def serve(name: str, file: str):
        path = tmp_path / f"{name}-{list(BENCHMARKS[name].files).index(file)}"
        rows = CONTENT[name][list(BENCHMARKS[name].files).index(file)]
        if file.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text(json.dumps(rows))
        return path

    for name, benchmark in BENCHMARKS.items():
        pinned = {file: sha256(serve(name, file)) for file in benchmark.files}
        monkeypatch.setitem(BENCHMARKS, name, replace(benchmark, files=pinned))
    monkeypatch.setattr(published, "download", serve)
    return serve


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_by_name_is_cleaned_and_pinned(hub, name):
    """Cleaned, in the authors' order, with checksums and revision."""
    loaded = load_request_set(name)
    assert {reason: len(messages) for reason, messages in loaded.left_out.items()} == LEFT[name]
    assert loaded.origin == {
        "benchmark": name,
        "revision": BENCHMARKS[name].revision or None,
        "sha256": dict(BENCHMARKS[name].files),
    }
    ids = {"counterfact": [2, 5], "mcf": [5], "mcf-1000": [5], "mcf-3000": [5, 2]}
    assert [r.case_id for r in loaded.rounds[0]] == ids.get(name, [0])
    assert bool(loaded.summary()) == bool(LEFT[name])


def test_every_benchmark_is_pinned():
    """A full commit hash on the hub; elsewhere a checksum, or what was loaded is recorded."""
    for name, benchmark in BENCHMARKS.items():
        assert not benchmark.hub or len(benchmark.revision) == 40, name
        assert all(pin is None or len(pin) == 64 for pin in benchmark.files.values()), name
        address = benchmark.by_hand if benchmark.hub else benchmark.address
        assert address.startswith("https://"), name
        assert benchmark.hub or not benchmark.by_hand, name


def test_another_content_is_refused(hub, monkeypatch):
    pins = dict.fromkeys(BENCHMARKS["zsre"].files, "0" * 64)
    monkeypatch.setitem(BENCHMARKS, "zsre", replace(BENCHMARKS["zsre"], files=pins))
    with pytest.raises(
        ValueError, match="zsre_mend_eval.json has SHA-256 .* not the pinned 0000.*by its path"
    ):
        load_request_set("zsre")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_offline_says_what_to_fetch_by_hand(name, monkeypatch, tmp_path):
    """Without a network the message says which file to get, where, and how to give it."""
    monkeypatch.setenv("SEQEDIT_BENCHMARKS", str(tmp_path))

    def nowhere(*args, **kwargs):
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", nowhere)
    monkeypatch.setattr("datasets.DownloadManager.download", nowhere)
    give = r"give the file: --requests .*\.json$" if BENCHMARKS[name].hub else "put it into .*"
    expected = rf"cannot be fetched \(ConnectionError: no route to host\); get https://.*{give}"
    with pytest.raises(ValueError, match=expected):
        download(name, next(iter(BENCHMARKS[name].files)))


def test_a_file_that_was_got_by_hand(monkeypatch, tmp_path):
    """A benchmark's file in the folder is taken without a network, if it is the pinned one."""
    monkeypatch.setenv("SEQEDIT_BENCHMARKS", str(tmp_path))
    file = tmp_path / "random_subset_1.json"
    file.write_text(json.dumps([COUNTERFACT]))
    with pytest.raises(ValueError, match="random_subset_1.json has SHA-256 .* not the pinned"):
        load_request_set("mcf-1000")
    pinned = replace(BENCHMARKS["mcf-1000"], files={file.name: sha256(file)})
    monkeypatch.setitem(BENCHMARKS, "mcf-1000", pinned)
    loaded = load_request_set("mcf-1000")
    assert [r.case_id for r in loaded.requests] == [COUNTERFACT["case_id"]]
    assert loaded.origin["sha256"] == pinned.files


def test_file_is_refused_or_cleaned(tmp_path):
    """A file is refused for one wrong record, unless cleaned.

    A word that is no benchmark is said to be none.
    """
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps([ZSRE, ZSRE | {"alt": ""}]))
    with pytest.raises(
        RequestError, match=r"zsre.json, record 1 \(case_id 1\): target_new: is empty"
    ):
        load_request_set(path)
    loaded = load_request_set(path, clean=True)
    assert len(loaded.rounds[0]) == 1 and loaded.origin == sha256(path)[:16]
    assert loaded.summary() == (
        "1 of 2 records; left out: 1 wrong record. The first: zsre.json, record 1 (case_id 1): "
        "target_new: is empty"
    )
    with pytest.raises(
        RequestError,
        match="'zrse' is neither a file nor a benchmark; benchmarks are counterfact, mcf",
    ):
        load_request_set("zrse")


def test_run_on_a_benchmark_by_name(hub, tmp_path, tiny_folder, monkeypatch):
    """`--requests zsre`: what was left out is said and recorded, the checksum is among the
    parameters.
    """
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    space = Workspace(tmp_path, tiny_folder)
    result = space.call(requests="zsre")
    assert (
        result.exit_code == 0 and "zsre: 1 of 2 records; left out: 1 wrong record" in result.stderr
    )
    assert "locality_gold" in result.stdout and "locality_unedited" in result.stdout
    record = load_run(space.out)
    assert record.run["parameters"]["files"]["requests"]["sha256"] == BENCHMARKS["zsre"].files
    assert record.run["left_out"] == {
        "wrong record": {"count": 1, "first": "zsre, record 1 (case_id 1): target_new: is empty"}
    }
    assert {"edits.efficacy_tokens", "edits.locality_gold", "edits.locality_unedited"} <= set(
        record.scores
    )
    scored = space.call("score", requests="zsre", edited=space.out)
    assert scored.exit_code == 0 and json.loads(scored.stdout)["edits"]["locality_unedited"] <= 1


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
@pytest.mark.parametrize("file", ["counterfact_500.json", "zsre_1000.json"])
def test_real_records_end_to_end(benchmarks, tmp_path, monkeypatch, model_type, file):
    """The first real records, the real GPT-2 tokenizer, a tiny random model.

    Edited, measured, recorded.
    """
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(benchmarks / "gpt2_tokenizer")
    sizes = (
        {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 128}
        if model_type == "gpt2"
        else {
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 40,
            "max_position_embeddings": 128,
        }
    )
    config = AutoConfig.for_model(
        model_type, vocab_size=len(tokenizer), initializer_range=0.2, **sizes
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "corpus.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    loaded = load_request_set(benchmarks / file, clean=True)
    total = sum(map(len, loaded.rounds)) + sum(map(len, loaded.left_out.values()))
    assert (
        total == (500 if "counterfact" in file else 1000)
        and sum(map(len, loaded.rounds)) >= total - 2
    )
    result = CliRunner().invoke(
        app,
        [
            "edit",
            "--model",
            str(tmp_path / "model"),
            "--requests",
            str(benchmarks / file),
            "--clean",
            "--method",
            "memit_seq",
            "--layers",
            "0,1",
            "--set",
            "lam=10",
            "--set",
            "steps=3",
            "--n-edits",
            "4",
            "--batch-size",
            "2",
            "--corpus",
            str(tmp_path / "corpus.txt"),
            "--out",
            str(tmp_path / "out"),
            "--device",
            "cpu",
        ],
    )
    assert result.exit_code == 0, result.stderr
    record = load_run(tmp_path / "out")
    assert len(record.outcomes) == 4 and set(record.outcomes["status"]) <= {
        "edited",
        "already satisfied",
        "refused",
    }
    last = record.scores.iloc[-1]
    measured = (
        ["efficacy", "neighborhood", "neighborhood_tokens"]
        if "counterfact" in file
        else [
            "efficacy_tokens",
            "efficacy_accuracy",
            "paraphrase_tokens",
            "locality_gold",
            "locality_unedited",
        ]
    )
    assert all(0 <= last[f"edits.{name}"] <= 1 for name in measured)
