"""What is measured before the first edit is measured once for runs that begin alike, and anew for
all others.
"""

import pandas as pd
import pytest
import torch

from seqedit.evaluation.edits import score_edits
from seqedit.lm.weights import apply_update, read_weight
from seqedit.runs import baseline as unedited
from seqedit.runs.baseline import measure_unedited


def test_runs_that_begin_alike_share_it(tiny_lm, requests, monkeypatch):
    """The same object for an equal model, and what is scored without sharing.

    Other requests or weights: anew.
    """
    monkeypatch.setattr(unedited, "_FOUND", {})
    lm = tiny_lm()
    first = measure_unedited(lm, requests, None)
    assert measure_unedited(tiny_lm(), requests, None) is first and first.states is None
    pd.testing.assert_frame_equal(first.scores, score_edits(tiny_lm(), requests), check_exact=True)
    others = [measure_unedited(lm, requests[::-1], None)]
    apply_update(lm, 0, torch.ones_like(read_weight(lm, 0)))
    others.append(measure_unedited(lm, requests, None))
    assert all(other is not first for other in others) and others[0] is not others[1]
    assert not others[1].scores["probability"].equals(first.scores["probability"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_number_formats_are_told_apart(tiny_lm, requests, monkeypatch, dtype):
    monkeypatch.setattr(unedited, "_FOUND", {})
    measure_unedited(tiny_lm(), requests, None)
    lm = tiny_lm()
    lm.model.to(dtype)
    measure_unedited(lm, requests, None)
    assert len(unedited._FOUND) == (1 if dtype is torch.float32 else 2)
