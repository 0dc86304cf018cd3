"""Second moments of different texts and lengths, compared."""

import json

import pandas as pd
import pytest
import torch
from conftest import SENTENCES, SIX_REQUESTS
from problems import accumulated
from safetensors.torch import load_file
from typer.testing import CliRunner

from seqedit.cli.main import app
from seqedit.moments.compare import compare_moments
from seqedit.moments.files import save_moments
from seqedit.study.moment_budgets import GIVEN, OWN, Budgets, compare_budgets

C = torch.diag(torch.tensor([1.0, 1.0, 0.01, 0.01, 0.01]))


def test_a_moment_equals_itself_and_its_double_only_in_its_null_space():
    same = compare_moments(C, C, 0.1)
    assert same.error == 0 and same.scale == 1 and same.overlap == pytest.approx(1)
    assert same.directions == same.reference_directions == 3 and same.chance == 3 / 5
    double = compare_moments(2 * C, C, 0.1)
    assert double.error == pytest.approx(1) and double.scale == pytest.approx(2)
    assert double.overlap == pytest.approx(1)


def test_overlap_counts_shared_directions():
    """Three quiet directions each, of which one is shared; and one that lies inside the three."""
    other = torch.diag(torch.tensor([0.01, 0.01, 0.01, 1.0, 1.0]))
    assert compare_moments(other, C, 0.1).overlap == pytest.approx(1 / 3)
    inside = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, 0.01]))
    found = compare_moments(inside, C, 0.1)
    assert found.overlap == pytest.approx(1) and found.directions == 1


def test_unrelated_null_spaces_overlap_by_chance():
    """Two random subspaces of 40 of 100 dimensions; 0.02 is three times the spread over draws."""
    g = torch.Generator().manual_seed(0)
    bases = [torch.linalg.qr(torch.randn(100, 100, generator=g))[0] for _ in range(2)]
    values = torch.cat([torch.full((40,), 0.01), torch.ones(60)])
    found = compare_moments(*(Q @ torch.diag(values) @ Q.T for Q in bases), 0.1)
    assert found.overlap == pytest.approx(found.chance, abs=0.02)


def test_files_of_different_models_are_not_compared(tmp_path):
    keys = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    for name in ("a", "b"):
        save_moments(tmp_path / name, {3: accumulated(keys)}, fingerprint=name)
    result = CliRunner().invoke(
        app, ["moments", "compare", str(tmp_path / "a"), str(tmp_path / "b")]
    )
    assert result.exit_code == 1 and "are of different models" in result.stderr


@pytest.fixture
def budgets(tmp_path, monkeypatch, tiny_folder):
    """Budgets of a tiny model and of two edits."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "requests.json"
    names = ("case_id", "prompt", "subject", "target_new", "target_true")
    rows = [dict(zip(names, (i, *six), strict=True)) for i, six in enumerate(SIX_REQUESTS[:2])]
    file.write_text(json.dumps(rows), encoding="utf-8")
    return Budgets(
        model=str(tiny_folder),
        corpus=tmp_path / "corpus.txt",
        multiples=(1, 4),
        reference=40,
        methods=("memit_seq",),
        requests=str(file),
        n_edits=2,
        batch_size=1,
    )


def test_longer_texts_come_closer(tmp_path, budgets):
    """Longer texts come closer to the reference, given text more than the model's own; every row
    has the scores of edits. Made again, nothing is computed anew and the table is the same.
    """
    budgets.corpus.write_text("\n".join(SENTENCES * 60) + "\n", encoding="utf-8")
    table = compare_budgets(budgets, tmp_path / "work")
    assert set(table.text) == {OWN, GIVEN} and set(table.budget) == {1, 4}
    error = table.groupby(["text", "budget"]).error.mean()
    assert error[GIVEN, 4] < error[GIVEN, 1] and error[GIVEN, 4] < error[OWN, 4]
    d_ff = next(iter(load_file(tmp_path / "work" / "own-1.safetensors").values())).shape[0]
    assert (table.tokens == table.budget * d_ff).all()
    assert table["memit_seq.efficacy"].notna().all()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    pd.testing.assert_frame_equal(compare_budgets(budgets, tmp_path / "work"), table)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_text_that_is_too_short_is_named(tmp_path, budgets):
    budgets.corpus.write_text("One line of text.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"corpus\.txt .* the reference is to follow"):
        compare_budgets(budgets, tmp_path / "work")
