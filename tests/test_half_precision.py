"""Half precision, tiny models and every method: each request has an outcome, and nothing divides
by zero.
"""

import warnings

import pytest
import torch
from conftest import MODEL_TYPES, build_lm
from runs import every_method, method_and_plan

from seqedit.editing.sequential import handed_over, run_sequential
from seqedit.evaluation.edits import score_edits

STATUSES = {"edited", "already satisfied", "refused"}


def outcomes(requests, name, model_type, dtype, scale=1.0):
    """What becomes of two rounds of one request; weights are multiplied by `scale` first.

    Scores are asked for, too. A ValueError in one line is a refusal of the whole run.
    """
    lm = build_lm(model_type)
    for parameter in lm.model.parameters():
        parameter.mul_(scale)
    lm.model.to(dtype)
    method, plan = method_and_plan(lm, name)
    rounds, found, state = [requests[:1], requests[1:2]], [], None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflow of a model whose weights are multiplied
        try:
            for done in run_sequential(lm, rounds, method, plan):
                found += done.outcomes
                state = done.state
            with handed_over(lm, method, state):
                score_edits(lm, requests[:2])
        except ValueError as error:
            assert "\n" not in str(error)
            return []
    assert [outcome.case_id for outcome in found] == [r.case_id for r in requests[:2]]
    return [outcome.status for outcome in found]


@every_method
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_every_method(requests, name, scale):
    """With the weights as they are, and so small that most updates are lost in float16."""
    found = outcomes(requests, name, "gpt2", torch.float16, scale)
    assert found and set(found) <= STATUSES


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_model(requests, model_type):
    for name, dtype in (("memit_seq", torch.float16), ("lyaplock", torch.bfloat16)):
        found = outcomes(requests, name, model_type, dtype)
        assert found and set(found) <= STATUSES
