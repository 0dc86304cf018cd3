"""Pretrained models, edited: `pytest -m real`, minutes each, where they are on this machine."""

import pandas as pd
import pytest

from seqedit.bench.rounds import bench_model_round
from seqedit.lm.registry import MODELS, locate
from seqedit.runs.config import RunConfig
from seqedit.runs.engine import run
from seqedit.runs.records import load_run

pytestmark = pytest.mark.real


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """The name of a packaged model that was fetched."""
    try:
        locate(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    return request.param


def test_a_round_is_what_the_plain_way_writes(model):
    """The literal transcription, one request at a time, and the loop: updates after two edits of
    all five layers. Products of other shapes round otherwise, and 25 Adam steps enlarge that.
    """
    found = bench_model_round(model, n_edits=4, plain_edits=2)
    assert 0 < found["updates_differ"] < 1e-5


@pytest.mark.parametrize("method", ["memit_seq", "alphaedit"])
def test_forty_facts(model, method, tmp_path):
    """With the settings that come along edits succeed, also in other words, most facts that the
    model knew are kept, and the weights are known to be de-quantised.
    """
    config = RunConfig(
        model=model, requests="facts", method=method, n_edits=40, batch_size=20, wild=True
    )
    run(config, tmp_path / "run")
    record = load_run(tmp_path / "run")
    last: pd.Series = record.scores.iloc[-1]
    assert last["edits.efficacy"] >= 0.95 and last["edits.paraphrase"] >= 0.8
    assert last["wild.wild_bare_contains"] >= 0.8
    assert last["known_facts"] > 30 and last["kept_facts"] >= 0.7
    before = record.run["unedited"]
    assert before["efficacy"] < 0.5 and last["edits.neighborhood"] > before["neighborhood"] - 0.2
    assert "de-quantised" in record.run["provenance"]["weights"]["weights"]


def test_a_folder_without_settings(model, tmp_path):
    """By its path the model has no settings: layers and prices come from the rules, and edit."""
    config = RunConfig(
        model=str(locate(model)), requests="facts", method="memit_seq", n_edits=20, batch_size=20
    )
    said: list[str] = []
    run(config, tmp_path / "run", say=said.append)
    assert any("scaled to the model's second moments" in remark for remark in said)
    assert any("by default the last ones up to a depth" in remark for remark in said)
    last = load_run(tmp_path / "run").scores.iloc[-1]
    assert last["edits.efficacy"] >= 0.9
