"""What is measured before the first edit is measured once for runs that begin alike, and anew for
all others.
"""

import pandas as pd
import pytest
import torch

from seqedit.evaluation.edits import score_edits
from seqedit.lm.weights import apply_update, read_weight
from seqedit.runs import baseline
from seqedit.runs.baseline import measure_baseline


def test_runs_that_begin_alike_share_it(tiny_lm, requests, monkeypatch):
    """The same object for an equal model, and what is scored without sharing; other requests or
    weights: anew.
    """
    monkeypatch.setattr(baseline, "_MEASURED", {})
    lm = tiny_lm()
    first = measure_baseline(lm, requests, None)
    assert measure_baseline(tiny_lm(), requests, None) is first and first.states is None
    pd.testing.assert_frame_equal(first.scores, score_edits(tiny_lm(), requests), check_exact=True)
    others = [measure_baseline(lm, requests[::-1], None)]
    apply_update(lm, 0, torch.ones_like(read_weight(lm, 0)))
    others.append(measure_baseline(lm, requests, None))
    assert all(other is not first for other in others) and others[0] is not others[1]
    assert not others[1].scores["probability"].equals(first.scores["probability"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_number_formats_are_told_apart(tiny_lm, requests, monkeypatch, dtype):
    monkeypatch.setattr(baseline, "_MEASURED", {})
    measure_baseline(tiny_lm(), requests, None)
    lm = tiny_lm()
    lm.model.to(dtype)
    measure_baseline(lm, requests, None)
    assert len(baseline._MEASURED) == (1 if dtype is torch.float32 else 2)
